"""What a process makes of a meta-batch is what one process makes of all of it; alone, nothing is different."""

import sys

import pytest
import torch
from torch.utils._pytree import tree_flatten

from metalab.core.interfaces import Batch, Episode
from metalab.data.sampling.augment import Augment
from metalab.data.sampling.episode_sampler import EpisodeSampler
from metalab.data.sampling.mini_batches import MiniBatches
from metalab.data.sampling.replay import ReplayedBatches, ReplayedEpisodes
from metalab.distributed.agreement import agreed
from metalab.engines.learn2learn import Learn2Learn
from metalab.engines.shared import shared
from metalab.engines.shared_draws import SharedDraws, WholeBatch
from metalab.engines.vectorized import Vectorized
from metalab.training import train

TASKS, CPU = 5, torch.device("cpu")
PARTS = (slice(0, 2), slice(2, 5))
AUGMENT = Augment(2, 0.5, 0.2, 10.0)


def episodes(split, part, tasks=TASKS, stream="train"):
    return EpisodeSampler(split, 3, 1, 2, tasks, 0, stream, CPU, augment=AUGMENT, part=part)


def batches(split, part, images=6):
    return MiniBatches(split, images, TASKS, 0, "train", CPU, AUGMENT, part)


SOURCES = {
    "episodes": episodes,
    "mini-batches": batches,
    "replayed mini-batches": lambda split, part: ReplayedBatches(batches(split, part, 4), batches(split, part, 2)),
    "replayed episodes": lambda split, part: ReplayedEpisodes(
        episodes(split, slice(None), 1), episodes(split, slice(None), 1, "again"), TASKS, 0.4, part
    ),
}


@pytest.mark.parametrize("name", SOURCES)
def test_the_parts_of_a_meta_batch_are_together_the_whole_bit_for_bit(tiny, name):
    for step in (0, 1, 60):
        whole = SOURCES[name](tiny["train"], slice(None))(step)
        parts = [SOURCES[name](tiny["train"], part)(step) for part in PARTS]
        assert [len(part.query.y) for part in parts] == [2, 3]
        joined = Episode(
            *(
                Batch(*(torch.cat(tensors) for tensors in zip(*sides, strict=True)))
                for sides in zip(*parts, strict=True)
            )
        )
        for ours, theirs in zip(tree_flatten(joined)[0], tree_flatten(whole)[0], strict=True):
            assert torch.equal(ours, theirs)


def test_one_process_has_its_engine_itself_and_sends_nothing(small, tmp_path, monkeypatch):
    engine = Learn2Learn()
    assert shared(engine, 4) is engine
    assert agreed("the end") == ("the end", None, None)
    monkeypatch.setitem(sys.modules, "metalab.distributed.group", None)  # who imports it fails
    train.run(small("train.steps=2"), tmp_path / "run")
    assert (tmp_path / "run" / "last.pt").is_file()


@pytest.mark.parametrize("draw", ["rand", "randn", "bernoulli", "dropout"])
def test_under_vmap_each_share_draws_its_rows_of_what_all_tasks_draw(draw):
    makes = {
        "rand": torch.rand_like,
        "randn": torch.randn_like,
        "bernoulli": lambda x: torch.bernoulli(x, 0.5),
        "dropout": lambda x: torch.dropout(x, 0.5, True),
    }
    x = torch.rand(TASKS, 4, 3)
    run = torch.vmap(makes[draw], randomness="different")
    torch.manual_seed(1)
    whole, end = run(x), torch.get_rng_state()
    for part in PARTS:
        torch.manual_seed(1)
        with WholeBatch(part, TASKS):
            assert torch.equal(run(x[part]), whole[part])
        assert torch.equal(torch.get_rng_state(), end)


def test_a_chunked_engine_that_draws_is_refused(small):
    draws = SharedDraws(Vectorized(1), slice(0, 2), 4)
    draws._one = [lambda: None]
    with pytest.raises(Exception, match=r"engine\.chunk=null"):
        draws.grad(None, None, None, None)  # type: ignore[arg-type]
