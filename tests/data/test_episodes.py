"""Episodes are a pure function of (seed, stream, step), and never show a query image in the support."""

import gc
import resource

import numpy as np
import pytest
import torch

from metalab.baseline import pixel_nearest_neighbour
from metalab.data import episodes as module
from metalab.data.episodes import Episodes
from metalab.errors import UserError
from metalab.interfaces import Split

CPU = torch.device("cpu")


def make_split(classes=12, images: int | list[int] = 9, side=4, channels=1, **more):
    """Make a split whose images have class and image number in their first two pixels, for checks by content."""
    counts = torch.full((classes,), images) if isinstance(images, int) else torch.tensor(images)
    classes, first = len(counts), counts.cumsum(0) - counts
    noise = torch.Generator().manual_seed(0)
    shape = (int(counts.sum()), channels, side, side)
    pixels = torch.randint(256, shape, generator=noise, dtype=torch.uint8)
    pixels[:, :, 0, 0] = torch.repeat_interleave(torch.arange(classes), counts)[:, None].byte()
    pixels[:, :, 0, 1] = (torch.arange(len(pixels)) % 256)[:, None].byte()
    names = [f"name{k}" for k in range(classes)]
    return Split(pixels, first, counts, [f"test:{k}" for k in range(classes)], names, **more)


def make(split=None, way=5, shot=2, query=3, tasks=4, seed=0, stream="train", **more):
    return Episodes(split or make_split(), way, shot, query, tasks, seed, stream, CPU, **more)


def make_one(split, step):
    episode = make(split, tasks=1)(step)
    return [t[0] for t in episode.support], [t[0] for t in episode.query]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


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


def test_unlabelled_images_are_of_the_episodes_classes_and_in_nothing_else():
    split = make_split()
    source = make(split, unlabelled=3, distractors=2, tasks=300)
    draw, episode = source.indices(0), source(0)
    assert episode.support.unlabelled.shape == (300, (5 + 2) * 3, 1, 4, 4)
    assert episode.query.unlabelled.shape == (300, 0, 1, 4, 4)
    assert episode.support.y.shape == (300, 10)
    assert draw.classes.shape == (300, 7)
    assert (draw.classes.sort(1).values.diff(dim=1) > 0).all()  # distractors are other classes
    assert (draw.image.sort(1).values.diff(dim=1) > 0).all()  # no image twice in an episode
    assert torch.equal(episode.support.unlabelled, split.images[draw.image[:, 25:]] / 255)
    pixels = (episode.support.unlabelled[:, :, 0, 0, 0] * 255).round().long()
    assert torch.equal(pixels, draw.classes.gather(1, draw.label[:, 25:]))
    assert (torch.nn.functional.one_hot(draw.label[:, 25:], 7).sum(1) == 3).all()  # as many of each class
    assert (draw.label[:, 25:].diff(dim=1) != 0).float().mean() > 0.8  # shuffled


def test_unlabelled_images_change_neither_support_nor_query():
    one, two = make().indices(3), make(unlabelled=3).indices(3)
    assert torch.equal(one.image, two.image[:, :25])
    assert torch.equal(one.label, two.label[:, :25])


def test_unlabelled_images_are_turned_as_their_class_is():
    draw = make(make_split(random_turns=True), unlabelled=2, tasks=200).indices(0)
    of_support = {
        (t, c): r
        for t in range(200)
        for c, r in zip(*map(torch.Tensor.tolist, (draw.label[t, :10], draw.turn[t, :10])), strict=True)
    }
    for t in range(200):
        for c, r in zip(draw.label[t, 25:].tolist(), draw.turn[t, 25:].tolist(), strict=True):
            assert of_support[t, c] == r


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
    there = Episodes(split, 5, 2, 3, 4, 0, "train", torch.device("cuda"))
    for step in (0, 70):
        a, b = make(split)(step), there(step)
        assert b.query.x.is_cuda
        assert b.query.y.is_cuda
        assert same(a.support, [t.cpu() for t in b.support])
        assert same(a.query, [t.cpu() for t in b.query])


def refusal(split, **more):
    with pytest.raises(UserError) as error:
        make(split, **more)
    return str(error.value)


def test_too_few_classes():
    text = refusal(make_split(classes=3), stream="test")
    assert text == "way=5 but the test split has 3 classes: type task.way=3 or less, or add classes"
    assert "the train split has 3 classes: type task.train_way=3 or less" in refusal(make_split(classes=3))


def test_too_few_images():
    split = make_split(images=[20, 20, 20, 20, 20, 20, 20, 15, 20, 19])
    text = refusal(split, shot=5, query=15, stream="test")
    assert text.startswith("class 7 (name7) of the test split has 15 images, 5-shot with 15 queries needs 20; ")
    assert "2 of 10 classes have too few: type task.query=10 or less, or add images" in text
    assert "type task.train_query=10 or less" in refusal(split, shot=5, query=15)


def test_too_few_images_for_the_shots():
    text = refusal(make_split(images=5), shot=5, query=15, stream="val")
    assert "has 5 images, 5-shot with 15 queries needs 20; 12 of 12" in text
    assert "type a task.shot and a task.query that add up to 5 or less" in text
    text = refusal(make_split(images=5), shot=5, query=15, stream="running")
    assert "of the train split" in text
    assert "type a task.train_shot and a task.train_query that add up to 5 or less" in text
    assert "one image cannot be both support and query" in refusal(make_split(images=1), shot=1, query=1)


def test_too_few_images_or_classes_for_the_unlabelled():
    text = refusal(make_split(images=9), unlabelled=5)
    assert "2-shot with 3 queries and 5 unlabelled needs 10; 12 of 12 classes have too few" in text
    assert "type task.unlabelled=4 or less" in text
    text = refusal(make_split(images=4), unlabelled=1)
    assert "type task.unlabelled=0 and task.train_query=2 or less" in text
    text = refusal(make_split(), unlabelled=1, distractors=8)
    assert text.startswith(
        "way=5 and 8 distractors are 13 classes, but the train split has 12: type task.distractors=7"
    )
    assert "task.distractors=1 without unlabelled images: type task.unlabelled=5" in refusal(
        make_split(), distractors=1
    )


def test_turns_need_squares():
    split = make_split()
    wide = Split(split.images[..., :3, :], split.first, split.count, split.ids, split.names, random_turns=True)
    assert "quarter turns need square images, and these are 3 x 4 pixels" in refusal(wide)
    upright = Split(split.images[..., :3, :], split.first, split.count, split.ids, split.names)
    assert make(upright)(0).support.x.shape == (4, 10, 1, 3, 4)


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
    assert ci95 == pytest.approx(1.96 * values.std().item() / 301**0.5, rel=1e-4)
