"""The rows of reproduce.yaml: what is trained, what is evaluated, what was published."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

ROWS = Path(__file__).with_name("reproduce.yaml")
BAR = 1.5  # points below what is published
SMOKE = (  # of every training of a smoke
    *("train.steps=2", "train.val_every=1", "train.val_episodes=2", "train.log_every=1", "train.meta_batch=1"),
    *("task.way=5", "task.train_way=null", "task.query=2", "task.train_query=null", "eval.batch=2", "eval.episodes=2"),
)
SMALL = {"pgd": ["attack.pgd.steps=2"], "auto": ["attack.auto.steps=2", "attack.auto.queries=2"]}  # attacks of a smoke


class Mistake(Exception):
    """What was typed, or stands in reproduce.yaml, makes no sense."""


@dataclass(frozen=True)
class Number:
    """A line of a table: one number of one evaluation, beside what was published."""

    method: str | None = None  # what the line is called; None: as its row
    eval: tuple[str, ...] = ()  # further settings of `metalab eval`
    seconds: float = 30.0  # that the evaluation takes on one H100, as expected
    task: str | None = None  # None: way and shot of the evaluation
    presentation: int | None = None  # which one of a sequence
    attack: str | None = None  # the accuracy under this attack of the evaluation, at eps; None: the clean one
    eps: float | None = None  # in 255ths
    published: str | None = None  # per cent, as the source prints it; None: not at this task, or as `told` says
    source: str = ""
    told: str = "none"
    bar: float | None = -1.0  # what is to be reached; -1: the published number less BAR, or 90 where there is none

    @property
    def key(self) -> str:
        """The evaluation, in one word or none."""
        return " ".join(self.eval)

    @property
    def published_percent(self) -> float | None:
        """What was published, without its interval."""
        return None if self.published is None else float(self.published.split()[0])

    @property
    def least(self) -> float | None:
        """What is to be reached, per cent."""
        if self.bar != -1.0:
            return self.bar
        return 90.0 if self.published_percent is None else self.published_percent - BAR


@dataclass(frozen=True)
class Row:
    """One training, its evaluations and the lines that they make."""

    table: str
    name: str
    method: str
    train: tuple[str, ...]  # what is typed behind `metalab train`
    numbers: tuple[Number, ...]
    minutes: float = 5.0  # of training that its whole length takes on one H100, as expected
    seeds: int = 1  # that are wanted
    init: str | None = None  # the row of this table whose best weights are the start
    run: bool = True  # false: shown from its json alone
    untrained: bool = False  # nothing is trained, and train is what is typed behind `metalab eval run=null`
    data: str | None = None  # the data set, and its folder, where they are not the table's
    root: str | None = None

    @property
    def full(self) -> str:
        return f"{self.table}/{self.name}"

    @property
    def evaluations(self) -> dict[str, Number]:
        """The first number of each evaluation, by its key, in their order."""
        found: dict[str, Number] = {}
        for number in self.numbers:
            found.setdefault(number.key, number)
        return found


def load(path: Path = ROWS) -> tuple[dict[str, dict[str, Any]], list[Row]]:
    """Return the tables by name and all rows in their order; Mistake where the file is wrong."""
    held = yaml.safe_load(path.read_text(encoding="utf-8"))
    tables, rows = held["tables"], [_row(node, path) for node in held["rows"]]
    known = {row.full: row for row in rows}
    if len(known) != len(rows):
        raise Mistake(f"{path}: two rows of a table have one name")
    for row in rows:
        start = known.get(f"{row.table}/{row.init}")
        if row.table not in tables or (row.init and (start is None or start.init)):
            raise Mistake(f"{path}: {row.full} is of a table, or goes on from a row, that is not there")
    return tables, rows


def chosen(rows: list[Row], tables: Iterable[str] | None, only: Iterable[str] | None) -> list[Row]:
    """Return the rows of these tables and names that are run; None: all. A name is NAME or TABLE/NAME."""
    for name in only or ():
        if not any(name in (row.name, row.full) for row in rows):
            there = ", ".join(row.full for row in rows if not tables or row.table in tables)
            raise Mistake(f"--only {name}: no such row; there are {there}")
    found = [row for row in rows if row.run and (not tables or row.table in tables)]
    return [row for row in found if not only or {row.name, row.full} & set(only)]


def data_root(given: list[str] | None, folder: str | None) -> str | None:
    """Return the folder of a data set below --root, or as --root names it; None where metalab is to find it."""
    words = given or [where for where in [os.environ.get("METALAB_SHARED_DATA")] if where]
    named = dict(word.split("=", 1) for word in words if "=" in word)
    plain = [word for word in words if "=" not in word]
    if folder is None or not words:
        return None
    if folder in named:
        root = Path(named[folder]).expanduser()
    elif plain:
        root = Path(plain[0]).expanduser() / folder
    else:
        return None
    if not root.is_dir():
        raise Mistake(f"no folder {root}: --root names the folder that holds {folder}, or {folder}=FOLDER")
    return str(root)


def train_words(row: Row, seed: int, root: str | None, smoke: bool) -> list[str]:
    """Return what is typed behind `metalab train` for a row, but for its minutes and its folder."""
    words = list(row.train)
    if smoke:
        cut = {word.partition("=")[0] for word in SMOKE}
        words = [word for word in words if word.partition("=")[0] not in cut] + list(SMOKE)
    if smoke and root is None:  # the embedded glyphs in the place of what is not here
        words = [word for word in words if not re.match(r"data[.=]", word)] + ["data=glyphs"]
    return [*words, *([f"data.root={root}"] if root else []), f"seed={seed}"]


def prepare_words(row: Row, data: str, root: str | None, smoke: bool) -> list[str]:
    """Return what is typed behind `metalab data prepare` for the data of a row."""
    if smoke and root is None:
        return ["glyphs"]
    return [data, *(word for word in row.train if word.startswith("data.")), *([f"data.root={root}"] if root else [])]


def eval_words(row: Row, number: Number, root: str | None, smoke: bool) -> list[str]:
    """Return what is typed behind `metalab eval run=RUN` for an evaluation, or behind `metalab eval run=null`."""
    words = [*(row.train if row.untrained else ()), *number.eval]
    if smoke:
        small = [word for name, more in SMALL.items() if any(name in w for w in words) for word in more]
        cut = {word.partition("=")[0] for word in ["eval.episodes=2", *small]}
        words = [word for word in words if word.partition("=")[0] not in cut] + ["eval.episodes=2", *small]
        if root is None:
            words = [word for word in words if not re.match(r"data[.=]", word)]
    return [*words, *([f"data.root={root}"] if root else [])]


def _row(node: dict[str, Any], path: Path) -> Row:
    values = dict(node)
    name = f"{values.get('table')}/{values.get('name')}"
    numbers = tuple(Number(**_checked(Number, each, path, name)) for each in values.pop("numbers", [{}]))
    return Row(numbers=numbers, **_checked(Row, values, path, name))


def _checked(cls: type, node: dict[str, Any], path: Path, name: str) -> dict[str, Any]:
    """Return the values of a dataclass, with its words, which may be lists of lists, as flat tuples."""
    wrong = set(node) - {field.name for field in fields(cls)}
    if wrong:
        raise Mistake(f"{path}, row {name}: no such key: {', '.join(sorted(wrong))}")
    return {key: tuple(_flat(value)) if key in ("train", "eval") else value for key, value in node.items()}


def _flat(words: Any) -> list[str]:
    return words.split() if isinstance(words, str) else [word for each in words for word in _flat(each)]
