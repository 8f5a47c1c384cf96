"""What a search varies: ranges as Hydra means them, and the keys by which trials are measured."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import RangeSweep

from metalab.core.errors import UserError

pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="metalab[sweep] is not installed")


@pytest.mark.parametrize(
    "text", ["range(1,3)", "range(4)", "range(1,10,3)", "range(2,3)", "range(9,1,-2)", "range(0.1,0.5,0.1)"]
)
def test_a_range_is_what_hydra_sweeps(text):
    import optuna

    from metalab.cli.search import space

    override = OverridesParser.create().parse_override(f"optim.lr={text}")
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    made = space.distribution(override)
    drawn = {study.ask()._suggest("optim.lr", made) for _ in range(80)}
    value = override.value()
    assert isinstance(value, RangeSweep)
    meant = sorted(value.range())
    assert sorted(drawn) == pytest.approx(meant)
    assert [each["optim.lr"] for each in space.grid({"optim.lr": made})] == pytest.approx(meant)


def test_an_empty_range_is_refused():
    from metalab.cli.search import space

    with pytest.raises(UserError, match=r"^algo\.steps=range\(3,3\): this range is empty"):
        space.read_words(None, ["algo.steps=range(3,3)"])


def test_a_grid_has_whole_numbers_up_to_the_end_of_an_interval():
    from metalab.cli.search import space

    found, _ = space.read_words({"algo.steps": "int(interval(1,3))", "algo.first_order": "true,null"}, [])
    assert space.grid(found) == [
        {"algo.steps": step, "algo.first_order": each} for step in (1, 2, 3) for each in (True, "null")
    ]


@pytest.mark.parametrize(
    "key",
    [
        *("task", "task.way", "task.shots", "task.support", "task.query_balance", "task.unlabelled", "+task.shot"),
        *("data", "data.size", "seed", "train.val_episodes", "train.monitor", "eval.split", "eval.bn", "experiment"),
    ],
)
def test_what_is_measured_is_not_varied(key):
    from metalab.cli.search.space import refuse_measures

    name = key.lstrip("+")
    with pytest.raises(UserError, match=f"^the search varies {name}, by which .* Type one value, as {name}=VALUE"):
        refuse_measures(["optim.lr", key], "the search")


def test_what_trains_is_varied():
    from metalab.cli.search.space import refuse_measures

    refuse_measures(["task.train_way", "train.meta_batch", "reg", "algo", "backbone.filters", "eval.tent"], "it")
    with pytest.raises(UserError, match=r"VALUE, or vary task\.train_shot, which is of training alone$"):
        refuse_measures(["task.shot"], "the search")
