"""The settings of the sweeper itself, hydra.sweeper.*, told where they are none before Optuna asserts them."""

from typing import Any

from metalab.core.errors import UserError


def refuse_settings(settings: dict[str, Any]) -> None:
    """Raise UserError for a count that is no whole number above 0, or a share outside of 0 to 1."""
    if not _whole(settings["n_trials"]):
        raise _refusal(settings, "n_trials", "a whole number, 1 or more")
    if not _whole(settings["n_jobs"]) and settings["n_jobs"] != -1:
        raise _refusal(settings, "n_jobs", "a whole number, 1 or more, or -1 for as many as there are cores")
    rate = settings["max_failure_rate"]
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 <= rate <= 1:
        raise _refusal(settings, "max_failure_rate", "a share of a batch's trials, 0 to 1")


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _refusal(settings: dict[str, Any], key: str, expected: str) -> UserError:
    given = "null" if settings[key] is None else settings[key]
    return UserError(f"hydra.sweeper.{key}={given}: expected {expected}")


def joblib_cores() -> int:
    """Return how many jobs joblib runs side by side where it is told -1."""
    import joblib

    return joblib.cpu_count()
