"""Earlier runs on the command line: `eval run=...` and `train resume=...` start from their configuration."""

from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, Quote, QuotedString
from hydra.errors import OverrideParseException
from omegaconf import DictConfig, ListConfig, OmegaConf

from metalab.cli.quoting import quote_override
from metalab.cli.run_sets import expand_runs
from metalab.config import run_config
from metalab.config.paths import at_home
from metalab.config.upgrade import upgrade_config
from metalab.core.errors import UserError
from metalab.tracking.run_folder import find_phases, find_run

GROUPS = ("algo", "data", "backbone", "reg", "attack", "engine", "optim", "task", "experiment", "search")
MANY = ("reg", "attack")  # groups of which several options may be chosen at once
KEY = {  # what names earlier runs, and what they must hold, one of these files
    "train": ("resume", ("last.pt", "best.pt")),  # a run that was killed in its first validation has best.pt alone
    "eval": ("run", ("best.pt",)),
    "compare": ("run", ("best.pt",)),
    "predict": ("run", ("best.pt",)),
    "export": ("run", ("best.pt",)),
    "demo": ("run", ("best.pt",)),
}
TESTED = {"attack", "seed", "device", "resume", "run"}
ANEW = {"train": {"resume"}} | dict.fromkeys(
    ("eval", "compare", "predict", "export", "demo"), TESTED
)  # never taken from them
TRAINING = ("train", "optim", "resume", "experiment", "search")  # what no evaluation reads
OTHERS = ("train.init", "train.boost", "reg.distill.teacher")  # what names an earlier run beside that
ALL, ONE = "_runs_", "_run_"  # names in Hydra's ConfigStore: all runs that are given, and one of them inside a job


def prepare(command: str, words: list[str], multirun: bool) -> tuple[dict[str, str], str]:
    """Return the words to replace, and the primary config.

    Replaced are runs, by their folders ("latest" is looked up once), and what Hydra could not read without quotes.
    Several runs share one primary config, in which the later ones win: it only has to know all their keys, as every
    job composes each of its runs alone (compose_each).
    """
    key, holds = KEY[command]
    replaced: dict[str, str] = {}
    folders: list[Path] = []
    for word in words:
        if (read := quote_override(at_home(word), multirun)) != word:
            replaced[word] = read
        try:
            [override] = OverridesParser.create().parse_overrides([read])
        except OverrideParseException:
            continue  # Hydra will say what is wrong with it
        if not override.key_or_group:
            raise UserError(f"{word}: there is no key; type key=value, as seed=1, or +key=value for one that is new")
        if command != "train" and override.key_or_group.partition(".")[0] in TRAINING:
            raise UserError(f"{word}: metalab {command} trains nothing, and would not read it: leave it out")
        values = _values(override)
        _refuse_lists(word, override.key_or_group, values)
        if override.key_or_group in ("resume", "train.init") and "" in map(_plain, values):
            name = override.key_or_group
            raise UserError(f"{word}: which run? Type {name}=FOLDER or {name}=latest, or leave it out for a new run")
        if override.key_or_group in (key, *OTHERS) and not override.is_delete():
            _refuse_nested(word, values)
            if command == "compare" and override.key_or_group == key:
                values = [expand_runs(str(_plain(item)) for item in _listed(value)) for value in values]
            found = [
                given_file(_plain(value), command) or _located(value, holds)
                if override.key_or_group == key
                else _other_run(word, value)
                for value in values
            ]
            replaced[word] = f"{override.get_key_element()}={','.join(map(_quoted, found))}"
            if override.key_or_group == key:
                listed = [each for item in found for each in (item if isinstance(item, list) else [item])]
                folders += [each for each in listed if each and not given_file(each, command)]
    if not folders:
        return replaced, command
    if command == "train" and (multirun or len(folders) > 1):
        raise UserError("resume goes on with one run, in its own folder: leave out -m, and give one resume=FOLDER")
    if command == "train":
        _refuse_links(folders[0])
    own = {"run": {"dir": str(folders[0])}, "output_subdir": None} if command == "train" else {}
    _register(ALL, command, folders, own)
    return replaced, ALL


def compose_each(cfg: DictConfig, command: str = "eval") -> list[tuple[Path | None, DictConfig]]:
    """Return each run's folder and its configuration under this job's overrides; cfg: the job's.

    Where run=null was typed, with a backbone, there is no run: None and the configuration as it is.
    """
    given = cfg.run
    names = list(given) if isinstance(given, ListConfig) else [given]
    if names == [None] and _without_run(words()):
        return [(None, cfg)]
    if not names or None in names or "" in names:
        raise UserError(
            f"which run? metalab {command} run=outputs/train/..., or run=latest; run=null backbone=torchvision "
            "backbone.name=mobilenet_v2 backbone.weights=DEFAULT takes a pretrained backbone and trains nothing"
        )
    if file := given_file(given, command):
        _refuse_parts(file)
        return [(file, cfg)]
    found = [find_run(str(name)) for name in names]
    if twice := [folder for i, folder in enumerate(found) if folder in found[:i]]:
        raise UserError(f"run: {twice[0]} is given twice, and a mean over runs counts each once")
    return [(folder, compose_run(folder, command, words())) for folder in found]


def compose_run(folder: Path, command: str, typed: list[str]) -> DictConfig:
    """Return a run's configuration under words of the command line."""
    _register(ONE, command, [folder], {})
    own = hydra.compose(ONE, overrides=typed)
    own.run = str(folder)
    return own


def compose_training(folder: Path, typed: list[str]) -> DictConfig:
    """Return the configuration of a training that was begun in a folder, under words of the command line."""
    _register(ONE, "train", [folder], {})
    return hydra.compose(ONE, overrides=typed)


def words_for_other_runs() -> list[str]:
    """Return the words of this job that hold for another run than the one that it was given.

    Beside run=null, the words that choose parts describe the net that comes from no run.
    """
    typed = words()
    if not _without_run(typed):
        return typed
    overrides = OverridesParser.create().parse_overrides(typed)
    return [word for word, each in zip(typed, overrides, strict=True) if each.key_or_group.split(".")[0] not in GROUPS]


def compose_members(cfg: DictConfig, command: str) -> list[tuple[Path | None, DictConfig]]:
    """Return what compose_each does, of a command that takes one run, or with ensemble=mean several as one."""
    return compose_each(cfg, command) if cfg.ensemble is not None else [compose_one(cfg, command)]


def compose_one(cfg: DictConfig, command: str) -> tuple[Path | None, DictConfig]:
    """Return what compose_each does, of a command that takes one run; UserError where run names several."""
    pairs = compose_each(cfg, command)
    if len(pairs) > 1:
        raise UserError(
            f"{command} takes one run, and run names {len(pairs)}; one job for each is -m run=a,b"
            + (", and ensemble=mean takes them as one model" if "ensemble" in cfg else "")
        )
    return pairs[0]


def given_file(value: Any, command: str) -> Path | None:
    """Return the file of run=FILE.onnx, which predict takes in the place of a run's folder; None: it is no such name.

    Raises:
        UserError: where there is no such file.
    """
    if command != "predict" or not str(value).lower().endswith(".onnx") or Path(str(value)).is_dir():
        return None
    if not (file := Path(str(value))).is_file():
        raise UserError(f"run={value}: there is no such file in {Path.cwd()}; metalab export run=RUN writes one")
    return file


def _refuse_parts(file: Path) -> None:
    """Raise UserError for words of this job that change a net, which a file holds as it was exported."""
    for word in words():
        if word.lstrip("+~").partition("=")[0].partition(".")[0] in (*GROUPS, "eval"):
            raise UserError(f"{word}: {file} is as it was exported, and would not read it: leave it out")


def _without_run(typed: list[str]) -> bool:
    """Whether the words of a job say run=null, and which backbone."""
    overrides = OverridesParser.create().parse_overrides(typed)
    null = any(each.key_or_group == "run" and not each.is_delete() and each.value() is None for each in overrides)
    return null and any(each.key_or_group == "backbone" for each in overrides)


def out() -> Path:
    """Return this job's output folder."""
    return Path(HydraConfig.get().runtime.output_dir)


def words() -> list[str]:
    """Return the words of the command line that this job was made with, a sweep's values chosen."""
    return list(HydraConfig.get().overrides.task)


def register_all(command: str, folders: list[Path]) -> None:
    """Make the primary config ALL, which knows the keys of several runs, of which a command goes on with each."""
    for folder in folders:
        _refuse_links(folder)
    _register(ALL, command, folders, {})


def _register(name: str, command: str, folders: list[Path], own: dict[str, Any]) -> None:
    """Give Hydra the folders' configurations as the option `name` of each group and a primary config that picks it."""
    merged = OmegaConf.merge(*map(run_config.read, folders))
    node = OmegaConf.to_container(merged)
    assert isinstance(node, dict)
    node = upgrade_config(node)
    root = {key: value for key, value in node.items() if key not in {*GROUPS, *ANEW[command]}}
    groups = [group for group in GROUPS if group not in ANEW[command] and isinstance(node.get(group), dict)]
    store = ConfigStore.instance()
    for group in groups:
        store.store(name, node[group], group=group)
    defaults = [command, *[{f"override /{group}": name} for group in groups], "_self_"]
    store.store(name, {"defaults": defaults, "hydra": own, **root})


def _refuse_links(folder: Path) -> None:
    """Raise UserError where going on with a run would write through a link in its folder to somewhere else."""
    links = sorted(file.name for file in folder.iterdir() if file.is_symlink())
    if links:
        raise UserError(
            f"{folder} holds a link, {links[0]}, and resume writes into the run's folder, not to where a link leads: "
            "put the file itself in its place"
        )


def _refuse_lists(word: str, group: str, values: list[Any]) -> None:
    """Raise UserError for a word that gives a group what is no name of an option, or several where one is taken."""
    for value in values if group in GROUPS else ():
        items = value if isinstance(value, list) else []
        if isinstance(value, dict) or (group in MANY and not all(isinstance(_plain(item), str) for item in items)):
            example = {"reg": "reg=[l2,dropout]", "attack": "attack=[fgsm,pgd]"}.get(group, f"{group}=NAME")
            raise UserError(f"{word}: expected names of options, as {example}; metalab train --help lists them")
        if group not in MANY and isinstance(value, list):
            options = [str(_plain(item)) for item in value]
            raise UserError(
                f"{group}=[{','.join(options)}]: expected one option, as in {group}={(options or ['...'])[0]}; "
                f"several at once go with {' and '.join(MANY)}, one run for each is -m {group}=a,b"
            )


def _refuse_nested(word: str, values: list[Any]) -> None:
    """Raise UserError for runs that are neither a folder nor a list of folders."""
    items = [item for value in values for item in (value if isinstance(value, list) else [value])]
    if any(isinstance(item, (list, dict)) for item in items):
        raise UserError(f"{word}: expected a folder, or a list of folders, as run=[a,b]")


def _values(override: Override) -> list[Any]:
    """Return what an override sets: one value, or each value of a sweep; a pattern of names is Hydra's to look up."""
    if isinstance(override.value(), Glob):
        return []
    return list(override.sweep_iterator()) if override.is_choice_sweep() else [override.value()]


def _listed(value: Any) -> list[Any]:
    """Return the items of a list; of another value itself, nothing where it is null."""
    return value if isinstance(value, list) else [] if value is None else [value]


def _plain(value: Any) -> Any:
    return value.text if isinstance(value, QuotedString) else value


def _located(value: Any, holds: tuple[str, ...]) -> Any:
    """Return the value of run= or resume= with the folder of each run in its place; None stays."""
    if isinstance(value, list):
        return [_located(item, holds) for item in value]
    if _plain(value) in (None, ""):
        return None
    if holds == KEY["train"][1] and (whole := find_phases(str(_plain(value)))):
        return whole
    return find_run(str(_plain(value)), *holds)


def _other_run(word: str, value: Any) -> Any:
    """Return the folder of a run that is named beside the command's own; UserError, which names the word."""
    try:
        return _located(value, ("best.pt",))
    except UserError as error:
        raise UserError(f"{word}: {error}") from None


def _quoted(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(_quoted, value))}]"
    return "null" if value is None else QuotedString(str(value), Quote.single).with_quotes()
