"""The error that ends the demo with a message."""


class DemoError(Exception):
    """The demo cannot start or go on. The text is for people: what happened and what to do."""
