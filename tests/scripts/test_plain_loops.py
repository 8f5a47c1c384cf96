"""Both sides of scripts/plain_loops.py run, and a variant changes what it says; the rest is measured elsewhere."""

import json
import os
from pathlib import Path

import pytest
import yaml

from tests.scripts.test_scripts import script

OMNIGLOT = Path(os.environ.get("METALAB_SHARED_DATA", "nowhere")) / "omniglot"


@pytest.mark.slow
@pytest.mark.skipif(not OMNIGLOT.is_dir(), reason="needs METALAB_SHARED_DATA, a folder with omniglot/")
@pytest.mark.parametrize("method", ["protonet", "maml"])
def test_both_sides_have_the_same_losses_where_their_ingredients_are_the_same(method):
    loops = script("plain_loops")
    words = ["--root", str(OMNIGLOT), "--smoke", "--device", "cpu", "--method", method]
    words += ["--set=backbone.filters=4", "--set=train.meta_batch=1", "--set=task.train_way=5"]
    given = loops.arguments(words)
    apart = ",passes=apart" if method == "protonet" else ""
    rows = [
        loops.job(variant, 0, given)
        for variant in (f"plain:init=torch{apart}", "metalab:init=torch,normalize=none", "metalab:init=metalab")
    ]
    plain, ours, other = (sum(row["losses"]) / len(row["losses"]) for row in rows)
    assert ours == pytest.approx(plain, rel=1e-3)
    assert abs(other - plain) > 1e-2
    assert json.loads(json.dumps(rows))[0]["results"]["batch"][0] > 0
    assert len(loops.summary(rows)) == 3


@pytest.mark.parametrize("method", ["protonet", "maml"])
def test_metalabs_side_starts_as_its_experiment_does(method, command_line):
    """The script trained omniglot_protonet, which starts as torch does, from Xavier's weights."""
    code, said = command_line("train", f"experiment=omniglot_{method}", "--cfg", "job")
    assert code == 0, said
    weights = yaml.safe_load(said[said.index("seed:") :])["train"]["weights"]
    assert script("plain_loops").ingredients("metalab", method)[1]["init"] == (weights or "metalab")


def test_a_variant_that_there_is_not_is_named():
    with pytest.raises(SystemExit, match="metalab:passes=together: expected plain or metalab"):
        script("plain_loops").ingredients("metalab:passes=together")
