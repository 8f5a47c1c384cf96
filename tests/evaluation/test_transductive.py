"""A method that infers the queries together, from the command line: its record, and what is refused by name."""

import json
import re

import pytest

from metalab.core.errors import UserError
from metalab.evaluation import evaluate
from metalab.training import train

ONE_STEP = ("train.steps=1", "train.val_every=1", "train.val_episodes=2", "algo=bdcspn", "task.train_way=null")


@pytest.fixture(scope="module")
def run(small, tmp_path_factory):
    """A run of one step of a plain classifier."""
    folder = tmp_path_factory.mktemp("run")
    train.run(small(*ONE_STEP), folder)
    return folder


def evaluated(small, run, out, *words):
    cfg = small("data.absent=''", "task.train_way=null", "eval.episodes=4", *words)
    evaluate.run([(run, cfg)], out)
    return json.loads((out / "eval.json").read_text())


@pytest.mark.parametrize("algo", ["bdcspn", "tim", "simpleshot"])
def test_the_record_says_that_the_queries_were_inferred_together(small, run, tmp_path, algo):
    quick = ("algo.iterations=2",) if algo == "tim" else ()
    record = evaluated(small, run, tmp_path, f"algo={algo}", *quick)
    assert record["transductive"] is (algo != "simpleshot")
    assert ("infers all queries of an episode together" in record.get("note", "")) is (algo != "simpleshot")
    assert record["bn"] == "running"


@pytest.mark.parametrize("algo", ["bdcspn", "simpleshot"])
def test_unequal_queries_are_reported_by_class(small, run, tmp_path, algo):
    words = (f"algo={algo}", "task.query=2", "task.query_balance=dirichlet", "eval.episodes=8")
    record = evaluated(small, run, tmp_path, *words)
    assert (record["query"], record["query_balance"], record["dirichlet"]) == (2, "dirichlet", 2.0)
    rows = (tmp_path / "per_class.csv").read_text().splitlines()
    column = rows[0].split(",").index("queries")
    assert sum(int(row.rsplit(",", len(rows[0].split(",")) - column)[1]) for row in rows[1:]) == 8 * 10
    assert (tmp_path / "confusion.png").is_file()
    assert (tmp_path / "episodes.csv").read_text().count("\n") == 9


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("eval.bn=one",), "eval.bn=one gives the model one query at a time beside the support, and algo=bdcspn"),
        (("eval.bn=support",), "eval.bn=support gives the model the support along with the queries, and algo=bdcspn"),
        (("eval.unknown=2",), "eval.unknown=2: algo=bdcspn infers all queries of an episode together"),
        (("attack=auto",), "attack.auto looks at each query by itself, and algo=bdcspn infers all of them together"),
        (("attack=square",), "attack.square looks at each query by itself"),
        (
            ("attack=pgd", "attack.on=support", "attack.support=own_loss"),
            "attack.support=own_loss gives the support to the model as queries",
        ),
    ],
)
def test_what_asks_about_a_part_of_the_queries_is_refused(small, run, tmp_path, words, message):
    with pytest.raises(UserError, match=re.escape(message)):
        evaluated(small, run, tmp_path, "algo=bdcspn", *words)
    assert not (tmp_path / "eval.json").exists()


def test_an_attack_climbs_the_inference(small, run, tmp_path):
    words = ("algo=bdcspn", "attack=pgd", "attack.eps=64", "attack.pgd.steps=5")
    record = evaluated(small, run, tmp_path, *words)
    (attacked,) = record["attacks"]
    assert attacked["accuracy"] < record["accuracy"]
    assert attacked["zero_gradients"] == 0
    assert record["transductive"]


def test_training_refuses_the_same(small, tmp_path):
    with pytest.raises(UserError, match=r"^eval\.bn=one gives the model one query at a time"):
        train.run(small(*ONE_STEP, "eval.bn=one"), tmp_path)
    with pytest.raises(UserError, match=r"^train\.bn=support gives the model the support along with the queries"):
        train.run(small("algo=tpn", "train.bn=support"), tmp_path)


def test_tpn_trains_and_is_evaluated(small, tmp_path):
    train.run(small("algo=tpn", "train.meta_batch=2", "train.steps=2"), tmp_path)
    record = evaluated(small, tmp_path, tmp_path / "eval", "algo=tpn")
    assert record["transductive"]
    assert 0 <= record["accuracy"] <= 1


def test_unknown_classes_and_unequal_queries_do_not_go_together(small, run, tmp_path):
    with pytest.raises(UserError, match=r"eval\.unknown=2 with task\.query_balance=dirichlet"):
        evaluated(
            small, run, tmp_path, "algo=simpleshot", "task.query=2", "eval.unknown=2", "task.query_balance=dirichlet"
        )
