import logging
import re

import pytest

from metalab.algorithms.build import AlgorithmSettings
from metalab.algorithms.training_task import resolve_training_task
from metalab.config.schema import Task
from metalab.core.errors import UserError
from metalab.data.sampling.episode_sampler import EpisodeSampler
from tests.configs import training_setup

STANDARD = Task(5, 1, 15, None, None, None)


def how(way: int | None = None, shot: int | None = None, query: int | None = None) -> AlgorithmSettings:
    return AlgorithmSettings("m", "o", "batch", 1, way, shot, query)


def test_sizes_of_training_are_the_users_else_the_algorithms_else_the_tests():
    assert resolve_training_task(STANDARD, how(), 40, 20) == Task(5, 1, 15, 5, 1, 15)
    assert resolve_training_task(STANDARD, how(20, 10, 3), 40, 20) == Task(5, 1, 15, 20, 10, 3)
    assert resolve_training_task(Task(5, 1, 15, 7, 2, 4), how(20, 10, 3), 40, 20) == Task(5, 1, 15, 7, 2, 4)


def test_a_recommended_way_above_the_classes_uses_them_all_and_says_so(small, caplog):
    caplog.set_level(logging.INFO, "metalab")
    r = training_setup(small("task.train_way=null", "algo.train_way=60", "engine=learn2learn"))
    assert r.task.train_way == r.train_algorithm.way == 40  # type: ignore[attr-defined]
    assert caplog.messages == ["algo.train_way=60 is more than the 40 training classes: 40 is used"]
    caplog.clear()
    assert training_setup(small("task.train_way=null", "engine=learn2learn")).task.train_way == 20
    assert caplog.messages == []


def test_recommended_shots_and_queries_above_the_images_are_cut_and_said(caplog):
    caplog.set_level(logging.INFO, "metalab")
    assert resolve_training_task(Task(5, 1, 4, None, None, None), how(None, None, 5), 40, 5) == Task(5, 1, 4, 5, 1, 4)
    assert caplog.messages == [
        "algo.train_query=5 is more than the 5 images of the smallest class less 1 shot: 4 is used"
    ]
    caplog.clear()
    assert resolve_training_task(Task(5, 1, 4, None, None, None), how(None, 10, 1), 40, 5) == Task(5, 1, 4, 5, 4, 1)
    assert caplog.messages == ["algo.train_shot=10 is more than the 5 images of the smallest class: 4 is used"]
    assert resolve_training_task(Task(5, 1, 4, None, 3, 9), how(None, 10, 1), 40, 5) == Task(5, 1, 4, 5, 3, 9)


def test_a_given_way_above_the_classes_is_an_error(small):
    r = training_setup(small("task.train_way=41"))
    expected = "way=41 but the train split has 40 classes: type task.train_way=40 or less"
    with pytest.raises(UserError, match=re.escape(expected)):
        r.training("train", 1)


def test_a_test_way_above_the_validation_classes_is_an_error(small):
    with pytest.raises(UserError, match=r"^way=13 but the val split has 12 classes: type task\.way=12 or less"):
        training_setup(small("task.way=13")).validation()


def test_unlabelled_images_are_drawn_in_training_and_in_validation(small):
    r = training_setup(small("task.unlabelled=2", "task.distractors=1", "algo.train_query=20", "task.train_query=null"))
    assert r.task.train_query == 12 - 1 - 2  # of 12 images a class
    for source in (r.training("train", 2), r.validation()):
        assert source(0).support.unlabelled.shape[1] == (5 + 1) * 2


def test_random_weights_that_stay_are_said(small, caplog):
    training_setup(small("algo=mtl"))
    assert "algo=mtl keeps the weights of the body, and these are random: train one first" in caplog.text
    caplog.clear()
    for words in (("algo=mtl", "train.init=outputs/train/x"), ("algo=maml",)):
        training_setup(small(*words))
    assert "random" not in caplog.text


def test_the_streams_draw_other_episodes_and_validation_the_same_ones(small):
    r = training_setup(small())
    a, b = r.training("train", 1), r.training("running", 1)
    assert not a.indices(0).image.equal(b.indices(0).image)
    first, second = r.validation(), training_setup(small("train.steps=9", "algo=maml")).validation()
    assert all(x.equal(y) for x, y in zip(first.indices(0), second.indices(0), strict=True))
    assert isinstance(first, EpisodeSampler)
    assert (first.way, first.shot, first.query, first.tasks) == (5, 1, 3, 4)
    other = training_setup(small("seed=1")).validation()
    assert isinstance(other, EpisodeSampler)
    assert not first.indices(0).image.equal(other.indices(0).image)


def test_overrides_of_the_algorithms_own_choices(small):
    r = training_setup(small())
    assert (r.bn, r.meta_batch) == ("running", 1)
    r = training_setup(small("eval.bn=one", "train.meta_batch=3"))
    assert (r.bn, r.meta_batch) == ("one", 3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("reg=l2", "reg.l2.inner=0.1"), "reg.l2.inner works on inner steps and this algorithm has none"),
        (("optim.lr=0",), "optim.lr=0: expected a number above 0"),
        (("train.bn=one",), "train.bn=one (text): expected one of batch, support or null, as in train.bn=batch"),
        (("device=tpu",), "device=tpu is not here; choose one of: auto, cpu"),
    ],
)
def test_mistakes_are_told_before_data_is_loaded(small, words, message):
    with pytest.raises(UserError, match=re.escape(message)):
        training_setup(small("data.absent=train", *words))


def test_what_metalab_eval_alone_reads_is_refused(small):
    with pytest.raises(
        UserError, match=r"^attack=\[pgd\]: attacks are for metalab eval .* type reg=adv_pgd or reg=adv_fg"
    ):
        training_setup(small("attack=pgd"))
    with pytest.raises(
        UserError, match=r"^run=latest: a run is evaluated by metalab eval; to go on with it type resume="
    ):
        training_setup(small("+run=latest"))
