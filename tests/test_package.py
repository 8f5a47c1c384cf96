"""The wheel works without the checkout it was built from."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import metalab
from metalab.config.paths import conf_dir

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:  # a pure Python wheel: unpacked is installed
        archive.extractall(folder / "site")
    return folder / "site"


def python(site: Path, cwd: Path, code: str, *words: str) -> str:
    env = {**os.environ, "PYTHONPATH": str(site)}
    env.pop("COMP_LINE", None)
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_wheel_holds_all_of_conf_and_the_command(site):
    shipped = {path.relative_to(site / "metalab/conf") for path in (site / "metalab/conf").rglob("*.yaml")}
    assert shipped == {path.relative_to(conf_dir()) for path in conf_dir().rglob("*.yaml")}
    [info] = site.glob("*.dist-info")
    assert "metalab = metalab.cli:main" in (info / "entry_points.txt").read_text()
    assert info.name == f"metalab-{metalab.__version__}.dist-info"
    assert {path.name for path in site.iterdir()} == {"metalab", "hydra_plugins", info.name}  # no tests, no scripts


def test_wheel_composes_far_from_the_checkout(site, tmp_path):
    where = "import metalab.config.paths as p; print(p.__file__, p.conf_dir())"
    assert python(site, tmp_path, where) == f"{site}/metalab/config/paths.py {site}/metalab/conf\n"
    main = "from metalab.cli import main; main()"
    out = python(site, tmp_path, main, "train", "--cfg", "job", "task=20way5shot", "reg=[l2,dropout]")
    assert "way: 20\n" in out
    assert "metalab.regularizers.Dropout" in out
    searched = python(site, tmp_path, main, "train", "--info", "searchpath")
    assert f"file://{site}/metalab/conf" in searched
    assert str(ROOT) not in searched


def test_wheel_takes_a_part_of_the_users_own(site, tmp_path):
    (tmp_path / "conf/algo").mkdir(parents=True)
    (tmp_path / "conf/algo/mine.yaml").write_text("_target_: my_part.Mine\nlr: 1\n")
    (tmp_path / "my_part.py").write_text(
        "from dataclasses import dataclass\n\n\n@dataclass\nclass Mine:\n    way: int\n    lr: float\n"
    )
    code = (
        "import sys, types, metalab.training\n"
        "from metalab.cli import main\n"
        "from metalab.config.instantiate import build\n"
        "metalab.training.train = types.SimpleNamespace(run=lambda cfg, out: print(build(cfg.algo, 'algo', way=5)))\n"
        "sys.path.remove('')\n"  # as the installed command has it
        "main()"
    )
    assert python(site, tmp_path, code, "train", "--config-dir", "conf", "algo=mine") == "Mine(way=5, lr=1.0)\n"
