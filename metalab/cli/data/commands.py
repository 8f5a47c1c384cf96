"""The five verbs of `metalab data`, each on one data set of conf/data composed with the user's settings."""

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from metalab.cli.data import clean, contact_sheet, embedding, listing
from metalab.cli.data.leak_report import format_leak_report, write_leak_report
from metalab.config.image_preparation import fill_preparation, preparation_fields
from metalab.config.instantiate import build, plain_group, settings
from metalab.config.paths import conf_dir, given_path
from metalab.config.schema import Eval, Task
from metalab.config.validate import suggest
from metalab.core.errors import UsageError, UserError
from metalab.core.interfaces import Split
from metalab.data.class_lists import SPLITS
from metalab.data.datasets.folder import Folder
from metalab.data.datasets.union import Union
from metalab.data.identity import leaks
from metalab.data.storage.store import NoSplit, cache_folder, verifying
from metalab.evaluation.protocols.build import evaluation_protocol

OWN = {"check": ("out",), "show": ("what", "split", "out", "method")}  # settings of a verb, beside data.* and others


def run(verb: str, words: list[str]) -> int:
    """Do what `metalab data VERB WORDS` asks; return the exit code: 0, or 1 for a class in two splits.

    UserError for a mistake, UsageError where the words make no sense.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    folder, words = _config_dir(words)
    if verb == "clean":
        return clean.run(words, cache_folder(None))
    if verb == "list":
        listing.print_datasets(_options(folder), cache_folder(None))
        return 0
    name, *rest = words or [""]
    options = _options(folder)
    if name not in options:
        near = suggest(name, options) if name else ""
        raise UsageError(f"metalab data {verb} NAME, not '{name}'.{near} NAME is one of: {', '.join(options)}")
    own, given = _parted(verb, rest)
    cfg = _composed(name, given, folder)
    if verb == "prepare":
        for split, found in _loaded(_data(cfg).load).items():
            print(f"{name} {split}: {len(found.ids):,} classes, {len(found.images):,} images {found.note}".rstrip())
        return 0
    if verb == "show":
        print(_shown(cfg, name, own))
        return 0
    return _checked(cfg, name, own.get("out"))


def _checked(cfg: DictConfig, name: str, out: str | None) -> int:
    data = _data(cfg)
    if isinstance(data, Folder | Union):
        splits = _loaded(data.unrefused)
        unreadable = dict.fromkeys(file for split in SPLITS for file in data.unreadable(split))
        found = leaks.search(splits, data.excused, unreadable)
    else:
        splits = _loaded(data.load)
        if "train" in splits and (target := splits["train"].target) is not None:
            splits[leaks.UNLABELLED] = leaks.unlabelled_split(target)
        found = leaks.search(splits)
    print(format_leak_report(name, splits, found))
    if out is not None:
        write_leak_report(given_path(out, "out", "FOLDER"), splits, found)
    return 1 if found.across else 0


def _shown(cfg: DictConfig, name: str, own: dict[str, str]) -> Path:
    what, split = own.get("what", "sheet"), own.get("split", "test")
    if what not in ("sheet", "episode", "embedding"):
        raise UsageError(f"what={what}: expected what=sheet (images of many classes), what=episode or what=embedding")
    if (method := own.get("method", "pca")) not in embedding.METHODS:
        raise UsageError(f"method={method}: expected method=pca or method=tsne")
    if split not in SPLITS:
        raise UsageError(f"split={split}: expected split=train, split=val or split=test")
    path = given_path(own.get("out", f"{name}_{split}_{what}.png"), "out", "picture.png").absolute()
    if what == "embedding":
        backbone = build(plain_group(cfg.backbone, "backbone"), "backbone")
        node = fill_preparation(plain_group(cfg.data, "data"), preparation_fields(backbone))
        figure = embedding.embedding(build(node, "data").load(split), backbone, node, method, cfg.seed)
        with contact_sheet.writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, dpi=120)
        return path
    data = _data(cfg).load(split)
    protocol = evaluation_protocol(data)
    task, _ = protocol.sized(settings(Task, cfg.task, "task"), settings(Eval, cfg.eval, "eval"), data)
    rows = contact_sheet.classes(data) if what == "sheet" else contact_sheet.episode(data, task, cfg.seed)
    contact_sheet.save(contact_sheet.drawn(rows), path)
    return path


def _data(cfg: DictConfig) -> Any:
    """Build the data set; there is no backbone, whose size a folder would take."""
    return build(fill_preparation(plain_group(cfg.data, "data")), "data")


def _loaded(load: Callable[[str], Split]) -> dict[str, Split]:
    """Return the splits that the data set has; UserError where it has none."""
    splits: dict[str, Split] = {}
    reasons: dict[str, NoSplit] = {}
    with verifying():
        for name in SPLITS:
            try:
                splits[name] = load(name)
            except NoSplit as error:
                reasons[name] = error
    if not splits:
        raise next(iter(reasons.values()))
    for name, reason in reasons.items():
        print(f"no {name} split: {reason}")
    return splits


def _options(folder: str | None) -> dict[str, Path]:
    """Return the YAML file of each data set, the user's own first."""
    folders = [conf_dir(), *([Path(folder)] if folder else [])]
    found = {path.stem: path for each in folders for path in sorted((each / "data").glob("*.yaml"))}
    return dict(sorted(found.items()))


def _config_dir(words: list[str]) -> tuple[str | None, list[str]]:
    """Return the folder after --config-dir, absolute, and the other words."""
    if "--config-dir" not in words:
        return None, words
    at = words.index("--config-dir")
    given = "".join(words[at + 1 : at + 2]).strip()
    folder = given_path(given or ".", "--config-dir", "my_conf").absolute()
    if not given or not (folder / "data").is_dir():
        raise UsageError(f"--config-dir FOLDER: expected a folder that holds data/*.yaml, not {folder}")
    return str(folder), words[:at] + words[at + 2 :]


def _parted(verb: str, words: list[str]) -> tuple[dict[str, str], list[str]]:
    """Return the verb's own settings, and the others, which Hydra composes."""
    own, given = {}, []
    for word in words:
        key, equals, value = word.partition("=")
        root = key.lstrip("+~").partition(".")[0].partition("@")[0]  # +data@data.members.omniglot=omniglot
        if equals and value and key in OWN.get(verb, ()):
            own[key] = value
        elif equals and (
            (root == "data" and key != "data") or (verb == "show" and root in ("task", "seed", "backbone"))
        ):
            given.append(word)
        else:
            more = "".join(f", {each}=" for each in OWN.get(verb, ())) + (
                ", task., seed=, backbone=" if verb == "show" else ""
            )
            raise UsageError(f"'{word}': metalab data {verb} NAME takes data.KEY=VALUE{more}")
    return own, given


def _composed(name: str, words: list[str], folder: str | None) -> DictConfig:
    own = [f"hydra.searchpath=[file://{folder}]"] if folder else []
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
            plain = [] if any(word.startswith("backbone=") for word in words) else ["backbone=pixels"]
            cfg = compose("train", [*own, f"data={name}", *plain, *words])
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(str(error)) from error
    if folder or any("_target_" in word for word in words):
        sys.path.append(os.getcwd())  # a user's own data set may lie here; last, so that it hides nothing
    return cfg
