"""What Hydra says of a word it cannot take, in one message with the nearest word that it could."""

import os
import sys
from typing import Any, NoReturn

from hydra import compose, initialize_config_dir
from hydra.errors import CompactHydraException
from omegaconf import OmegaConf

from metalab.cli import sweeps
from metalab.cli.hydra_private import FULL_ERROR, KEY_INSIDE, UNKNOWN_KEY, UNKNOWN_OPTION
from metalab.config.paths import conf_dir
from metalab.config.validate import suggest
from metalab.core.errors import UserError

# hydra/launcher's options, and the extra that each comes with
LAUNCHERS = {"joblib": "sweep", "submitit_local": "slurm", "submitit_slurm": "slurm", "ray": "ray", "ray_aws": "ray"}
FOLDER = "hydra.run.dir=/path/to/a/folder"


def explain_hydra_error(error: BaseException, command: str, words: list[str]) -> str:
    """Return the error's message; where a key or an option is unknown, with the nearest that is there."""
    said, cause = str(error), error.__cause__
    if isinstance(cause, OSError) and "Unable to configure handler" in said:  # the log file
        return (
            f"{cause.filename} cannot be written ({cause.strerror}): give a folder that you may write to, as {FOLDER}"
        )
    if found := UNKNOWN_OPTION.search(said):
        group, option, listed = found.groups()
        if group == "hydra/launcher" and option in LAUNCHERS:
            return f"hydra/launcher={option} is an extra: type pip install 'metalab[{LAUNCHERS[option]}]'"
        return f"{group}={option}: there is no such option.{suggest(option, listed.split())}"
    if found := UNKNOWN_KEY.search(said):
        key = found.group(1)
        if (inside := KEY_INSIDE.search(str(error.__cause__))) and inside.group(1).startswith(f"{key}."):
            return f"{inside.group(1)}: there is no such setting. {said.splitlines()[-1]}"
        return f"{key}: there is no such setting.{_nearest(key, command, words)}"
    return said


def leave(error: Exception, name: str, words: list[str]) -> NoReturn:
    """Leave with a message for what Hydra raised; of jobs that failed the summary of the sweep tells."""
    told = any(job.state in ("failed", "stopped") for job in sweeps.jobs())
    if told and type(error) is CompactHydraException:  # that of a job; others are the sweep's own
        sys.exit(1)
    if os.environ[FULL_ERROR] == "1":
        raise error
    raise UserError(explain_hydra_error(error, name, words)) from error


def leave_launcher(error: Exception) -> NoReturn:
    """Leave with a message for what broke the launcher of a sweep; what is a defect is raised again."""
    if not sweeps.jobs() or os.environ[FULL_ERROR] == "1":
        raise error
    said = (str(error).strip().splitlines() or [""])[0]
    raise UserError(f"the launcher of the sweep broke off: {type(error).__name__}: {said}") from error


def _nearest(key: str, command: str, words: list[str]) -> str:
    """Say what the deepest group on the way to a key does hold, under the other words of the command line."""
    others = [word for word in words if word.partition("=")[0].lstrip("+~") != key]
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
            node: Any = compose(command, others)
    except Exception:  # another word is wrong as well, and is told next
        return ""
    where, names = "", key.split(".")
    for name in names:
        if not OmegaConf.is_dict(node) or name not in node:
            break
        node, where = node[name], f"{where}.{name}".lstrip(".")
    else:
        return ""
    name = names[where.count(".") + 1 if where else 0]
    if where in ("reg", "attack") and len(names) > 2:
        return f" {name} is not chosen: type {where}={name} as well"
    return suggest(name, map(str, node) if OmegaConf.is_dict(node) else (), where)
