"""train.boost: SAMME's weights against scikit-learn's, and what the runs leave on the record."""

import json
import math
import re
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.ensemble import AdaBoostClassifier

from metalab.config.experiment import read_config
from metalab.core.errors import UserError
from metalab.data.sampling.class_order import Labels
from metalab.evaluation import evaluate
from metalab.evaluation.ensemble.alphas import recorded_alphas
from metalab.tracking import checkpoint
from metalab.training import boosting, train
from metalab.training.samme import samme
from metalab.training.setup import build_training_setup
from tests.configs import training_setup
from tests.data.folder import tree

PLAIN = ("data=folder", "data.protocol=images", "data.size=16", "algo=baseline", "algo.mini_batch=8")
PLAIN += ("task.train_way=null", "train.steps=2", "train.val_every=2")


class Weak(ClassifierMixin, BaseEstimator):
    """Predicts what stands in a table, the next row for each that is fitted; notes the weights it was given."""

    table: ClassVar[list[np.ndarray]]
    seen: ClassVar[list[np.ndarray]]

    def fit(self, x, y, sample_weight):
        self.classes_ = np.unique(y)
        self.row_ = self.table[len(self.seen)]
        self.seen.append(sample_weight * len(y))
        return self

    def predict(self, x):
        return self.row_


def test_weights_and_alphas_are_scikit_learns_on_the_same_predictions():
    draw = np.random.default_rng(0)
    y = draw.integers(0, 4, 200)
    rows = [np.where(draw.random(200) < right, y, draw.integers(0, 4, 200)) for right in (0.5, 0.3, 0.7, 0.5)]
    Weak.table, Weak.seen = rows, []
    theirs = AdaBoostClassifier(Weak(), n_estimators=4, learning_rate=1.0).fit(np.zeros((200, 1)), y)
    wrong = [(row != y).astype(float) for row in rows]
    errors, alphas, _ = samme(wrong, 4)
    assert alphas == pytest.approx(theirs.estimator_weights_[:4].tolist(), rel=1e-10)
    assert errors == pytest.approx(theirs.estimator_errors_[:4].tolist(), rel=1e-10)
    for i in range(1, 4):
        assert samme(wrong[:i], 4)[2] == pytest.approx(Weak.seen[i], rel=1e-9)


def test_it_stops_where_there_is_no_alpha():
    right, chance = np.zeros(8), np.array([1.0] * 6 + [0.0] * 2)
    assert samme([right, chance], 4)[:2] == ([0.0], [])
    errors, alphas, weights = samme([chance], 4)
    assert (errors, alphas) == ([0.75], [])
    assert (weights == 1).all()


@pytest.fixture(scope="module")
def home(small, tmp_path_factory) -> Path:
    """A folder with a run `first` on episodes, and `plain`, a classifier of two classes of few images."""
    home = tmp_path_factory.mktemp("boost")
    tree(home / "images", classes=3, images=10)
    train.run(small("task.train_way=3", "eval.episodes=20"), home / "first")
    train.run(plain(small, home), home / "plain")
    return home


def plain(small, home: Path, *words: str):
    return small(*PLAIN, f"data.root={home / 'images'}", f"data.cache={home / 'cache'}", *words)


def record(out: Path) -> dict:
    return json.loads((out / "run.json").read_text())["boost"]


@pytest.mark.slow
def test_classes_that_an_earlier_run_gets_wrong_are_drawn_more_often(small, home, tmp_path, caplog):
    words = (f"train.boost=[{home / 'first'}]", "task.train_way=3", "eval.episodes=20")
    train.run(small(*words), tmp_path / "second")
    found = record(tmp_path / "second")
    [error], [alpha] = found["errors"], found["alphas"]
    assert found["runs"] == [str(home / "first")]
    assert alpha == pytest.approx(math.log((1 - error) / error) + math.log(4))
    weights = checkpoint.load(tmp_path / "second" / "last.pt")["boost"]["weights"]
    r = training_setup(small(*words))
    wrong = boosting.training_errors(r, home / "first")
    assert wrong.mean() == pytest.approx(error)
    expected = np.exp(alpha * wrong)
    assert weights.numpy() == pytest.approx(expected / expected.mean())
    drawn = boosting.boosted(r, None).training("train", 40000).indices(0).classes.flatten().bincount(minlength=40)
    assert np.corrcoef(drawn.numpy(), weights.numpy())[0, 1] > 0.9
    asked = ("+ensemble=samme", "eval.episodes=6", "data.absent=''", "eval.report=false")
    evaluate.run([(each, small(*asked)) for each in (home / "first", tmp_path / "second")], tmp_path / "eval")
    told = json.loads((tmp_path / "eval" / "eval.json").read_text())
    assert told["weights"] == [alpha, found["alpha"]]
    wrong_order = [(each, small(*asked)) for each in (tmp_path / "second", home / "first")]
    with pytest.raises(UserError, match=r"first was not trained with train\.boost"):
        evaluate.run(wrong_order, tmp_path / "other")


def test_images_are_weighted_by_what_the_net_says_of_each(small, home, tmp_path, monkeypatch):
    r = training_setup(plain(small, home))
    wrong = boosting.training_errors(r, home / "plain")
    split = r.data["train"]
    assert set(wrong.tolist()) <= {0.0, 1.0}
    assert len(wrong) == len(split.images)
    from metalab.models.layers import running_statistics
    from tests.configs import net_in

    net = net_in(plain(small, home), checkpoint.load(home / "plain" / "best.pt")).eval()
    with torch.no_grad(), running_statistics():
        taken = net("logits", split.images.float() / 255).argmax(1)
    assert (wrong == (taken != torch.arange(3).repeat_interleave(split.count)).numpy()).all()
    third = (np.arange(len(wrong)) % 3 == 0).astype(float)
    monkeypatch.setattr(boosting, "training_errors", lambda r, folder: third)
    cfg = plain(small, home, f"train.boost=[{home / 'plain'}]", "seed=1")
    train.run(cfg, tmp_path / "second")
    made = boosting.boosted(training_setup(cfg), None)
    weights = made.data["train"].resampling
    assert weights is not None
    assert weights.weights is not None
    found = record(tmp_path / "second")
    assert found["alphas"] == pytest.approx([math.log(2) + math.log(2)])  # an error of 1/3, of three classes
    assert weights.weights.numpy() == pytest.approx(np.where(third, 4.0, 1.0) / np.where(third, 4.0, 1.0).mean())
    assert found["error"] == pytest.approx(2 / 3)  # the weighted error of the same predictions is that of chance
    assert found["alpha"] is None


def test_earlier_runs_that_cannot_be_are_refused(small, home, tmp_path, monkeypatch):
    boost = f"train.boost=[{home / 'first'}]"
    with pytest.raises(UserError, match=re.escape(f"{home / 'first'} was trained on other images or classes")):
        train.run(small(boost, "data.seed=1"), tmp_path / "a")
    with pytest.raises(UserError, match=re.escape(f"{home / 'first'} has no classifier of these 3 classes")):
        train.run(plain(small, home, boost), tmp_path / "b")
    with pytest.raises(UserError, match="there is no folder nowhere"):
        train.run(small("train.boost=[nowhere]"), tmp_path / "c")
    for error, why in (
        (np.zeros(40), "nothing for another to learn from"),
        (np.ones(40), "no better than chance, 0.8"),
    ):
        monkeypatch.setattr(boosting, "training_errors", lambda r, folder, error=error: error)
        with pytest.raises(UserError, match=why):
            train.run(small(boost), tmp_path / "d")
    assert not list(tmp_path.glob("*/best.pt"))


@pytest.mark.slow
def test_a_resumed_run_takes_its_weights_from_its_checkpoint(small, home, tmp_path, monkeypatch):
    words = (f"train.boost=[{home / 'first'}]", "task.train_way=3", "eval.episodes=20")
    train.run(small(*words), tmp_path / "whole")
    train.run(small(*words, "train.steps=2"), tmp_path / "cut")
    with monkeypatch.context() as patch:
        patch.setattr(boosting, "_boost", lambda *given: pytest.fail("an earlier run was asked"))
        train.run(small(*words, f"resume={tmp_path / 'cut'}"), tmp_path / "cut")
    one, two = (checkpoint.load(tmp_path / name / "last.pt") for name in ("whole", "cut"))
    assert all(torch.equal(value, two["net"][name]) for name, value in one["net"].items())
    found = record(tmp_path / "whole")
    assert found["alpha"] == record(tmp_path / "cut")["alpha"]
    # killed after its last checkpoint, before run.json had the alpha
    path = tmp_path / "whole" / "run.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "boost"}))
    with pytest.raises(UserError, match="its training has not ended, resume="):
        recorded_alphas([home / "first", tmp_path / "whole"])
    train.run(small(*words, f"resume={tmp_path / 'whole'}"), tmp_path / "whole")
    assert record(tmp_path / "whole") == found


def test_a_boosted_classifier_that_keeps_other_classes_is_refused(small, home):
    cfg = plain(small, home, f"train.boost=[{home / 'plain'}]")
    own = training_setup(plain(small, home)).data["train"]
    build_training_setup(read_config(cfg), None, Labels(own.ids, own.names))  # the same, in the same order
    for kept in (Labels(own.ids[::-1], own.names[::-1]), Labels(["another"], ["another"])):
        with pytest.raises(UserError, match=r"^train\.boost weights the images of this data's own classes"):
            build_training_setup(read_config(cfg), None, kept)
