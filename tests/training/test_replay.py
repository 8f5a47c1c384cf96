"""reg=replay: remembered images in mini-batches of a classifier that grows, and in episodes."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from metalab.config.experiment import read_config
from metalab.core.errors import UserError
from metalab.core.interfaces import Episode, Split
from metalab.data.sampling.class_order import Labels
from metalab.engines.learn2learn import Learn2Learn
from metalab.evaluation import evaluate
from metalab.models.build import build_net, normalization
from metalab.regularizers import Replay
from metalab.tracking import checkpoint
from metalab.training import memory, phases, replaying, train
from metalab.training.compatibility import check_replay
from metalab.training.setup import TrainingSetup, build_training_setup
from tests.configs import training_setup
from tests.data.folder import picture
from tests.training.phases import composed, train_in_phases
from tests.training.test_phases import record

PLAIN = ("data=folder", "data.protocol=images", "data.size=16", "data.channels=1", "algo=baseline", "algo.mini_batch=8")
PLAIN += ("task.train_way=null", "task.train_query=null")
CLASSES = {"first": ("ant", "bee"), "second": ("cat", "dog", "elk")}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Two folders of other classes, 10 pictures of noise each."""
    root = tmp_path_factory.mktemp("replay")
    for s, (name, classes) in enumerate(CLASSES.items()):
        for c, each in enumerate(classes):
            for i in range(10):
                picture(root / name / each / f"{i}.png", 1000 * s + 100 * c + i)
    return root


@pytest.fixture(scope="module")
def words(home):
    """words("first", "key=value") -> the words of a training on a folder."""
    return lambda name, *more: (*PLAIN, f"data.root={home / name}", f"data.cache={home / 'cache'}", *more)


@pytest.fixture(scope="module")
def grown(small, words, tmp_path_factory) -> Path:
    """Two phases of a classifier, the second with a memory of 5 images."""
    out = tmp_path_factory.mktemp("grown") / "run"
    train_in_phases(small, out, words("first"), words("second", "reg=replay", "reg.replay.images=5", "optim.lr=1e-30"))
    return out


def after_first(small, first: tuple[str, ...], second: tuple[str, ...], out: Path, *more: str) -> TrainingSetup:
    """Return what a second phase is made of, with all images of the first in its memory; nothing is trained."""
    before = training_setup(small(*first))
    train_split = before.data["train"]
    (out / "phase0").mkdir(parents=True)
    memory.save(out / "phase0" / memory.FILE, memory.remembered(None, before, torch.nn.Module(), None, "herding", None))
    _, cfg = composed(small, out, first, (*second, "reg=replay", *more))
    r = build_training_setup(read_config(cfg), None, Labels(train_split.ids, train_split.names))
    return replace(r, memory=memory.for_training(r))


def test_the_head_keeps_its_classes_and_all_of_them_compete(grown, small, words, home, tmp_path):
    first, second = (checkpoint.load(grown / f"phase{k}" / "best.pt") for k in (0, 1))
    assert second["label_names"] == [*CLASSES["first"], *CLASSES["second"]]
    assert first["net"]["head.weight"].shape[0] == 2
    assert second["net"]["head.weight"].shape[0] == 5
    assert torch.equal(second["net"]["head.weight"][:2], first["net"]["head.weight"])  # at a rate of nothing
    assert torch.equal(second["net"]["head.bias"][:2], first["net"]["head.bias"])
    assert set(first["classes"]) < set(second["classes"])
    rows = record(grown / "phases.json")["after"]
    assert rows[0]["accuracy"][1] is None
    evaluate.run([(grown / "phase1", small(*words("first", "eval.split=val")))], tmp_path / "old")
    evaluate.run([(grown / "phase1", small(*words("second", "eval.split=val")))], tmp_path / "new")
    old, new = (record(tmp_path / name / "eval.json") for name in ("old", "new"))
    assert [old["accuracy"], new["accuracy"]] == rows[1]["accuracy"]
    both = (old["accuracy"] * old["images"] + new["accuracy"] * new["images"]) / (old["images"] + new["images"])
    assert rows[1]["all_classes"] == pytest.approx(both)


def test_the_memory_is_herded_and_its_images_are_those_that_were_trained_on(grown, small, words):
    held = memory.load(grown / "phase0" / memory.FILE).split
    train_split = training_setup(small(*words("first"))).data["train"]
    assert held.names == list(CLASSES["first"])
    assert held.count.tolist() == [2, 2]  # 5 images // 2 classes
    place = {image: i for i, image in enumerate(train_split.image_ids)}
    assert torch.equal(held.images, train_split.images[[place[image] for image in held.image_ids]])
    assert set(held.image_ids) <= set(checkpoint.load(grown / "phase1" / "last.pt")["classes"])


def test_each_mini_batch_has_its_share_of_remembered_images(small, words, tmp_path):
    r = after_first(small, words("first"), words("second"), tmp_path, "reg.replay.share=0.25")
    label = r.training("train", 1)(3).query.y[0]
    assert (label < 2).sum() == 2
    assert label.shape == (8,)
    assert r.memory is not None
    images = r.memory.images.float() / 255
    query = r.training("train", 1)(3).query
    for x, y in zip(query.x[0], query.y[0], strict=True):
        own = images[int(r.memory.first[y]) : int(r.memory.first[y] + r.memory.count[y])]
        assert (y >= 2) or any(torch.equal(x, each) for each in own)


def test_with_all_images_in_memory_the_gradient_is_that_of_training_on_all_data_jointly(small, words, tmp_path):
    one, other = words("first", "data.ratios=[0.9,0.1,0.0]"), words("second", "data.ratios=[0.6,0.2,0.2]")
    joint = [training_setup(small(*each)).data["train"] for each in (one, other)]
    assert [len(split.images) for split in joint] == [18, 18]
    r = after_first(small, one, other, tmp_path, "algo.mini_batch=36")
    torch.manual_seed(0)
    net = build_net(r.backbone, r.train_algorithm, torch.nn.Sequential(), normalization(joint[0].images), 16).double()
    net.train()
    support, query = r.training("train", 1)(0)
    episode = type(query)(query.x.double(), query.y, query.unlabelled.double())
    empty = type(query)(support.x.double(), support.y, support.unlabelled.double())
    net.zero_grad()
    Learn2Learn().grad(r.objective(), net, Episode(empty, episode), torch.zeros(()))
    replayed = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
    x = (torch.cat([split.images for split in joint]).float() / 255).double()  # as they are given
    y = torch.cat([torch.arange(2).repeat_interleave(9), 2 + torch.arange(3).repeat_interleave(6)])
    net.zero_grad()
    F.cross_entropy(net("logits", x), y).backward()
    assert set(replayed) == {name for name, p in net.named_parameters() if p.grad is not None}
    for name, p in net.named_parameters():
        if p.grad is not None:
            assert torch.allclose(replayed[name], p.grad, rtol=0, atol=1e-10), name


def test_a_memory_of_episodes_has_classes_drawn_alike_with_as_many_images_as_an_episode_needs(small, tmp_path):
    few = ("train.meta_batch=2", "task.train_query=3", "train.steps=2")
    r = training_setup(small(*few))
    net = build_net(r.backbone, r.train_algorithm, torch.nn.Sequential(), normalization(r.data["train"].images), 16)
    (tmp_path / "phase0").mkdir()
    memory.save(tmp_path / "phase0" / memory.FILE, memory.remembered(None, r, net.eval(), 30, "herding", 4))
    held = memory.load(tmp_path / "phase0" / memory.FILE).split
    assert held.count.tolist() == [4] * 7  # 30 // (1 shot + 3 queries)
    train_split = training_setup(small(*few)).data["train"]
    place = {class_id: k for k, class_id in enumerate(train_split.ids)}
    for k, class_id in enumerate(held.ids):
        own = train_split.images[int(train_split.first[place[class_id]]) :][:12]
        for image in held.images[4 * k : 4 * k + 4]:
            assert any(torch.equal(image, each) for each in own)
    replayed = ("reg=replay", "reg.replay.share=0.3", f"reg.replay.memory={tmp_path}/phase0/memory.pt")
    r = training_setup(small(*few, "train.meta_batch=4", *replayed))
    r = replace(r, memory=memory.for_training(r))
    known = {image.numpy().tobytes() for image in held.images}
    of_memory = [
        all((x * 255).round().to(torch.uint8).numpy().tobytes() in known for x in episode)
        for step in range(5)
        for episode in r.training("train", 4)(step).query.x
    ]
    assert np.sum(of_memory) == 6  # of 20
    again = r.training("train", 4)
    assert torch.equal(again(3).query.x, r.training("train", 4)(3).query.x)


def test_a_memory_of_other_sizes_is_resized_and_one_of_another_kind_is_refused(grown, small, tmp_path):
    words = ("train.meta_batch=2", "task.train_query=3", "reg=replay", f"reg.replay.memory={grown}/phase0/memory.pt")
    with pytest.raises(UserError, match="one of it and this data splits images, one classes"):
        train.run(small(*words), tmp_path / "kind")
    few = ("train.meta_batch=2", "task.train_query=3", "train.steps=2")
    with pytest.raises(UserError, match="is no memory of reg=replay"):
        train.run(small(*few, "reg=replay", f"reg.replay.memory={grown}/phase0/last.pt"), tmp_path / "file")
    first, second = composed(small, tmp_path, few, (*few, "data.size=20", "data.seed=1", "reg=replay"))
    r = training_setup(first)
    kept = memory.remembered(None, r, torch.nn.Module(), None, "herding", 4)
    assert len(kept.split.images) == 40 * 12
    (tmp_path / "phase0").mkdir()
    memory.save(tmp_path / "phase0" / memory.FILE, kept)
    found = memory.for_training(training_setup(second))
    assert found is not None
    assert found.images.shape[1:] == (1, 20, 20)


def test_what_was_remembered_before_is_cut_to_its_first_images_and_data_count_once(small, words):
    r = [training_setup(small(*words(name))) for name in CLASSES]
    measured = normalization(r[0].data["train"].images)
    net = build_net(r[0].backbone, r[0].train_algorithm, torch.nn.Sequential(), measured, 16)
    one = memory.remembered(None, r[0], net.eval(), 10, "herding", None)
    two = memory.remembered(one, r[1], net, 10, "herding", None)
    assert one.split.count.tolist() == [5, 5]
    assert two.split.count.tolist() == [2] * 5
    assert two.split.image_ids[:4] == [*one.split.image_ids[:2], *one.split.image_ids[5:7]]
    assert memory.remembered(two, r[0], net, 10, "herding", None) is two
    drawn = memory.remembered(memory.remembered(None, r[0], net, 9, "reservoir", None), r[1], net, 9, "reservoir", None)
    assert int(drawn.split.count.sum()) == 9
    assert drawn.seen == sum(int(each.data["train"].count.sum()) for each in r)
    assert len(set(drawn.split.image_ids)) == 9


def test_the_memory_must_hold_an_image_of_each_class(small, words, tmp_path):
    each = (words("first"), words("second", "reg=replay", "reg.replay.images=1"))
    with pytest.raises(UserError, match=r"train\.phases\[1\]\.reg\.replay\.images=1: the memory needs 2 or more, one"):
        phases.check([read_config(cfg) for cfg in composed(small, tmp_path, *each)])


def test_episodes_and_images_are_no_phases_of_one_memory(small, words, tmp_path):
    each = (("task.train_query=3",), words("second", "reg=replay", "backbone.filters=4"))
    with pytest.raises(UserError, match="some phases split images and some classes, and a memory is of one kind"):
        phases.check([read_config(cfg) for cfg in composed(small, tmp_path, *each)])


def test_a_memory_has_no_domains():
    one = torch.tensor([1])
    split = Split(torch.zeros(1, 1, 2, 2), one - 1, one, ["a"], ["a"])
    terms: Any = SimpleNamespace(replay=SimpleNamespace(memory="memory.pt"), target="")
    algo: Any = SimpleNamespace(mini_batch=None, name="protonet")
    check_replay(terms, algo, split)
    with pytest.raises(UserError, match=r"^reg\.replay does not know task\.query_domain: "):
        check_replay(terms, algo, replace(split, query_images=torch.tensor([True])))


FEW = ("task.train_query=3", "train.meta_batch=2")


@pytest.fixture(scope="module")
def replaying_setup(small) -> TrainingSetup:
    """What a later phase on tiny episodes is made of, with a memory of 60 images."""
    return training_setup(small(*FEW, "reg=replay", "reg.replay.images=60", "reg.replay.memory=memory.pt"))


def replays(r: TrainingSetup, **values: object) -> TrainingSetup:
    """Return the setup with other settings of reg.replay."""
    assert isinstance(r.terms.replay, Replay)
    return replace(r, terms=r.terms._replace(replay=replace(r.terms.replay, **values)))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"images": 40}, r"^train\.phases: reg\.replay\.images is 60 and 40, and there is one memory"),
        ({"images": None}, r"^train\.phases: reg\.replay\.images is 60 and null, and"),
        ({"how": "reservoir"}, r"^train\.phases: reg\.replay\.how is herding and reservoir, and"),
    ],
)
def test_phases_that_replay_from_memories_of_other_kinds_are_refused(replaying_setup, values, said):
    r = replaying_setup
    first = replace(r, terms=r.terms._replace(replay=None))
    replaying.check([first, r, r])
    with pytest.raises(UserError, match=said):
        replaying.check([first, r, replays(r, **values)])


def test_a_phase_on_a_part_of_its_images_leaves_no_memory_of_the_others(replaying_setup):
    r = replaying_setup
    bagged = replace(r, train=replace(r.train, bootstrap="images"))
    replaying.check([r, r, bagged])
    with pytest.raises(UserError, match=r"^train\.phases\[2\]\.reg\.replay: phase 1 trains on a part of its images"):
        replaying.check([r, bagged, r])


def test_fewer_remembered_classes_than_an_episode_has_are_told_before_any_training(replaying_setup):
    r = replays(replaying_setup, images=None)
    split = r.data["train"]
    few = replace(r, data={"train": replace(split, ids=split.ids[:3], first=split.first[:3], count=split.count[:3])})
    replaying.check([r, r])
    for before in ([few], [few, few]):  # the same data twice are remembered once
        with pytest.raises(UserError, match=r"an episode has 5 classes, and the phases before have 3 of 4 images"):
            replaying.check([*before, r])


def test_a_memory_of_what_this_training_is_validated_on_is_refused(small, words, tmp_path):
    first, other = training_setup(small(*FEW)), (*FEW, "data.seed=172", "reg=replay", f"reg.replay.memory={tmp_path}/a")
    memory.save(tmp_path / "a", memory.remembered(None, first, torch.nn.Module(), None, "herding", 4))
    with pytest.raises(UserError, match=r"^reg\.replay\.memory=\S+ was trained on 6 of the 12 validation classes"):
        memory.for_training(training_setup(small(*other)))
    r = training_setup(small(*words("first", "reg=replay", f"reg.replay.memory={tmp_path}/b")))
    memory.save(tmp_path / "b", memory.Memory(r.data["val"], 1, []))
    with pytest.raises(UserError, match=r"^reg\.replay\.memory=\S+ was trained on \d+ of the \d+ validation images"):
        memory.for_training(r)


def test_a_resumed_phase_goes_on_with_the_memory_that_it_began_with_alone(grown, small, words):
    more = ("reg=replay", "reg.replay.images=5", "optim.lr=1e-30", "train.steps=6", f"resume={grown}/phase1")
    path = grown / "phase0" / memory.FILE
    whole, held = path.read_bytes(), memory.load(path)
    memory.save(path, replace(held, split=memory._some_classes(held.split, torch.tensor([0]))))
    try:
        with pytest.raises(UserError, match=r"^reg\.replay\.memory=\S+: its images are not those that the run began"):
            train.run(composed(small, grown, words("first"), words("second", *more))[1], grown / "phase1")
    finally:
        path.write_bytes(whole)
