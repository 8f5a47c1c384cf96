"""What metalab leans on inside Hydra is there, and is what it was, in every version that pyproject.toml takes."""

import inspect
import os
import re
from importlib.metadata import requires
from pathlib import Path

import hydra
import pytest
from hydra import compose, initialize_config_dir, version
from hydra._internal import utils
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.errors import ConfigCompositionException, MissingConfigException
from omegaconf import OmegaConf
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import metalab
from metalab.cli import hydra_private
from metalab.config.paths import conf_dir

TRIED = SpecifierSet(">=1.3.2,<1.4")  # with 1.3.2 and 1.3.8; widen it when all tests of this file pass with a new one
QUIET = ("hydra/job_logging=none", "hydra/hydra_logging=none", "hydra.output_subdir=null")


def test_version_is_one_that_was_tried():
    assert hydra.__version__ in TRIED, (
        f"Hydra {hydra.__version__} is new to metalab/cli/hydra_private.py, tried with {TRIED}: see which tests of "
        "this file fail, mend that file, then widen TRIED and hydra-core in pyproject.toml"
    )
    [taken] = [req for req in map(Requirement, requires("metalab") or ()) if req.name == "hydra-core"]
    assert taken.specifier == TRIED


def test_signatures():
    whole = tuple(inspect.signature(utils._run_hydra).parameters.values())
    assert [each.name for each in whole[:5]] == ["args", "args_parser", "task_function", "config_path", "config_name"]
    assert all(each.default is not each.empty for each in whole[5:])
    assert not inspect.signature(utils.get_args_parser).parameters
    assert list(inspect.signature(SourcesRegistry.resolve).parameters) == ["self", "scheme"]


def test_a_sweep_is_split_as_hydra_does_it():
    basic = OmegaConf.create({"_target_": "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"})
    words = ["seed=1,2", "task=5way5shot", "reg=l2,[l2,dropout]"]
    assert hydra_private.split_sweep(basic, words) == [
        ["seed=1", "task=5way5shot", "reg=l2"],
        ["seed=1", "task=5way5shot", "reg=[l2,dropout]"],
        ["seed=2", "task=5way5shot", "reg=l2"],
        ["seed=2", "task=5way5shot", "reg=[l2,dropout]"],
    ]
    with_params = OmegaConf.create({**basic, "params": {"seed": "3,4"}})
    assert hydra_private.split_sweep(with_params, ["task=5way5shot"]) == [
        ["seed=3", "task=5way5shot"],
        ["seed=4", "task=5way5shot"],
    ]
    assert hydra_private.split_sweep(OmegaConf.create({"_target_": "another.Sweeper"}), words) is None


def test_flags_are_read():
    args = hydra_private.args_parser().parse_args(["-m", "--config-dir", "mine", "--resolve", "a=1", "b=2"])
    assert (args.multirun, args.config_dir, args.resolve, args.help) == (True, "mine", True, False)
    assert args.overrides == ["a=1", "b=2"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in {"main.yaml": "a: 1\n", "mine/group/x.yaml": "b: 2\n", "searched/c.yaml": "c: 3\n"}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def run(folder: Path, job, *words: str) -> None:
    parser = hydra_private.args_parser()
    version.setbase("1.3")
    args = parser.parse_args([*words, *QUIET, f"hydra.run.dir={folder}/out"])
    hydra_private.run(args, parser, job, str(folder), "main")


def test_job_gets_what_is_composed(folder):
    got = []
    run(folder, got.append, "a=7")
    assert got == [{"a": 7}]


def test_errors_are_raised(folder, monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")

    def job(cfg):
        raise ZeroDivisionError(cfg.a)

    with pytest.raises(ZeroDivisionError, match="1"):
        run(folder, job)
    with pytest.raises(ConfigCompositionException):
        run(folder, job, "nowhere=1")
    assert os.environ["HYDRA_FULL_ERROR"] == "0"


def test_folders_of_the_command_line_are_told_from_others(folder):
    given = {}

    def job(cfg):
        for place in HydraConfig.get().runtime.config_sources:
            given[place.provider] = place

    run(folder, job, "--config-dir", str(folder / "mine"), f"hydra.searchpath=[file://{folder}/searched]")
    assert {Path(given[name].path).name for name in hydra_private.GIVEN} == {"mine", "searched"}
    assert set(given) - set(hydra_private.GIVEN) == {"hydra", "main", "schema"}
    place = given[hydra_private.GIVEN[0]]
    source = hydra_private.config_source(place.provider, place.schema, place.path)
    assert (source.is_group("group"), source.list("group", ObjectType.CONFIG)) == (True, ["x"])
    assert source.load_config("group/x").config == {"b": 2}


def test_errors_say_what_is_unknown():
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        with pytest.raises(ConfigCompositionException) as key:
            compose("train", ["task.way_=5"])
        with pytest.raises(ConfigCompositionException) as inside:
            compose("train", ["task={way_:5}"])
        with pytest.raises(MissingConfigException) as option:
            compose("train", ["task=6way"])
    for found, expected in (
        (hydra_private.UNKNOWN_KEY.search(str(key.value)), "task.way_"),
        (hydra_private.UNKNOWN_KEY.search(str(inside.value)), "task"),
        (hydra_private.KEY_INSIDE.search(str(inside.value.__cause__)), "task.way_"),
    ):
        assert found is not None
        assert found[1] == expected
    found = hydra_private.UNKNOWN_OPTION.search(str(option.value))
    assert found is not None
    assert (found[1], found[2]) == ("task", "6way")
    assert set(found[3].split()) == {path.stem for path in (conf_dir() / "task").glob("*.yaml")}


def test_no_other_file_reaches_into_hydra():
    root = Path(metalab.__file__).parent
    private = re.compile(
        r"(from|import) (hydra|omegaconf)(\.\w+)*\._|from (hydra|omegaconf)(\.\w+)* import _|HYDRA_FULL"
    )
    assert [path.name for path in root.rglob("*.py") if private.search(path.read_text())] == ["hydra_private.py"]
