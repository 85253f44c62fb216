"""A wire-level double of Materialize for tests and benchmarks.

It answers as the recorded server did, byte for byte where that matters, and lets a test do to it what happens to a real
one: rows change, views break, are dropped, replaced and renamed, replicas go, history is lost, connections are cut at
any byte.
"""

from support.materialize.catalog import Cluster, Relation
from support.materialize.errors import ServerError
from support.materialize.server import MaterializeDouble, wall_clock

__all__ = ["Cluster", "MaterializeDouble", "Relation", "ServerError", "wall_clock"]
