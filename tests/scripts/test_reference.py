"""The page of all settings says what conf/ says."""

import importlib
import re
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from metalab.cli.help import COMMANDS
from metalab.config.instantiate import flat
from metalab.config.paths import conf_dir

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/reference/configuration.md").read_text(encoding="utf-8")
OPTIONS = sorted((path.parent.name, path.stem) for path in conf_dir().glob("*/*.yaml"))


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module("reference")


def section(heading: str) -> str:
    """Return what stands below a heading, up to the next one of its level or a higher one."""
    level = heading.partition(" ")[0]
    return PAGE.split(f"\n{heading}\n")[1].split(f"\n{level} ")[0].split("\n## ")[0]


def test_the_committed_page_is_what_the_script_prints(script):
    assert script.page() == PAGE, "python scripts/reference.py > docs/reference/configuration.md"


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_key_of_an_option_stands_there(group, option):
    text = (conf_dir() / group / f"{option}.yaml").read_text(encoding="utf-8")
    package = re.match(r"# @package (\S+)", text)
    prefix = {"_global_": ""}.get(package[1], f"{package[1]}.") if package else f"{group}."
    node = {key: None if value == {} else value for key, value in (yaml.safe_load(text) or {}).items()}
    for shared in [name for name in node.get("defaults", ()) if str(name).startswith("/")]:
        node |= yaml.safe_load((conf_dir() / f"{shared[1:].removesuffix('@_here_')}.yaml").read_text(encoding="utf-8"))
    rows = {
        row[1]: row
        for row in re.finditer(r"^\| `(\S+)` \| `(.*?)` \| (.*) \|$", section(f"### {group}={option}"), re.M)
    }
    keys = {key for key in flat(node, prefix) if not key.endswith(("_target_", ".defaults")) and key != "defaults"}
    assert set(rows) == keys
    assert all(row[3].strip() for row in rows.values())  # each is explained


@pytest.mark.parametrize("name", ["train", *(name for name in COMMANDS if name != "train")])
def test_every_key_at_the_root_stands_there(name):
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        cfg = OmegaConf.to_container(compose(name, []), resolve=False)
    assert isinstance(cfg, dict)
    own = ("seed", "device", "resume", "train", "eval", "attack")
    if name != "train":
        own = set(yaml.safe_load((conf_dir() / f"{name}.yaml").read_text(encoding="utf-8"))) - {"defaults", "hydra"}
    keys = set(flat({key: cfg[key] for key in own}))
    heading = "every run" if name == "train" else f"metalab {name} alone"
    rows = set(re.findall(r"^\| `(\S+)` \|", section(f"## Settings of {heading}"), re.M))
    assert {row for row in rows if not row.startswith("hydra.")} == keys
