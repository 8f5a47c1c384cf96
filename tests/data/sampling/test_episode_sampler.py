"""Episodes are a pure function of (seed, stream, step), and never show a query image in the support."""

import gc
import resource

import numpy as np
import pytest
import torch

from metalab.core.interfaces import Split
from metalab.data.sampling import episode_sampler as module
from metalab.data.sampling.episode_sampler import EpisodeSampler
from metalab.evaluation.pixel_baseline import pixel_nearest_neighbour
from tests.data.made import make, make_one, make_split, same


def test_shapes_and_types():
    episode = make(make_split(channels=3))(0)
    assert episode.support.x.shape == (4, 10, 3, 4, 4)
    assert episode.query.x.shape == (4, 15, 3, 4, 4)
    assert episode.support.y.shape == (4, 10)
    assert episode.query.y.shape == (4, 15)
    assert episode.support.unlabelled.shape == episode.query.unlabelled.shape == (4, 0, 3, 4, 4)
    assert episode.support.x.dtype == torch.float32
    assert episode.support.y.dtype == torch.int64


def test_images_are_the_indexed_ones_in_0_to_1():
    split = make_split()
    source = make(split)
    draw, episode = source.indices(3), source(3)
    x = torch.cat([episode.support.x, episode.query.x], 1)
    assert torch.equal(x, split.images[draw.image] / 255)
    assert torch.equal((split.images[draw.image][..., 0, 0, 0]).long(), draw.classes.gather(1, draw.label))


def test_same_seed_stream_and_step_give_the_same_in_any_order():
    first, second = make(), make()
    later = [second.indices(step) for step in (200, 0, 7)]
    assert all(same(first.indices(step), draw) for step, draw in zip((200, 0, 7), later, strict=True))


@pytest.mark.parametrize("other", [{"seed": 1}, {"stream": "val"}])
def test_another_seed_or_stream_gives_other_episodes(other):
    assert not same(make().indices(0), make(**other).indices(0))


def test_blocks_differ():
    source = make(tasks=module.BLOCK_EPISODES)
    assert not torch.equal(source.indices(0).image, source.indices(1).image)


def test_episodes_do_not_depend_on_the_number_drawn_together():
    count = 3 * module.BLOCK_EPISODES + 12  # over the edges of blocks, at 7 in the middle of a meta-batch
    flat = [torch.cat([make(tasks=t).indices(s).image for s in range(-(-count // t))])[:count] for t in (4, 7, 300)]
    assert torch.equal(flat[0], flat[1])
    assert torch.equal(flat[0], flat[2])


def test_no_image_twice_and_no_class_twice():
    source = make(make_split(classes=6, images=5), tasks=500)
    draw = source.indices(0)
    assert (draw.image.sort(1).values.diff(dim=1) > 0).all()  # support and query images, all of one episode
    assert (draw.classes.sort(1).values.diff(dim=1) > 0).all()
    for part in (draw.label[:, :10], draw.label[:, 10:]):
        counts = torch.nn.functional.one_hot(part, 5).sum(1)
        assert (counts == part.shape[1] // 5).all()


def test_classes_of_different_sizes_give_only_their_own_images():
    split = make_split(images=[5, 50, 7, 20, 6, 5])
    draw = make(split, tasks=400).indices(0)
    classes = draw.classes.gather(1, draw.label)
    assert (draw.image >= split.first[classes]).all()
    assert (draw.image < (split.first + split.count)[classes]).all()
    assert len(draw.image.unique()) == len(split.images)  # none is out of reach


def test_classes_images_and_labels_are_uniform():
    draw = make(tasks=4000).indices(0)
    chosen = draw.classes.flatten().bincount(minlength=12)
    expected = 4000 * 5 / 12
    assert ((chosen - expected) ** 2 / expected).sum() < 31.3  # chi-square, 11 degrees of freedom, p = 0.001
    by_label = torch.stack([draw.classes[:, label].bincount(minlength=12) for label in range(5)])
    assert ((by_label - 4000 / 12) ** 2 / (4000 / 12)).sum() < 95  # labels are shuffled; 55 degrees of freedom
    images = draw.image[:, :10].flatten().bincount(minlength=108)  # every image may be a support image
    assert ((images - 4000 * 10 / 108) ** 2 / (4000 * 10 / 108)).sum() < 160


def test_the_order_of_images_is_shuffled_within_support_and_query():
    draw = make(tasks=2000).indices(0)
    for part in (draw.label[:, :10], draw.label[:, 10:]):
        first_half = part[:, : part.shape[1] // 2].double().mean()
        assert abs(first_half - 2) < 0.05  # labels in order would give 1 or less
        assert (part.sort(1).values != part).any(1).float().mean() > 0.99


def test_fixed_turns_are_torch_rot90():
    split = make_split(classes=8, turns=torch.arange(8) % 4)
    source = make(split)
    draw, episode = source.indices(0), source(0)
    x = torch.cat([episode.support.x, episode.query.x], 1)
    assert torch.equal(draw.turn, draw.classes.gather(1, draw.label) % 4)
    for t in range(4):
        for i in range(25):
            upright = split.images[draw.image[t, i]] / 255
            assert torch.equal(x[t, i], torch.rot90(upright, int(draw.turn[t, i]), (-2, -1)))


def test_random_turns_are_one_for_each_class_of_each_episode():
    draw = make(make_split(random_turns=True), tasks=1000).indices(0)
    by_class = torch.stack([draw.turn.masked_fill(draw.label != label, 0).amax(1) for label in range(5)], 1)
    assert torch.equal(by_class.gather(1, draw.label), draw.turn)  # support and query of a class alike
    counts = by_class.flatten().bincount(minlength=4)
    assert ((counts - 1250) ** 2 / 1250).sum() < 16.3  # 3 degrees of freedom
    assert (by_class != by_class[:, :1]).any(1).float().mean() > 0.9  # not one angle for all classes of a task
    assert (draw.classes.sort(1).values.diff(dim=1) > 0).all()  # no character twice, whatever its turn


def test_memory_mapped_images_give_the_same_as_images_in_memory(tmp_path):
    split = make_split(turns=torch.arange(12) % 4)
    split.images.numpy().tofile(tmp_path / "images")
    mapped = np.memmap(tmp_path / "images", np.uint8, "c", shape=tuple(split.images.shape))
    other = Split(torch.from_numpy(mapped), split.first, split.count, split.ids, split.names, turns=split.turns)
    a, b = make(split)(5), make(other)(5)
    assert same(a.support, b.support)
    assert same(a.query, b.query)


def test_host_memory_is_flat():
    source = make(make_split(classes=100, images=40, side=28), way=20, tasks=4)
    for step in range(100):
        source(step)
    gc.collect()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for step in range(100, 400):
        source(step)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30_000  # kB; keeping all would be 376 MB


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("fits", [True, False])
def test_the_gpu_sees_the_same_episodes(fits, monkeypatch):
    if not fits:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 0))
    split = make_split(turns=torch.arange(12) % 4, random_turns=True)
    there = EpisodeSampler(split, 5, 2, 3, 4, 0, "train", torch.device("cuda"))
    for step in (0, 70):
        a, b = make(split)(step), there(step)
        assert b.query.x.is_cuda
        assert b.query.y.is_cuda
        assert same(a.support, [t.cpu() for t in b.support])
        assert same(a.query, [t.cpu() for t in b.query])


def test_pixel_nearest_neighbour_by_hand():
    base = torch.eye(16).mul(255).byte().view(16, 1, 4, 4)
    images = base.repeat_interleave(6, 0)  # 16 classes of 6 equal images: never wrong
    count = torch.full((16,), 6)
    ids = [str(k) for k in range(16)]
    clear = Split(images, count.cumsum(0) - count, count, ids, ids)
    assert pixel_nearest_neighbour(make(clear), 50) == (1.0, 0.0)
    noise = make_split(images=20, side=16)
    accuracy, ci95 = pixel_nearest_neighbour(make(noise, tasks=8), 301)  # 301: the last meta-batch is cut
    assert abs(accuracy - 0.2) < 0.03  # chance
    values = []
    for step in range(301):  # one query after another
        (x, y, _), (queries, labels, _) = make_one(noise, step)
        cosines = [torch.cosine_similarity(x.flatten(1), query.flatten()[None]) for query in queries]
        right = [y[c.argmax()] == label for c, label in zip(cosines, labels, strict=True)]
        values.append(sum(right) / len(right))
    values = torch.tensor(values)
    assert accuracy == pytest.approx(values.mean().item())
    assert ci95 == pytest.approx(1.9679 * values.std().item() / 301**0.5, rel=1e-4)
