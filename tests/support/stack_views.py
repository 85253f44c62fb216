"""The views that Tocsin reads in the full stack, with the types that Materialize gives their columns.

Written down once, for the tests with a double of Materialize. `tests/shipped/test_materialize_views.py` holds
them against the SQL, and `tests/live` against a running server.
"""

VIEWS = {
    "demo.organization_alert": (
        ("alert_name", "text"),
        ("organization", "text"),
        ("severity", "text"),
        ("owner", "text"),
        ("deployment_cnt", "int8"),
        ("customer_cnt", "int8"),
    ),
    "demo.active_alerts": (
        ("alert_name", "text"),
        ("auction_id", "int4"),
        ("item_name", "text"),
        ("price", "numeric"),
        ("bidder", "text"),
        ("severity", "text"),
    ),
    "demo.rejected_events": (
        ("topic", "text"),
        ("partition", "int4"),
        ("offset", "uint8"),
        ("reason", "text"),
        ("sample", "text"),
        ("received_at", "timestamp"),
    ),
}

NAMES = {
    "int4": "integer",
    "int8": "bigint",
    "numeric": "numeric",
    "text": "text",
    "timestamp": "timestamp without time zone",
    "uint8": "uint8",
}
"""The types as a catalog spells them."""
