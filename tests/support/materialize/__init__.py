"""A wire-level double of Materialize for tests and benchmarks: a table of rows for each relation.

It answers the statements that Tocsin sends as the recorded servers did, and lets a test do to it what happens to a real
one: rows change, views break, are dropped, replaced and renamed, replicas go, history is lost, connections are cut.
"""

from support.materialize.errors import NEWEST, RELEASES, ServerError
from support.materialize.protocol import Result
from support.materialize.relation import Relation, encode
from support.materialize.server import MaterializeDouble

__all__ = ["NEWEST", "RELEASES", "MaterializeDouble", "Relation", "Result", "ServerError", "encode"]
