"""The one exception that a person causes and can mend."""


class UserError(Exception):
    """Say what was given, what was expected and what to type instead; shown without a traceback, exit code 1."""
