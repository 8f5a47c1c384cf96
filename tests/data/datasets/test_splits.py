"""The shipped class lists: equal to the published ones, disjoint, and their known overlaps are refused."""

import csv
import json
import os
from pathlib import Path

import pytest
import torch

from metalab.config.schema import Eval
from metalab.core.errors import UserError
from metalab.core.interfaces import Split
from metalab.data.class_lists import SPLITS, class_list, class_splits
from metalab.data.datasets.photos.cifar100 import CIFAR_FS, FC_100
from metalab.data.datasets.photos.cub import PROTOCOLS
from metalab.data.datasets.photos.miniimagenet import BENCHMARK as MINI
from metalab.data.datasets.photos.tieredimagenet import BENCHMARK as TIERED
from metalab.evaluation.leakage import refuse_trained_on

SHARED = os.environ.get("METALAB_SHARED_DATA")
real = pytest.mark.skipif(
    not SHARED, reason="METALAB_SHARED_DATA is unset: there are no published lists to compare with"
)
SIZES = {
    "cifarfs": (64, 16, 20),
    "fc100": (60, 20, 20),
    "tieredimagenet": (351, 97, 160),
    "cub_closerlook": (100, 50, 50),
    "cub_metadataset": (140, 30, 30),
    "aircraft_metadataset": (70, 15, 15),
    "dtd_metadataset": (33, 7, 7),
    "fungi_metadataset": (994, 200, 200),
    "quickdraw_metadataset": (241, 52, 52),
    "vgg_flower_metadataset": (71, 15, 16),
}


@pytest.mark.parametrize("name", SIZES)
def test_lists_have_their_sizes_no_class_twice_and_name_source_and_licence(name):
    lists = [class_list(f"{name}_{split}") for split in SPLITS]
    assert tuple(map(len, lists)) == SIZES[name]
    assert len(class_splits(name)) == sum(SIZES[name])
    for split in SPLITS:
        head = (Path(__file__).parents[3] / "metalab" / "data" / "splits" / f"{name}_{split}.txt").read_text("utf-8")
        assert "# Source: github.com/" in head
        assert "# Licence: " in head


def published(name: str, split: str) -> set[str]:
    """Return the classes of a published list, in whatever form it was published."""
    lists = Path(str(SHARED)) / "splits"
    if name == "cifarfs":
        return set((lists / "cifar_fs" / f"{split}.txt").read_text().split())
    if name == "fc100":  # superclasses; which classes are theirs, CIFAR-100 says
        import numpy as np

        z = np.load(lists.parent / "cifar100" / "cifar100_jpeg95.npz")
        superclasses = json.loads((lists / "fc100" / f"{split}.json").read_text())
        return {
            str(k) for k, c in zip(z["class_names"], z["coarse"], strict=True) if z["coarse_names"][c] in superclasses
        }
    if name == "tieredimagenet":
        return {row[0] for row in csv.reader((lists / "tiered" / f"{split}.csv").open()) if row}
    if name == "cub_closerlook":
        return set(json.loads((lists / "cub" / f"{split}.json").read_text()))
    file = name.removesuffix("_metadataset").replace("cub", "cu_birds")
    return set(json.loads((lists / "meta_dataset" / f"{file}_splits.json").read_text())[split.replace("val", "valid")])


@real
@pytest.mark.parametrize("name", SIZES)
def test_shipped_lists_are_the_published_ones(name):
    for split in SPLITS:
        assert set(class_list(f"{name}_{split}")) == published(name, split)


OVERLAPS = [  # trained on, tested on, classes that are both
    (CIFAR_FS, FC_100, 11),
    (FC_100, CIFAR_FS, 11),
    (MINI, TIERED, 13),
    (TIERED, MINI, 5),
    (PROTOCOLS["closerlook"], PROTOCOLS["metadataset"], 14),
    (MINI, MINI, 0),
    (MINI, FC_100, 0),
]


@pytest.mark.parametrize(("trained", "tested", "shared"), OVERLAPS)
def test_classes_that_one_data_set_trains_and_another_tests_are_refused(tmp_path, trained, tested, shared):
    ids = {
        name: [f"{b.prefix}:{each}" for each, split in b.splits.items() if split == name]
        for b, name in ((trained, "train"), (tested, "test"))
    }
    one = torch.ones(len(ids["test"]), dtype=torch.int64)
    split = Split(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), one.cumsum(0) - 1, one, ids["test"], ids["test"])
    strict = Eval(episodes=2, bn=None, split="test", allow_overlap=False, batch=1)
    if not shared:
        assert refuse_trained_on(split, ids["train"], strict, tmp_path) == []
        return
    with pytest.raises(UserError, match=f"was trained on {shared} of the {len(ids['test'])} classes of the test split"):
        refuse_trained_on(split, ids["train"], strict, tmp_path)
    allowed = Eval(episodes=2, bn=None, split="test", allow_overlap=True, batch=1)
    assert len(refuse_trained_on(split, ids["train"], allowed, tmp_path)) == shared
