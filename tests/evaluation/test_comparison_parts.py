"""What makes a method, what makes runs comparable, and how methods are ranked, on numbers made up for it."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from metalab.config.schema import Compare
from metalab.evaluation import compare
from metalab.evaluation.comparison.comparability import verdicts
from metalab.evaluation.comparison.measured import Measured
from metalab.evaluation.comparison.methods import differing_settings, group_methods, run_labels
from metalab.evaluation.comparison.ranking import rank
from metalab.tracking.comparison.figures import cliques
from metalab.tracking.comparison.records import Method, RunResult

EPISODES = {"data": "tiny", "shot": 1, "images of the episodes": "ab"}
CONDITIONS = {"transductive": False, "trained on test classes": False, "image size": "16x16", "batch norm": "running"}


def result(accuracy: np.ndarray, paired: bool = True, ranked: bool = True) -> RunResult:
    return RunResult("folder", {}, accuracy, None, [], [], paired, ranked)


def test_runs_that_differ_in_seed_alone_are_one_method():
    one, other = {"algo": {"name": "maml", "lr": 0.1}, "seed": 0}, {"algo": {"name": "maml", "lr": 0.2}, "seed": 0}
    runs = [one, other, {**one, "seed": 1}, one]
    methods = group_methods(runs, [0, 0, 1, 0], ["a", "b", "c", "d"])
    assert [(method.runs, method.seeds) for method in methods] == [((0, 2), (0, 1)), ((1,), (0,)), ((3,), (0,))]
    assert [method.label for method in methods] == ["maml algo.lr=0.1 (a)", "maml algo.lr=0.2", "maml algo.lr=0.1 (d)"]
    labels = run_labels(methods, 4)
    assert (labels[0], labels[1]) == ("maml algo.lr=0.1 (a), seed 0", "maml algo.lr=0.2")
    assert differing_settings([one, other]) == {"algo.lr": [0.1, 0.2]}


def test_an_older_run_of_the_same_settings_is_the_same_method():
    """Episodes that run together change no result, and without LoRA its settings say nothing."""
    old = {"algo": {"name": "maml"}, "backbone": {"name": "x"}, "eval": {"batch": 8}, "seed": 0}
    new = {
        **old,
        "backbone": {"name": "x", "lora": None, "lora_on": "all", "lora_alpha": None},
        "eval": {"batch": None},
    }
    [method] = group_methods([old, {**new, "seed": 1}], [0, 1], ["a", "b"])
    assert method.runs == (0, 1)
    assert differing_settings([old, new]) == {}
    added = {**new, "backbone": {**new["backbone"], "lora": 4}}
    assert len(group_methods([new, {**added, "seed": 1}], [0, 1], ["a", "b"])) == 2


def test_what_most_runs_share_is_the_rule():
    others = [{**EPISODES, "shot": 5}, EPISODES, EPISODES]
    found = verdicts(others, [CONDITIONS] * 3)
    assert [each.paired for each in found] == [False, True, True]
    assert found[0].remarks == ["shot 5 (the others: 1)"]


@pytest.mark.parametrize(
    ("change", "ranked", "words"),
    [
        ({"batch norm": "support"}, True, "batch norm support (the others: running)"),
        ({"image size": "32x32"}, False, "image size 32x32 (the others: 16x16)"),
        ({"trained on test classes": True}, False, "trained on classes of the test (overlap)"),
        ({"transductive": True, "batch norm": "batch"}, False, "transductive: queries normalized by"),
    ],
)
def test_conditions_are_told_and_the_unfair_ones_not_ranked(change, ranked, words):
    _, _, found = verdicts([EPISODES] * 3, [CONDITIONS, CONDITIONS, CONDITIONS | change])
    assert found.paired
    assert found.ranked == ranked
    [remark] = found.remarks
    assert remark.startswith(words)


def test_a_clean_run_is_the_rule_beside_runs_that_saw_the_test():
    stamped = {**CONDITIONS, "trained on test classes": True}
    assert [each.ranked for each in verdicts([EPISODES] * 3, [stamped, stamped, CONDITIONS])] == [False, False, True]
    assert all(each.ranked for each in verdicts([EPISODES] * 2, [stamped, stamped]))


def test_significance_is_over_seeds_where_all_have_several():
    draw = np.random.default_rng(0)
    hard = draw.random(50)
    runs = [result(hard + shift) for shift in (0.301, 0.303, 0.1, 0.101, 0.302, 0.304)]
    methods = [Method("a", (0, 1), (0, 1)), Method("b", (2, 3), (0, 1)), Method("c", (4, 5), (5, 6))]
    rows, level = rank(methods, runs, "episodes", 0.05)
    assert level == "seeds"
    assert [row.method.label for row in rows] == ["c", "a", "b"]
    by_label = {row.method.label: row for row in rows}
    assert not by_label["b"].seeds_paired  # c has other seeds
    assert by_label["a"].seeds is not None
    assert by_label["a"].seeds.mean == pytest.approx(-0.001)
    assert by_label["a"].significant is False
    assert by_label["b"].significant is True
    same, _ = rank(methods[:2], runs, "episodes", 0.05)
    assert same[1].seeds_paired
    alone, level = rank([methods[0], Method("d", (2,), (0,))], runs, "episodes", 0.05)
    assert level == "episodes"
    assert alone[1].seeds is None


def test_an_unranked_method_is_neither_best_nor_corrected_for():
    draw = np.random.default_rng(1)
    base = draw.random(40)
    runs = [result(base), result(base + draw.normal(-0.02, 0.05, 40)), result(base + 0.3, ranked=False)]
    rows, _ = rank([Method(name, (i,), (0,)) for i, name in enumerate("abc")], runs, "episodes", 0.05)
    assert [row.method.label for row in rows] == ["a", "b", "c"]
    assert rows[0].best
    assert rows[1].episodes is not None
    assert rows[1].episodes_holm == rows[1].episodes.p  # one comparison, not two
    assert rows[2].episodes is not None
    assert rows[2].episodes.mean == pytest.approx(0.3)
    assert (rows[2].episodes_holm, rows[2].significant) == (None, None)


def test_bars_join_what_is_within_the_critical_difference():
    assert cliques([1.0, 1.5, 2.2, 3.9], 1.0) == [(0, 1), (1, 2)]
    assert cliques([1.0, 3.0], 1.0) == []
    assert cliques([1.0, 1.2, 1.4], 1.0) == [(0, 2)]


def test_the_heading_counts_the_episodes_of_the_runs_that_are_compared(tmp_path, monkeypatch):
    record = {"episodes": 12, "way": 5, "shot": 1, "query": 15, "split": "test", "seed": 0, "data": "tiny"}
    record |= {"query_balance": "dirichlet", "dirichlet": 2.0}
    measured = [
        Measured({**record, "episodes": n}, np.full(n, 0.5), None, [], [], [], list, {"episodes": n}, CONDITIONS)  # type: ignore[arg-type]
        for n in (7, 12, 12)
    ]
    left = iter(measured)
    monkeypatch.setattr(compare, "measure_run", lambda *_: next(left))
    methods = [Method(name, (i,), (0,)) for i, name in enumerate("abc")]
    given: list[Any] = [None] * 3
    found = compare._on_data("", [tmp_path] * 3, given, methods, list("abc"), Compare(None, 0.05, 0))
    assert found.task == (
        "5-way 1-shot, 75 queries in all, classes by Dirichlet(2), 12 episodes of the test split, seed 0"
    )


def test_the_seeds_that_are_counted_are_those_of_ranked_methods():
    many, one = Method("many", tuple(range(5)), tuple(range(5))), Method("one", (5,), (0,))
    rows = [
        SimpleNamespace(method=many, ranked=True, remarks=[]),
        SimpleNamespace(method=one, ranked=False, remarks=[]),
    ]
    data: Any = SimpleNamespace(level="seeds", rows=rows, name="tiny")
    notes = compare._notes([many, one], [data])
    assert notes[0] == "Every ranked method has several seeds: significance is about the methods, over seeds."


def test_a_run_of_an_older_version_and_one_of_today_are_seeds_of_one_method(small, tmp_path):
    for name, seed in (("older", 0), ("today", 1)):
        (tmp_path / name).mkdir()
        cfg = small(f"seed={seed}")
        if name == "older":
            OmegaConf.set_struct(cfg, False)
            for group, key in (("train", "generations"), ("train", "boost"), ("eval", "tent"), ("task", "dirichlet")):
                del cfg[group][key]
        OmegaConf.save(cfg, tmp_path / name / "config.yaml", resolve=True)
    folders = [tmp_path / "older", tmp_path / "today"]
    trained = [compare._trained(folder) for folder in folders]
    assert [method.seeds for method in compare._methods(folders, trained)] == [(0, 1)]
