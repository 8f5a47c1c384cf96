"""What a row and seed leave: one small json, from the files of its run and its evaluations."""

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from reproduce_rows import Row

from metalab.tracking.run_folder import generations_in

# settings that say nothing of a row
EVERY = ("experiment", "data.root", "train.minutes", "hydra.run.dir", "resume")
DROPPED = ("run", "checkpoint", "seed", "train_seed", "hardest_classes", "classes")  # of eval.json


def path_of(results: Path, row: Row, seed: int) -> Path:
    """Return where the json of a row and seed lies."""
    return results / row.table / f"{row.name}.seed{seed}.json"


def folder_of(out: Path, row: Row, seed: int) -> Path:
    """Return where a row and seed is trained."""
    return out / row.table / row.name / f"seed{seed}"


def eval_folder(folder: Path, key: str) -> Path:
    """Return where an evaluation of a run lies."""
    return folder / ("eval_" + re.sub(r"[^A-Za-z0-9.]+", "-", key).strip("-")).rstrip("_")


def further(made: dict[str, Any]) -> list[str]:
    """Return a training's settings beside those of every row, experiment, root and minutes; a resume's come last."""
    commands = [made["command"], *(resumed["command"] for resumed in made.get("resumes", []))]
    words = dict(word.split("=", 1) for command in commands for word in shlex.split(command)[2:] if "=" in word)
    return [f"{key}={value}" for key, value in words.items() if key not in EVERY]


def read(path: Path) -> dict[str, Any] | None:
    """Return the json, or None where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def finished(held: dict[str, Any] | None, row: Row) -> bool:
    """Whether a json says that a row is trained to its end and has all its evaluations."""
    if held is None or held["steps"] is None or held["steps"] < held["planned"]:
        return False
    return not set(row.evaluations) - set(held["evaluations"])


def collected(row: Row, seed: int, folder: Path, commit: str | None = None) -> dict[str, Any] | None:
    """Return what a run's folder holds for the tables; None where nothing was trained.

    commit: of the code, where it is no checkout that could say it.
    """
    runs = generations_in(folder) or [folder]
    run = runs[-1]  # of born-again nets the last one is what was wanted
    made = read(run / "run.json")
    if made is None or "steps" not in made:
        return None
    whole = run == folder or run.name == f"generation{OmegaConf.load(folder / 'config.yaml').train.generations - 1}"  # type: ignore[union-attr]
    resumes = made.get("resumes", [])
    held = {key: read(eval_folder(folder, key) / "eval.json") for key in row.evaluations}
    evaluations = {
        key: {k: v for k, v in found.items() if k not in DROPPED} for key, found in held.items() if found is not None
    }
    starts = [{**each, "command": _placed(each["command"], folder)} for each in (made, *resumes)]
    settings = list(row.train) if row.untrained else further({"command": starts[0]["command"], "resumes": starts[1:]})
    return {
        "row": row.full,
        "seed": seed,
        "origin": "measured",
        "date": (resumes or [made])[-1]["started"][:10],
        "commit": list(dict.fromkeys(_commit(each) or commit for each in starts)),
        "device": list(dict.fromkeys(each["gpu"] or each["processor"] for each in starts)),
        "threads": made["threads"],
        "versions": starts[-1]["versions"],
        "parameters": made["parameters"],
        "seconds": sum((read(each / "run.json") or {}).get("seconds", 0) for each in runs),
        "steps": made["steps"] if whole else 0,  # of a teacher alone: its student is still to come
        "planned": 0 if row.untrained else OmegaConf.load(run / "config.yaml").train.steps,  # type: ignore[union-attr]
        "settings": [w for w in [*_experiment(starts[0]), *settings] if w.partition("=")[0] not in ("seed", "device")],
        "commands": [each["command"] for each in starts],
        "evaluations": evaluations,  # by what is typed behind `metalab eval run=RUN`
    }


def write(path: Path, record: dict[str, Any]) -> bool:
    """Write the json, unless the one that is there is of a longer training; whether it was written."""
    old = read(path)
    if old is not None and old["origin"] == "measured" and (old["steps"] or 0) > record["steps"]:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    new.replace(path)
    return True


def _commit(made: dict[str, Any]) -> str | None:
    """Return the commit of a run's code; jsons and runs beside it, which make a checkout dirty, are no change to it."""
    git = made["git"]
    return None if git is None else git["commit"] + (", with changes" if git["dirty"] and _changed() else "")


def _changed() -> bool:
    code = ["git", "-C", str(Path(__file__).parents[1]), "status", "--porcelain", "--", "metalab", "conf", "scripts"]
    return bool(subprocess.run(code, capture_output=True, text=True).stdout)


def _experiment(made: dict[str, Any]) -> list[str]:
    return [word for word in shlex.split(made["command"]) if word.startswith("experiment=")]


def _placed(command: str, folder: Path) -> str:
    """Return a command with the places of this machine's data and runs in words that hold on all."""
    words = [re.sub(r"^data\.root=.*?([^/]+)/?$", r"data.root=DATA/\1", word) for word in shlex.split(command)]
    return shlex.join([word.replace(str(folder.parents[2]), "RUNS") for word in words])
