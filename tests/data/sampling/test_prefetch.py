"""Episodes made ahead are the same ones, in any order, and memory stays flat."""

import threading

import pytest
import torch

from metalab.core.errors import UserError
from metalab.data.sampling.build import prefetched
from metalab.data.sampling.prefetch import Prefetcher
from metalab.tracking import checkpoint
from metalab.training import train
from tests.data.made import make, make_split, same


def resident_kb() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4


def test_the_episodes_are_the_same_over_blocks_and_jumps():
    split = make_split(classes=60, images=40)
    plain, ahead = make(split, tasks=100), Prefetcher(make(split, tasks=100), 3)
    for step in (*range(12), 40, 41, 3, 500):
        a, b = plain(step), ahead(step)
        assert same(a.support, b.support)
        assert same(a.query, b.query)


def test_threads_that_draw_other_blocks_do_not_disturb_each_other():
    source = make(make_split(classes=60, images=40), tasks=100)
    expected = {step: make(make_split(classes=60, images=40), tasks=100).indices(step).image for step in range(24)}
    wrong = []

    def work(offset: int) -> None:
        for step in list(range(offset, 24, 4)) * 5:
            if not torch.equal(source.indices(step).image, expected[step]):
                wrong.append(step)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_the_next_ones_are_begun_before_they_are_asked_for():
    begun = []
    together = threading.Event()

    def source(step):
        begun.append(step)
        if len(begun) == 3:
            together.set()
        assert together.wait(10)
        return make()(step)

    Prefetcher(source, 3)(5)
    assert sorted(begun)[:3] == [5, 6, 7]


def test_what_fails_is_raised_at_its_step():
    def source(step):
        if step == 2:
            raise UserError("step 2 cannot be made")
        return make()(step)

    ahead = Prefetcher(source, 2)
    ahead(0)
    ahead(1)
    with pytest.raises(UserError, match="step 2 cannot be made"):
        ahead(2)


def test_images_that_are_where_training_is_are_not_made_ahead():
    source, images, cpu = make(), make_split().images, torch.device("cpu")
    assert prefetched(source, images, None, cpu) is source
    assert isinstance(prefetched(source, images, None, torch.device("cuda")), Prefetcher)
    assert isinstance(prefetched(source, images, 1, cpu), Prefetcher)
    assert prefetched(source, images, 0, torch.device("cuda")) is source
    with pytest.raises(UserError, match=r"train\.workers=-1"):
        Prefetcher(source, -1)


@pytest.mark.slow
def test_training_with_workers_is_training_without(small, tmp_path):
    weights = []
    for workers in (0, 2):
        train.run(small(f"train.workers={workers}", "train.val_episodes=2"), tmp_path / f"{workers}")
        weights.append(checkpoint.load(tmp_path / f"{workers}" / "last.pt")["net"])
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("workers", [0, 2])
def test_host_memory_does_not_rise_over_10000_steps(workers):
    episodes = make(make_split(classes=8, images=4, side=2), way=2, shot=1, query=1, tasks=1)
    source = Prefetcher(episodes, workers) if workers else episodes
    kept = []
    for step in range(12_000):
        source(step)
        if step >= 2000 and step % 100 == 0:  # the first steps fill the allocator's pools
            kept.append(resident_kb())
    half = len(kept) // 2
    risen = sum(kept[half:]) / half - sum(kept[:half]) / half  # over 5,000 steps
    assert risen < 1000, f"{risen:.0f} kB more"  # keeping each episode would be some 10 MB
