"""The size of an episode: whether a split can give it, and what to type where it cannot."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from torch import Tensor

from metalab.core.errors import UserError
from metalab.core.interfaces import ClassFamilies, FixedEpisodes, Split
from metalab.core.text import first_names
from metalab.data.sampling.class_families import largest

# A split -> the random numbers by which `metalab eval` draws from it: with training's own, episodes of the same size
# would be the very ones that were trained on. Validation's are those of every validation, by which best.pt was chosen.
EVALUATED = {"train": "eval/train", "val": "val", "test": "test"}
Numbers = Callable[..., Tensor]  # shape -> uniform float64, from the block's generator


class EpisodeSize(NamedTuple):
    """The size of an episode."""

    way: int
    shot: int
    query: int
    unlabelled: int = 0  # images a class without a label, beside the support
    distractors: int = 0  # classes that have nothing but unlabelled images
    shots: tuple[int, ...] | None = None  # of the classes, in an order that is drawn; then shot is the largest of them

    @property
    def a_class(self) -> int:
        """Images that a class must have."""
        return self.shot + self.query + self.unlabelled

    @property
    def support(self) -> int:
        """How many images are support."""
        return self.way * self.shot if self.shots is None else sum(self.shots)

    @property
    def edges(self) -> list[int]:
        """How many images are support, query and unlabelled."""
        return [self.support, self.way * self.query, (self.way + self.distractors) * self.unlabelled]


def check(split: Split, sizes: EpisodeSize, stream: str) -> None:
    """Raise UserError when the split cannot give one episode of this size; the stream says whose split it is."""
    if split.fixed is not None:
        _check_fixed(split.fixed, sizes)
        return
    evaluated = {numbers: split for split, numbers in EVALUATED.items()}.get(stream)
    name, key = (evaluated, "task.") if evaluated else ("train", "task.train_")
    if sizes.distractors and not sizes.unlabelled:
        raise UserError(
            f"task.distractors={sizes.distractors} without unlabelled images: type task.unlabelled=5, so many a class, "
            "or task.distractors=0"
        )
    _check_classes(len(split.ids), sizes, name, key)
    if split.families is not None:
        _check_families(split.families, sizes, name, key)
    smallest = int(split.count.argmin())
    images = int(split.count[smallest])
    if images < sizes.a_class:
        every = _listed(zip(split.names, split.count.tolist(), strict=True), sizes)
        beside = f" and {sizes.unlabelled} unlabelled" if sizes.unlabelled else ""
        raise UserError(
            f"class {smallest} ({split.names[smallest]}) of the {name} split has {images} images, {sizes.shot}-shot "
            f"with {sizes.query} queries{beside} needs {sizes.a_class}; {len(every)} of "
            f"{len(split.ids)} classes have too few: {_advice(images, sizes, key)}, or add images to these classes, or "
            f"leave the classes out: {first_names(every, 50)}"
        )


def too_small(held: Mapping[str, Mapping[str, int]], wanted: Mapping[str, EpisodeSize], families: bool) -> str:
    """Return in words what of all splits is too small for their episodes, with what to type; nothing where all is well.

    held: split -> class -> images. Wanted: split -> the size of its episodes. families: each episode is of some classes
    only, and how many there are says nothing.
    """
    wanted = {split: sizes for split, sizes in wanted.items() if held.get(split)}
    found = []
    for split, sizes in wanted.items():
        classes, needed = held[split], sizes.way + sizes.distractors
        if small := _listed(classes.items(), sizes):
            found.append(
                f"{len(small)} of the {len(classes)} {split} classes have fewer images: {first_names(small, 50)}"
            )
        elif len(classes) < needed and not families:
            found.append(f"{split} has {len(classes)} classes, and an episode {needed}")
    if not found:
        return ""
    advice = ", or ".join(_to_type(held, wanted, families))
    return f"an episode needs {_needs(wanted)}. {'; '.join(found)}: {advice}, or add images"


def _to_type(held: Mapping[str, Mapping[str, int]], wanted: Mapping[str, EpisodeSize], families: bool) -> Iterator[str]:
    """Yield what helps where the episodes of some split are larger than it allows."""
    lacking = {split: sizes.a_class - min(held[split].values()) for split, sizes in wanted.items()}
    worst = max(lacking, key=lambda split: lacking[split])
    if lacking[worst] <= 0:
        yield "type a smaller task.way"
        return
    key = "task.train_" if worst == "train" and len(set(wanted.values())) > 1 else "task."
    yield _advice(min(held[worst].values()), wanted[worst], key)
    most = max(sizes.a_class for sizes in wanted.values())
    left = {split: sum(images >= most for images in held[split].values()) for split in wanted}
    if families:
        yield f"data.members.NAME.least={most} to leave the smaller classes of that member out"
    elif all(left[split] >= sizes.way + sizes.distractors for split, sizes in wanted.items()):
        yield f"data.least={most} to leave the smaller classes out"


def _needs(wanted: Mapping[str, EpisodeSize]) -> str:
    each = {f"{s.a_class} images a class ({s.shot}-shot with {s.query} queries": s.unlabelled for s in wanted.values()}
    return " or ".join(f"{words}{f' and {n} unlabelled' if n else ''})" for words, n in each.items())


def _listed(classes: Iterable[tuple[str, int]], sizes: EpisodeSize) -> list[str]:
    """Return the classes with too few images and how many they have, smallest first."""
    small = sorted((images, name) for name, images in classes if images < sizes.a_class)
    return [f"{name} ({images})" for images, name in small]


def _check_classes(classes: int, sizes: EpisodeSize, name: str, key: str) -> None:
    if sizes.way > classes:
        raise UserError(
            f"way={sizes.way} but the {name} split has {classes} classes: type {key}way={classes} or less, "
            "or add classes"
        )
    if sizes.way + sizes.distractors > classes:
        raise UserError(
            f"way={sizes.way} and {sizes.distractors} distractors are {sizes.way + sizes.distractors} classes, but the "
            f"{name} split has {classes}: type task.distractors={classes - sizes.way} or less, or add classes"
        )


def _check_families(families: ClassFamilies, sizes: EpisodeSize, name: str, key: str) -> None:
    """Raise UserError where a source has no family that is large enough; smaller families give no episode."""
    needed = sizes.way + sizes.distractors
    for source in dict.fromkeys(families.source):
        family, classes = largest(families, source)
        if classes < needed:
            beside = f" and {sizes.distractors} distractors" if sizes.distractors else ""
            raise UserError(
                f"way={sizes.way}{beside} but the classes of an episode are of one family, and the largest of {source} "
                f"in the {name} split, {family}, has {classes}: type {key}way={classes - sizes.distractors} or less"
            )


def _advice(images: int, sizes: EpisodeSize, key: str) -> str:
    labelled = sizes.shot + sizes.query
    if images > labelled:
        return f"type task.unlabelled={images - labelled} or less"
    beside = " task.unlabelled=0 and" if sizes.unlabelled else ""
    if images > sizes.shot:
        return f"type{beside} {key}query={images - sizes.shot} or less"
    if images > 1:
        return f"type{beside} a {key}shot and a {key}query that add up to {images} or less"
    return "one image cannot be both support and query"


def _check_fixed(fixed: FixedEpisodes, sizes: EpisodeSize) -> None:
    way, shot, query = fixed.classes.shape[1], fixed.shot, fixed.query
    if sizes != EpisodeSize(way, shot, query):
        raise UserError(
            f"these episodes are given, {way}-way {shot}-shot with {query} queries a class and nothing unlabelled: "
            f"type task.way={way} task.shot={shot} task.query={query} task.unlabelled=0 task.distractors=0"
        )
