"""data=domains: one label space, nothing of the target in training but images without labels, none of them tested."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from metalab.core.errors import UserError
from metalab.core.interfaces import Split
from metalab.data.class_lists import SPLITS
from metalab.data.datasets.domain_classes import LabelSpace, without_labels
from metalab.data.datasets.drawings.usps import USPS
from metalab.data.identity.class_ids import UNLABELLED, seen_classes, seen_unlabelled, training_ids, unlabelled_facts
from metalab.data.sampling.mini_batches import MiniBatches
from tests.data.domains import CLASSES, domains, folders, mnist, usps

SHARED = Path(os.environ.get("METALAB_SHARED_DATA", "nowhere"))
real = pytest.mark.skipif(not (SHARED / "pacs").is_dir(), reason="needs METALAB_SHARED_DATA with mnist, usps and pacs")


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder with cache/, domains/ (three domains of three classes of ten images), mnist/, usps/ and permuted/."""
    root = tmp_path_factory.mktemp("domains")
    folders(root / "domains")
    mnist(root / "mnist")
    usps(root / "usps")
    usps(root / "permuted", permuted=True)
    return root


@pytest.fixture(scope="module")
def of_root(home):
    """Domains below one root: of_root(target="ink")."""
    return lambda **more: domains(root=str(home / "domains"), cache=str(home / "cache"), size=16, **more)


@pytest.fixture(scope="module")
def digits(home):
    """MNIST as the source of USPS: digits("usps")."""

    def made(target: str = "usps", **more):
        where = {
            "source_root": str(home / "mnist"),
            "target_root": str(home / target),
            "cache": str(home / target / "c"),
        }
        return domains(source="mnist", target="usps", **where, **more)

    return made


def test_training_and_validation_are_the_sources_and_the_test_is_the_targets(of_root):
    data = of_root(target="ink")
    assert data.sources == ["clay", "oil"]
    parts = {name: data.load(name) for name in SPLITS}
    assert {name: part.count.tolist() for name, part in parts.items()} == {
        "train": [14] * 3,  # two sources of 7, 1 and 2
        "val": [2] * 3,
        "test": [2] * 3,
    }
    assert all(part.by_image and part.names == list(CLASSES) for part in parts.values())
    assert {part.ids[1] for part in parts.values()} == {"folder:named:dog"}
    assert {file.split("/")[0] for name in ("train", "val") for file in parts[name].files} == {"clay", "oil"}
    assert {file.split("/")[0] for file in parts["test"].files} == {"ink"}
    for part in parts.values():  # each image stands under its own class
        for k, name in enumerate(CLASSES):
            first = int(part.first[k])
            assert {file.split("/")[1] for file in part.files[first : first + int(part.count[k])]} == {name}
            assert int(part.images[first, :, 4 * k + 1].max()) == 250
    assert parts["val"].target is None
    assert parts["test"].target is None
    assert "the tested images, a fifth of each class by seed 0, are none of those of ink" in parts["test"].note
    assert of_root(source="oil", target="ink").load("train").count.tolist() == [7] * 3


def test_the_target_stands_beside_training_without_labels_and_none_of_it_is_tested(of_root):
    data = of_root(target="ink")
    train, test = data.load("train"), data.load("test")
    assert train.target is not None
    assert (train.target.name, train.target.images.shape) == ("ink", (24, 3, 16, 16))
    assert not set(train.target.image_ids) & {*test.image_ids, *train.image_ids}
    assert len({*train.target.image_ids, *test.image_ids}) == 30
    assert train.target._fields == ("images", "image_ids", "name")  # no place for a label
    assert of_root(target=None).load("train").target is None
    assert of_root(target=None).load("test").count.tolist() == [6] * 3


def test_a_copy_of_a_tested_image_is_not_among_the_unlabelled(of_root):
    train = of_root(source="ink").load("train")
    whole = without_labels(train, "ink")
    some = without_labels(train, "ink", [train.image_ids[3], ""])
    assert (len(whole.images), len(some.images)) == (21, 20)
    assert set(whole.image_ids) - set(some.image_ids) == {train.image_ids[3]}
    by_id = {image: train.images[i] for i, image in enumerate(train.image_ids)}
    assert all(torch.equal(by_id[image], x) for image, x in zip(some.image_ids, some.images, strict=True))
    assert whole.image_ids != train.image_ids  # not class by class


def test_what_was_seen_unlabelled_is_on_the_record(of_root):
    data = of_root(target="ink")
    train, test = data.load("train"), data.load("test")
    assert train.target is not None
    carried = training_ids(train)
    assert {UNLABELLED + image for image in train.target.image_ids} <= carried
    assert unlabelled_facts(train) == {"unlabelled": "24 images of ink without labels"}
    assert not any(seen_unlabelled(test, carried))
    other = of_root(target="ink", seed=1).load("test")
    again = seen_unlabelled(other, carried)
    assert again == [image in set(train.target.image_ids) for image in other.image_ids]
    assert any(again)


def test_permuted_labels_of_the_target_change_nothing_that_training_sees(digits):
    one, other = (digits(target).load("train") for target in ("usps", "permuted"))
    assert one.target is not None
    assert other.target is not None
    assert torch.equal(one.target.images, other.target.images)
    assert one.target.image_ids == other.target.image_ids
    drawn = [MiniBatches(s, 6, 1, 0, "train", torch.device("cpu"))(3) for s in (one, other)]
    assert torch.equal(drawn[0].query.unlabelled, drawn[1].query.unlabelled)
    assert torch.equal(drawn[0].query.x, drawn[1].query.x)


def test_two_data_sets_have_one_size_and_the_sources_classes(home, digits):
    parts = {name: digits().load(name) for name in SPLITS}
    assert [part.count.tolist() for part in parts.values()] == [[18] * 10, [2] * 10, [6] * 10]
    assert {part.images.shape[1:] for part in parts.values()} == {(1, 28, 28)}
    assert all(part.ids == [f"mnist:{k}" for k in range(10)] for part in parts.values())
    assert parts["test"].aliases == [f"usps:{k}" for k in range(10)]
    assert parts["train"].target is not None
    assert len(parts["train"].target.images) == 120
    grey = digits(size=16, channels=3).load("test")
    plain = USPS(str(home / "usps"), str(home / "usps" / "c"), protocol="images").load("test")
    assert np.array_equal(grey.images[:, 1].numpy(), plain.images[:, 0].numpy())
    swapped = domains(
        source=["usps", "mnist"],
        source_root=[str(home / "usps"), str(home / "mnist")],
        cache=str(home / "cache2"),
    ).load("train")
    assert (swapped.ids[0], swapped.count.tolist(), swapped.images.shape[1:]) == ("usps:0", [29] * 10, (1, 16, 16))
    assert {"usps:3", "mnist:3"} <= training_ids(swapped)


def test_whole_classes_can_be_split_for_episodes(of_root):
    data = of_root(source="oil", target="ink", protocol="classes", classes=[1, 1, 1])
    parts = {name: data.load(name) for name in SPLITS}
    assert sorted(name for part in parts.values() for name in part.names) == sorted(CLASSES)
    assert [part.count.tolist() for part in parts.values()] == [[10]] * 3
    assert {file.split("/")[0] for file in parts["test"].files} == {"ink"}
    target = parts["train"].target
    assert target is not None
    assert len(target.images) == 10  # of the class that is trained on
    assert not set(target.image_ids) & set(parts["test"].image_ids)
    with pytest.raises(UserError, match=r"type how many, as data\.classes=\[4,1,2\]"):
        of_root(target="ink", protocol="classes")
    with pytest.raises(UserError, match=r"leaves no class for val"):
        of_root(target="ink", protocol="classes", classes=[2, 0, 1]).load("val")


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"root": None}, r"needs a folder of domains, or two data sets"),
        ({"target": "inc"}, r"data\.target=inc: there is no such domain in .*\. Did you mean ink\?"),
        ({"source": ["oil", "water"]}, r"data\.source=water: there is no such domain"),
        ({"source": "ink", "target": "ink"}, r"data\.target=ink is a source domain as well"),
        ({"source": ["oil", "oil"]}, r"expected one domain or several, each once"),
        ({"source_root": "x"}, r"data\.root has all domains: leave out data\.source_root"),
        ({"root": None, "source": "minst"}, r"minst is no data set that can be a domain\. Did you mean mnist\?"),
        ({"root": None, "source": "omniglot"}, r"omniglot splits classes alone"),
        ({"root": "nowhere"}, r"data\.root=nowhere does not exist: expected a folder of domain folders"),
    ],
)
def test_a_mistake_is_told_with_its_key(of_root, settings, why):
    with pytest.raises(UserError, match=why):
        domains(**{"root": of_root().root, **settings}).load("train")


def test_a_class_that_one_side_lacks_is_named(tmp_path):
    root = folders(tmp_path / "d")
    (root / "ink" / "emu").rename(root / "ink" / "eel")
    data = domains(root=str(root), source="oil", target="ink", cache=str(tmp_path / "c"), size=16)
    with pytest.raises(
        UserError, match=r"oil and ink are not of one label space, 2 classes .*: emu \(ink\), eel \(oil\)"
    ):
        data.load("train")
    with pytest.raises(UserError, match=r"mnist: data\.source_root=.* is not laid out as MNIST"):
        domains(source="mnist", source_root=str(root), cache=str(tmp_path / "c")).load("train")


@real
@pytest.mark.slow
def test_real_domains_are_whole(tmp_path):
    data = domains(root=str(SHARED / "pacs" / "pacs72.npz"), target="sketch", cache=str(tmp_path))
    train, val, test = (data.load(name) for name in SPLITS)
    assert train.target is not None
    assert len(train.target.images) + len(test.images) == 3929
    others = domains(root=str(SHARED / "pacs"), source=data.sources, cache=str(tmp_path)).load("test")
    assert len(train.images) + len(val.images) + len(others.images) == 9991 - 3929
    both = {"source_root": str(SHARED / "mnist"), "target_root": str(SHARED / "usps")}
    digits = domains(source="mnist", target="usps", cache=str(tmp_path), **both)
    assert len(digits.load("test").images) == 401
    seen = digits.load("train").target
    assert seen is not None
    assert seen.images.shape == (1606, 1, 28, 28)


def test_a_file_is_that_of_its_pixels_where_a_domain_spells_its_classes_in_another_order(tmp_path):
    root = folders(tmp_path / "d", 4)
    (root / "ink" / "emu").rename(root / "ink" / "Emu")  # which comes before cat
    test = domains(root=str(root), source="oil", target="ink", cache=str(tmp_path / "c"), size=16).load("test")
    assert [file.split("/")[1] for file in test.files] == ["cat", "dog", "Emu"]
    assert [int(image[1, 4 * k + 1].min()) for k, image in enumerate(test.images)] == [250] * 3


def test_two_classes_of_one_name_but_for_case_are_refused():
    two = torch.tensor([1, 1, 1])
    split = Split(
        torch.zeros(3, 1, 2, 2, dtype=torch.uint8), two.cumsum(0) - two, two, ["1", "2", "3"], ["cat", "Dog", "dog"]
    )
    with pytest.raises(UserError, match=r"^ink has two classes of one name, Dog and dog: .* rename one$"):
        LabelSpace("oil", ["cat", "dog"], ["cat", "dog"]).aligned(split, "ink")


def test_the_record_of_split_classes_has_no_other_class_of_any_domain(home):
    roots = {"source_root": [str(home / "mnist"), str(home / "usps")], "cache": str(home / "cache3")}
    data = domains(source=["mnist", "usps"], **roots, protocol="classes", classes=[4, 3, 3])
    train, test = data.load("train"), data.load("test")
    assert train.aliases == [each.replace("mnist", "usps") for each in train.ids]
    carried = {each for each in training_ids(train) if each.startswith(("mnist:", "usps:"))}
    assert len(carried) == 8
    assert seen_classes(test, carried) == []
    usps_alone = {each.replace("mnist", "usps") for each in test.ids[:2]}
    assert seen_classes(test, usps_alone) == sorted(test.ids[:2])


def test_a_class_of_the_training_is_no_new_class_of_the_target(of_root):
    one, other = (of_root(target="ink", protocol="classes", classes=[1, 1, 1], seed=seed) for seed in (0, 1))
    trained, tested = one.load("train"), other.load("test")
    assert seen_classes(one.load("test"), training_ids(trained)) == []
    assert seen_classes(tested, {"folder:named:" + tested.names[0]}) == tested.names
