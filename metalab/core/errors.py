"""The one exception that a person causes and can mend."""


class UserError(Exception):
    """Say what was given, what was expected and what to type instead; shown without a traceback, exit code 1."""


class UsageError(Exception):
    """Words on the command line that make no sense; shown like a UserError, with exit code 2."""
