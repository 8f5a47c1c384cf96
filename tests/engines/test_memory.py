"""Host memory stays flat: no meta-step leaves anything behind."""

import gc

import pytest

from metalab.algorithms.gradient_based.maml import MAML
from metalab.algorithms.objectives.query_loss import QueryLoss
from metalab.data.sampling.episode_sampler import EpisodeSampler
from metalab.engines.learn2learn import Learn2Learn
from metalab.training import train
from tests.algorithms.made import episodes, net_of, objective, outer
from tests.data.sampling.test_prefetch import resident_kb


def test_a_meta_step_leaves_nothing_that_only_the_garbage_collector_finds():
    """Under vmap torch makes classes for each call of a function with its own derivative, which are such."""
    engine = Learn2Learn()
    algorithm = MAML(3, 0.1, False, "learned")
    net, aim, batch = net_of(algorithm), objective(QueryLoss, algorithm, 2), episodes()
    outer(engine, aim, net, batch)
    engine.evaluate(aim, net, batch)
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            outer(engine, aim, net, batch)
            engine.evaluate(aim, net, batch)
        assert gc.collect() < 30  # a net that holds itself is hundreds of objects a task
    finally:
        gc.enable()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("engine", ["learn2learn", "vectorized"])
def test_host_memory_does_not_rise_over_two_thousand_meta_steps(engine, small, tmp_path, monkeypatch):
    kept, drawn = [], EpisodeSampler.__call__

    def watched(self, step):
        if self.stream == "train" and step >= 1000 and step % 100 == 0:  # the first fill the allocator's pools
            kept.append(resident_kb())
        return drawn(self, step)

    monkeypatch.setattr(EpisodeSampler, "__call__", watched)
    words = ("algo=maml", f"engine={engine}", "train.meta_batch=1", "train.steps=2000", "train.val_every=2000")
    train.run(small(*words, "train.val_episodes=2", "train.log_every=1000", "train.workers=0"), tmp_path)
    half = len(kept) // 2
    assert half == 5
    risen = sum(kept[half:]) / half - sum(kept[:half]) / half  # over 500 steps
    assert risen < 1000, f"{risen:.0f} kB more"  # keeping each episode would be some 5 MB
