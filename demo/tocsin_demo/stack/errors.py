"""What ends the demo with a message."""


class DemoError(Exception):
    """The demo cannot start or go on. The text says what happened and what to do about it, for people."""
