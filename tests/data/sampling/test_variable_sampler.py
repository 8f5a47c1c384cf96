"""Episodes whose way and shots are drawn anew, as Meta-Dataset's."""

import importlib
import json
import math
from dataclasses import replace

import pytest
import torch

from metalab.core.errors import UserError
from metalab.data.sampling.augment import Augment
from metalab.data.sampling.class_families import build_families
from metalab.data.sampling.variable_sampler import VariableEpisodeSampler, drawn_shots
from metalab.evaluation import evaluate
from metalab.training import train
from tests.data.made import make_split

CPU = torch.device("cpu")
VARIABLE = ("task=variable", "task.query=3", "task.support=40", "task.way=8", "train.meta_batch=1")


def make(split=None, way=50, shot=100, query=4, support=500, seed=0, stream="train"):
    split = split or make_split(images=[8 + 3 * k for k in range(30)])
    return VariableEpisodeSampler(split, way, shot, query, support, seed, stream, CPU)


def of(seed=0):
    return torch.Generator().manual_seed(seed)


def test_ways_and_shots_vary_and_queries_are_as_many_for_each_class():
    split, ways, shots = make_split(images=[8 + 3 * k for k in range(30)]), [], []
    source = make(split)
    for step in range(300):
        draw = source.indices(step)
        way = draw.classes.shape[1]
        edge = draw.image.shape[1] - 4 * way
        count = draw.label[0, :edge].bincount(minlength=way)
        assert (count >= 1).all()
        assert (count <= split.count[draw.classes[0]] - 4).all()
        assert edge <= 500
        assert (draw.label[0, edge:].bincount(minlength=way) == 4).all()
        assert len(draw.image.unique()) == draw.image.shape[1]  # no image twice
        of_label = draw.classes[0][draw.label[0]]
        assert (draw.image[0] >= split.first[of_label]).all()
        assert (draw.image[0] < (split.first + split.count)[of_label]).all()
        ways.append(way)
        shots.extend(count.tolist())
    assert (min(ways), max(ways)) == (5, 30)
    counts = torch.tensor(ways).bincount(minlength=31)[5:]
    assert ((counts - 300 / 26) ** 2 / (300 / 26)).sum() < 52  # uniform: chi-square, 25 degrees of freedom, p = 0.001
    assert len(set(shots)) > 15


def test_the_smallest_class_of_an_episode_says_how_many_queries_each_class_has():
    counts = [2, 5, 9, *[12] * 3, *[30] * 12]
    split, seen = make_split(images=counts), set()
    source = make(split, way=8, query=7)
    for step in range(200):
        draw, episode = source.indices(step), source(step)
        images = split.count[draw.classes[0]]
        query = min(7, int(images.min()) // 2)
        way = len(images)
        assert episode.query.y[0].bincount(minlength=way).tolist() == [query] * way
        shots = episode.support.y[0].bincount(minlength=way)
        assert (shots >= 1).all()
        assert (shots <= images - query).all()
        assert len(draw.image.unique()) == draw.image.shape[1]
        seen.add(query)
    assert seen == {1, 2, 4, 6, 7}
    assert source.least == 1


def test_episodes_have_the_drawn_images():
    split = make_split(images=[20] * 12, turns=torch.arange(12) % 4)
    source = make(split)
    draw, episode = source.indices(3), source(3)
    x = torch.cat([episode.support.x, episode.query.x], 1)[0]
    for i in range(len(x)):
        assert torch.equal(x[i], torch.rot90(split.images[draw.image[0, i]] / 255, int(draw.turn[0, i]), (-2, -1)))
    assert torch.equal(draw.turn[0], draw.classes[0][draw.label[0]] % 4)
    assert torch.equal(torch.cat([episode.support.y, episode.query.y], 1), draw.label)
    assert episode.support.unlabelled.shape == (1, 0, 1, 4, 4)


def test_they_are_a_function_of_seed_stream_and_step():
    one, two = make(), make()
    later = [two.indices(step) for step in (9, 0)]
    assert all(map(torch.equal, one.indices(9), later[0]))
    for other in (make(seed=1), make(stream="val")):
        assert other.indices(9).image.shape != later[0].image.shape or not torch.equal(
            other.indices(9).image, later[0].image
        )


def test_augmented_images_are_of_the_same_choice_and_a_function_of_the_step():
    plain = make()
    augmented = VariableEpisodeSampler(plain.split, 50, 100, 4, 500, 0, "train", CPU, Augment(1, 0.5, 0.2, 10))
    a, b = plain(7), augmented(7)
    assert all(map(torch.equal, plain.indices(7), augmented.indices(7)))
    assert torch.equal(a.query.y, b.query.y)
    assert not torch.allclose(a.query.x, b.query.x)
    assert torch.equal(augmented(7).support.x, b.support.x)


def test_shots_by_hand():
    images, query, generator = torch.tensor([30, 600, 120, 20, 90]), 10, of(5)
    beta = 1 - torch.rand((), generator=generator, dtype=torch.float64).item()
    size = min(500, sum(math.ceil(beta * min(100, n - query)) for n in images.tolist()))
    alpha = math.log(0.5) + math.log(4) * torch.rand(5, generator=generator, dtype=torch.float64)
    weight = [math.exp(a) * n for a, n in zip(alpha.tolist(), images.tolist(), strict=True)]
    expected = [
        min(math.floor(w / sum(weight) * (size - 5)) + 1, n - query)
        for w, n in zip(weight, images.tolist(), strict=True)
    ]
    assert drawn_shots(images, 100, query, 500, of(5)).tolist() == expected


def test_no_support_is_larger_than_asked_and_larger_classes_have_more():
    images = torch.tensor([600] * 25 + [50] * 25)
    drawn = torch.stack([drawn_shots(images, 100, 10, 200, of(seed)) for seed in range(300)])
    assert drawn.sum(1).max() <= 200
    assert drawn.min() == 1
    assert drawn[:, :25].sum() > 3 * drawn[:, 25:].sum()


def test_episodes_stay_within_a_family():
    names = [f"{letter}/{k}" for letter, count in (("A", 6), ("B", 3), ("C", 9)) for k in range(count)]
    split = replace(make_split(classes=18, images=12), families=build_families(names, "letters", lambda name: name[0]))
    assert split.families is not None
    families = []
    for step in range(200):
        family = split.families.family[make(split).indices(step).classes[0]].unique().tolist()
        assert len(family) == 1
        families += family
    assert set(families) == {0, 2}
    assert abs(families.count(0) - 100) < 40


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"way": 4}, r"^task\.way=4: task=variable draws 5 classes or more, up to task\.way: type task\.way=50"),
        ({"support": 49}, r"task\.support=49 images are too few for task\.way=50 classes"),
        (
            {"split": make_split(images=[9, 9, 9, 9, 1, 9])},
            r"class name4 has one image, and support and query need one",
        ),
        ({"split": make_split(classes=4)}, r"5 classes or more, and there are 4: add classes"),
        ({"split": replace(make_split(), group=torch.arange(108))}, r"does not know data\.group: type task=fixed"),
    ],
)
def test_what_cannot_be_drawn_is_told(given, said):
    with pytest.raises(UserError, match=said):
        make(**given)


@pytest.mark.slow
@pytest.mark.parametrize(
    "algo", [("algo=protonet",), ("engine=vectorized", "algo=maml", "algo.head_init=zero", "algo.steps=1")]
)
def test_metric_methods_and_heads_made_for_the_task_train_and_are_tested(small, tmp_path, algo):
    words = (*VARIABLE, *algo, "train.steps=2")
    train.run(small(*words), tmp_path / "run")
    evaluate.run([(tmp_path / "run", small(*words, "data.absent=''"))], tmp_path / "eval")
    record = json.loads((tmp_path / "eval" / "eval.json").read_text())
    assert (record["way"], record["shot"], record["query"]) == ("5..8", "variable", 3)
    assert record["episodes"] == 6
    assert (tmp_path / "run" / "episode.png").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["learn2learn", "vectorized"])
def test_small_classes_train_and_are_tested_under_attack_and_the_queries_are_told(small, tmp_path, monkeypatch, engine):
    Tiny = importlib.import_module("tiny_parts").Tiny
    load = Tiny.load

    def uneven(self, split):  # classes of 2 to 12 images
        whole = load(self, split)
        return replace(whole, count=torch.arange(len(whole.ids)) % 6 * 2 + 2)

    monkeypatch.setattr(Tiny, "load", uneven)
    words = (*VARIABLE, f"engine={engine}", "train.steps=3", "eval.bn=running")
    train.run(small(*words), tmp_path / "run")
    attack = ("+attack@attack.fgsm=fgsm", "data.absent=''", "eval.episodes=12")
    evaluate.run([(tmp_path / "run", small(*words, *attack))], tmp_path / "eval")
    record = json.loads((tmp_path / "eval" / "eval.json").read_text())
    assert (record["way"], record["shot"], record["query"]) == ("5..8", "variable", "1..3")
    assert record["attacks"][0]["accuracy"] <= record["accuracy"]


@pytest.mark.parametrize("algo", ["maml", "metasgd", "reptile"])
def test_a_learned_head_is_refused_by_name_before_any_training(small, tmp_path, algo):
    said = rf"^task=variable draws the way anew for each episode, and algo={algo} has learned parts for one way alone"
    with pytest.raises(UserError, match=said):
        train.run(small(*VARIABLE, f"algo={algo}"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_settings_that_contradict_it_are_told(small, tmp_path):
    with pytest.raises(UserError, match=r"^train\.meta_batch=2: task=variable has one episode a meta-step"):
        train.run(small(*VARIABLE, "train.meta_batch=2"), tmp_path / "run")
    with pytest.raises(UserError, match=r"task\.unlabelled=2 task\.distractors=0: task=variable has none; type 0"):
        train.run(small(*VARIABLE, "task.unlabelled=2"), tmp_path / "run")
