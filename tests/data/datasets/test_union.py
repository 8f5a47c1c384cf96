"""Unions: an episode is of one member, each as often as its weight says; what overlaps is refused."""

import json
from dataclasses import dataclass, replace

import pytest
import torch

from metalab.core.errors import UserError
from metalab.core.interfaces import FixedEpisodes, Split
from metalab.data.datasets.union import Union
from metalab.data.sampling.class_families import build_families
from metalab.data.sampling.episode_sampler import EpisodeSampler
from metalab.tracking import checkpoint
from tests.data.made import make_split

CPU = torch.device("cpu")
ODD = ("", "turned", "random", "grouped", "fixed", "kin")


@dataclass(frozen=True)
class Fake:
    """Some classes of uniform brightness, which tells the data set."""

    name: str
    value: int  # brightness, 0..255
    channels: int
    side: int
    start: int  # of the class numbers of train, val and test, ten each
    odd: str = ""

    def load(self, split: str) -> Split:
        plain = make_split(classes=10, images=12, side=self.side, channels=self.channels)
        plain.images[:] = self.value
        first = self.start + 10 * ("train", "val", "test").index(split)
        names = [f"class{first + k}" for k in range(10)]
        files = [f"{name}_{i}" for name in names for i in range(12)]
        found = replace(plain, ids=[f"fake:{name}" for name in names], names=names, files=files, note=self.odd)
        turns = torch.arange(10) % 4
        return {
            "": found,
            "turned": replace(found, turns=turns),
            "random": replace(found, random_turns=True),
            "grouped": replace(found, group=torch.arange(120)),
            "fixed": replace(found, fixed=FixedEpisodes(torch.arange(10)[None], 1, 1, ["run"], {})),
            "kin": replace(found, families=build_families(names, self.name, lambda name: str(int(name[5:]) % 10 < 4))),
        }[self.odd]


def node(name, value, channels=1, side=4, start=0, odd=""):
    target = f"{Fake.__module__}.{Fake.__qualname__}"
    values = {"name": name, "value": value, "channels": channels, "side": side, "start": start, "odd": odd}
    return {"_target_": target, **values}


def union(weights=None, **members):
    given = {"dark": node("dark", 50, 3, 6), "light": node("light", 200, start=100)} | members
    return Union(given, weights or {}, 4, 1)


def test_the_images_and_classes_of_all_members_are_there():
    split = union().load("train")
    assert split.images.shape == (240, 1, 4, 4)
    assert split.images[:120].unique().tolist() == [50]
    assert split.images[120:].unique().tolist() == [200]
    assert split.ids == [f"fake:class{k}" for k in (*range(10), *range(100, 110))]
    assert split.names[10] == "light/class100"
    assert split.files[120] == "light/class100_0"
    assert split.first.tolist() == list(range(0, 240, 12))
    assert split.note == "dark: images [3, 6, 6] made [1, 4, 4], as the union's other images"


@pytest.mark.parametrize(("weights", "share"), [({}, 0.5), ({"light": 3}, 0.25)])
def test_an_episode_is_of_one_member_as_often_as_its_weight_says(weights, share):
    source = EpisodeSampler(union(weights).load("train"), 5, 1, 2, 1000, 0, "train", CPU)
    x = torch.cat([part.x for part in source(0)], 1).flatten(1)
    assert (x == x[:, :1]).all()
    assert abs((x[:, 0] * 255).round().eq(50).float().mean() - share) < 0.05


def test_members_keep_their_turns_and_families():
    kin_of = node("light", 200, start=100, odd="kin")
    split = union({"light": 2}, dark=node("dark", 50, odd="turned"), light=kin_of).load("train")
    assert split.turns is not None
    assert split.turns.tolist() == [k % 4 for k in range(10)] + [0] * 10
    assert split.families is not None
    assert split.families.names == ["dark", "False", "True"]
    assert split.families.source == ["dark", "light", "light"]
    assert split.families.weight.tolist() == [1, 1, 1]
    assert split.families.family.tolist() == [0] * 10 + [2] * 4 + [1] * 6


def test_a_class_in_ones_training_and_the_others_validation_is_refused():
    overlapping = union(light=node("light", 200, start=6))
    overlapping.load("train")
    said = r"^6 validation classes of dark stand in the training split of light, fake:class10 the first: .* leave out "
    with pytest.raises(UserError, match=said):  # dark has 10..19 for validation, light 6..15 to train on
        overlapping.load("val")


@pytest.mark.parametrize(
    ("odd", "said"),
    [("random", "turns its images at random"), ("grouped", r"members\.light\.group"), ("fixed", "episodes of its own")],
)
def test_what_cannot_be_a_member_is_told(odd, said):
    with pytest.raises(UserError, match=said):
        union(light=node("light", 200, start=100, odd=odd)).load("train")


def test_classes_of_one_name_are_excused_in_the_members_that_say_so():
    own = {"_target_": "metalab.data.Folder", "root": None, "cache": None, "size": 16, "channels": 1}
    own |= {"ratios": [0.6, 0.2, 0.2], "seed": 0, "strict": False}
    assert union(mine={**own, "allow_same_names": True}, yours=own).excused == ("mine/",)


def test_settings_are_checked():
    with pytest.raises(UserError, match=r"data=union has 0 members, 2 or more are expected: type \+data@data\.members"):
        Union({}, {}, 28, 1).load("train")
    with pytest.raises(UserError, match=r"data\.weights\.drak=1: expected a number above 0 for a member, here: dark, "):
        union({"drak": 1})
    with pytest.raises(UserError, match=r"data\.weights\.dark=0: expected a number above 0"):
        union({"dark": 0})
    with pytest.raises(UserError, match=r"data\.channels=2"):
        Union({}, {}, 28, 2)
    with pytest.raises(UserError, match=r"data\.members\.dark\.valeu=3: Fake has no such setting"):
        union(dark=node("dark", 1) | {"valeu": 3}).load("train")


def test_a_member_with_too_few_classes_is_named():
    split = union().load("train")
    with pytest.raises(
        UserError, match=r"the largest of dark in the train split, dark, has 10: type task\.train_way=10"
    ):
        EpisodeSampler(split, 11, 1, 2, 4, 0, "train", CPU)


@pytest.mark.slow
def test_it_trains_and_is_told_by_source_and_carries_all_ids(command_line, small, tiny_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fake = ",".join(f"{key}:{value}" for key, value in node("two", 200).items() if key != "odd")
    members = ("+data@data.members.one=tiny", f"+data.members.two={{{fake}}}", "data.members.one.absent=''")
    rest = ("data.size=16", "+data.weights.one=2", "hydra.run.dir=run", "eval.episodes=30", f"--config-dir={tiny_dir}")
    code, said = command_line("train", "data=union", *small.words[1:], *members, *rest)
    assert code == 0, said
    classes = checkpoint.load(tmp_path / "run" / "best.pt")["classes"]
    assert {name.partition(":")[0] for name in classes} == {"tiny", "fake"}
    named = (f"--config-dir={tiny_dir}", f"data.members.two._target_={node('two', 200)['_target_']}")
    code, said = command_line("eval", *named, "run=run", "hydra.run.dir=eval", "device=cpu")
    assert code == 0, said
    record = json.loads((tmp_path / "eval" / "eval.json").read_text())
    sources = record["sources"]
    assert sum(each["episodes"] for each in sources.values()) == 30
    assert sources["one"]["episodes"] > sources["two"]["episodes"] > 0
    mean = sum(each["accuracy"] * each["episodes"] for each in sources.values()) / 30
    assert mean == pytest.approx(record["accuracy"])
    assert f"of {sources['one']['episodes']} episodes" in " ".join(said.split())
