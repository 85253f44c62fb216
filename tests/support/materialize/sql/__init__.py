"""The statements that a client of Materialize sends: what they are, and how they are recognised."""

from support.materialize.sql.parser import relation_name, split, statement
from support.materialize.sql.statements import (
    CloseCursor,
    Constant,
    Copy,
    Deallocate,
    Declare,
    Empty,
    Fetch,
    Name,
    ObjectId,
    Select,
    SetVariable,
    Show,
    Statement,
    Subscribe,
    Transaction,
)

__all__ = [
    "CloseCursor",
    "Constant",
    "Copy",
    "Deallocate",
    "Declare",
    "Empty",
    "Fetch",
    "Name",
    "ObjectId",
    "Select",
    "SetVariable",
    "Show",
    "Statement",
    "Subscribe",
    "Transaction",
    "relation_name",
    "split",
    "statement",
]
