"""By what a net that was trained on a split knows it again: global class ids, and digests of single images."""

import hashlib
import unicodedata
from collections.abc import Collection, Mapping, Sequence

from metalab.core.errors import UserError
from metalab.core.interfaces import Split, UnlabelledImages
from metalab.core.text import first_names, printable

OWN = "folder:"  # begins the ids of classes of the user's own, which are made of their images
NAMED = f"{OWN}named:"  # begins those of classes whose images are split: what such a class is called, and not made of
IMAGE = "image:"  # begins the ids of their images; the digest follows
PUBLISHED = "published:"  # begins those of a benchmark's images, by which a folder of its files is known
UNLABELLED = "unlabelled:"  # begins the ids of images of a target domain that training has seen; the image's id follows


def fingerprint(split: Split) -> str:
    """Return a hash of which images of which classes the split holds."""
    return hashlib.sha256(repr((split.ids, split.count.tolist(), split.files)).encode()).hexdigest()


def unlabelled_fingerprint(target: UnlabelledImages) -> str:
    """Return a hash of which images a target has, in their order."""
    return hashlib.sha256(repr((len(target.images), target.image_ids)).encode()).hexdigest()


def training_ids(split: Split) -> set[str]:
    """Return what a checkpoint that was trained on the split carries: the ids of its classes and images.

    Those of its target's images, which it sees without their labels, are there as well, marked as such.
    """
    unlabelled = [] if split.target is None else filter(None, split.target.image_ids)
    marked = {f"{UNLABELLED}{image}" for image in unlabelled}
    return {*split.ids, *filter(None, [*split.aliases, *split.image_ids, *_placed(split)]), *marked}


def unlabelled_facts(split: Split) -> dict[str, str]:
    """Return what a run's record says of the target's images that training sees without labels; nothing for none."""
    target = split.target
    return {} if target is None else {"unlabelled": f"{len(target.images)} images of {target.name} without labels"}


def seen_classes(split: Split, trained: Collection[str]) -> list[str]:
    """Return the classes of the split that were trained on, sorted, a class being known by one image, too.

    A published class is named by its id; one of the user's own, whose id says nothing to people, by its name. Of two
    benchmarks the ids decide alone, for some hold copies of an image in two of their own splits; of a class that is
    known by its name the images alone, for another person's class may be called the same. Where classes are split, the
    names are those of a label space of domains, and the class of one name is the same class in each of them.
    """
    trained = set(trained)
    found = set()
    seen = seen_images(split, trained)
    for k, class_id in enumerate(split.ids):
        first, count = int(split.first[k]), int(split.count[k])
        known = [i for i in (class_id, *split.aliases[k :: len(split.ids)]) if i in trained]
        if any(not (split.by_image and i.startswith(NAMED)) for i in known) or any(seen[first : first + count]):
            found.add(split.names[k] if class_id.startswith(OWN) else class_id)
    return sorted(found)


def seen_images(split: Split, trained: Collection[str]) -> list[bool]:
    """Return, for each image that has an id, whether it was trained on as an image of the user's own, or is one.

    An image of a benchmark whose images are split was so too where the same image of the same file was.
    """
    trained = set(trained)
    placed = _placed(split) or [""] * len(split.image_ids)
    return [
        not trained.isdisjoint(_copies(image)) or (bool(at) and at in trained)
        for image, at in zip(split.image_ids, placed, strict=True)
    ]


def seen_unlabelled(split: Split, trained: Collection[str]) -> list[bool]:
    """Return, for each image that has an id, whether training saw it without its label, as a target's."""
    seen = {image.removeprefix(UNLABELLED) for image in trained if image.startswith(UNLABELLED)}
    return [bool(image) and not seen.isdisjoint([image, *_copies(image)]) for image in split.image_ids]


def _placed(split: Split) -> list[str]:
    """Return the ids of a benchmark's images with their files, where the images are split; copies have other files.

    The last two parts of a path: a data set of domains has the same files below the name of each.
    """
    if not (split.by_image and split.files):
        return []
    return [
        f"{image}@{'/'.join(file.split('/')[-2:])}" if image.startswith(PUBLISHED) else ""
        for image, file in zip(split.image_ids, split.files, strict=False)
    ]


def _copies(image: str) -> list[str]:
    """Return the ids by which a checkpoint may know an image: one of two is the user's own.

    An image deeper than 8 bits has two digests, and checkpoints of older versions the second alone.
    """
    kind, _, digest = image.rpartition(":")
    if "+" in digest:
        return [image, IMAGE + digest.partition("+")[2]]
    return {IMAGE: [image, PUBLISHED + digest], PUBLISHED: [IMAGE + digest]}.get(f"{kind}:", [])


def refuse_twins(classes: Mapping[str, tuple[Sequence[str], Sequence[str]]]) -> None:
    """Raise UserError where two class folders have one id; `classes` has, for each split, the ids and the names."""
    homes: dict[str, str] = {}  # class id -> its folder
    for split, (ids, names) in classes.items():
        for class_id, name in zip(ids, names, strict=True):
            home = f"{name} ({split})"
            if class_id in homes:
                raise UserError(
                    f"the class folders {homes[class_id]} and {home} hold the same images: nothing can tell them "
                    "apart, and across splits they would leak; remove one of the two"
                )
            homes[class_id] = home


def repeated(image_ids: Sequence[str], count: Sequence[int]) -> int:
    """Return how many images are copies of others of their class; `count` has the images of each class, in order."""
    found = start = 0
    for images in count:
        own = list(filter(None, image_ids[start : start + images]))
        found, start = found + len(own) - len(set(own)), start + images
    return found


def one_name(name: str) -> str:
    """Return what all spellings of a class name have in common: whatever the case, composed or decomposed (a Mac's)."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def refuse_same_names(names: Mapping[str, Collection[str]], allowed: bool) -> str:
    """Return a note on the class names that stand in two splits; UserError, naming them, unless that is allowed."""
    homes: dict[str, dict[str, list[str]]] = {}  # name -> as it is spelled -> its splits
    for split, held in names.items():
        for name in held:
            homes.setdefault(one_name(name), {}).setdefault(name, []).append(split)
    twice = [
        " = ".join(f"{spelled(name, found)} ({' and '.join(splits)})" for name, splits in found.items())
        for found in homes.values()
        if len(set().union(*found.values())) > 1
    ]
    if twice and not allowed:
        raise UserError(
            f"{len(twice)} class names stand in two of train/ val/ test/: {first_names(twice)}. A class that is "
            "trained on would be tested on: give each class to one of the three, or put all class folders into one "
            "folder, to be split by data.ratios. Where the same classes are to be trained and tested, on other images, "
            "type data.protocol=images algo=baseline, a plain classifier; where they are different classes, rename "
            "one, or type data.allow_same_names=true"
        )
    return f"{len(twice)} class names stand in two splits" if twice else ""


def spelled(name: str, beside: Collection[str]) -> str:
    """Return a class name as it can be shown, with escapes where people could not tell it from one beside it."""
    alike = sum(unicodedata.normalize("NFC", name) == unicodedata.normalize("NFC", other) for other in beside) > 1
    return ascii(name)[1:-1] if alike else printable(name)


def refuse_copies(images: Mapping[str, tuple[Sequence[str], Sequence[str]]], allowed: bool) -> str:
    """Return a note on the images that stand in two splits; UserError, naming them, unless that is allowed.

    `images` has, for each split, the id and the file of each image.
    """
    homes: dict[str, dict[str, str]] = {}  # image id -> split -> its first file
    for split, (ids, files) in images.items():
        for image, file in zip(ids, files, strict=True):
            homes.setdefault(image, {}).setdefault(split, file)
    pairs = [" = ".join(found.values()) for found in homes.values() if len(found) > 1]
    if pairs and not allowed:
        raise UserError(
            f"{len(pairs)} images stand in two splits: {first_names(pairs)}. What is trained on would be tested on: "
            "remove one of each pair, or type data.allow_copies=true to go on, with a note on every result"
        )
    return f"{len(pairs)} images stand in two splits" if pairs else ""
