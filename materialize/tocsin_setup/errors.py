"""What may go wrong, each with a message for the person at the terminal."""


class SetupError(Exception):
    """Routed as it is, without a traceback; the command ends with 1."""


class ScriptError(SetupError):
    """The SQL files are not as they must be. Says file and line."""


class PlanError(SetupError):
    """What the server holds cannot be brought to what the files say."""


class RuleError(SetupError):
    """A rule cannot be changed as asked."""
