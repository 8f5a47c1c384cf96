"""Images dealt out to parts class by class, so that each part has all classes and no group stands in two parts."""

from collections import Counter
from collections.abc import Sequence

import numpy as np


def stratified_parts(classes: np.ndarray, groups: np.ndarray, shares: Sequence[float], seed: int) -> np.ndarray:
    """Deal out images to parts of these shares; each class has a group in each part that has a share, where it can.

    Without groups a part gets exactly its share of each class, rounded, but at least one image. Else the largest groups
    are dealt out first, those of one size in an order that `seed` draws, each to the part that lacks most of its
    classes. scikit-learn's StratifiedShuffleSplit knows no groups and may leave a small class out of a part, its
    GroupShuffleSplit knows no classes.

    Args:
        classes: int [N], the class of each image, 0..K-1.
        groups: int [N], what is never torn apart, 0..G-1; each image its own where nothing belongs together.
        shares: of the images, for each part, 0 or more, one of them above 0.
        seed: draws which images go where.

    Returns:
        int64 [N], the part of each image. A class of fewer groups than parts, or one whose groups have images of
        other classes, may lack a part.
    """
    used = [part for part, share in enumerate(shares) if share > 0]
    wanted = [_wanted(n, {part: shares[part] for part in used}) for n in np.bincount(classes).tolist()]
    order = np.random.default_rng(seed).permutation(int(groups.max()) + 1)
    deal = _deal_images if len(order) == len(groups) else _deal_groups
    return deal(classes, groups, wanted, order)[groups]


def stratified_folds(classes: np.ndarray, groups: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """Return int64 [N], the fold in which each image is tested, 0..folds-1, as scikit-learn draws them by `seed`.

    Its StratifiedKFold, or, where images belong together, StratifiedGroupKFold. Arguments as of stratified_parts.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold  # a second, which no --help waits for

    alone = int(groups.max()) + 1 == len(groups)
    kind = StratifiedKFold if alone else StratifiedGroupKFold
    drawn = kind(folds, shuffle=True, random_state=seed).split(classes, classes, None if alone else groups)
    fold = np.zeros(len(classes), dtype=np.int64)
    for number, (_, tested) in enumerate(drawn):
        fold[tested] = number
    return fold


def belonging_together(*labels: np.ndarray) -> np.ndarray:
    """Return int64 [N], 0..G-1 as they first occur: images that share a label of any kind are of one group.

    Each of `labels` is [N], of anything that numpy compares.
    """
    if len(labels) == 1:
        _, first, group = np.unique(labels[0], return_index=True, return_inverse=True)
        return first.argsort().argsort()[group]
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    images = np.arange(len(labels[0]))
    nodes, start = [], len(images)  # the images, then the labels of each kind
    for kind in labels:
        _, number = np.unique(kind, return_inverse=True)
        nodes.append(start + number)
        start += int(number.max()) + 1
    ends = np.concatenate(nodes)
    edges = (np.ones(len(ends)), (np.tile(images, len(labels)), ends))
    _, component = connected_components(coo_array(edges, shape=(start, start)), directed=False)
    return np.unique(component[images], return_inverse=True)[1]


def _deal_images(
    classes: np.ndarray, groups: np.ndarray, wanted: list[dict[int, int]], order: np.ndarray
) -> np.ndarray:
    """Return int64 [G], the part of each group, where each is one image: in their order, so many of each class."""
    home, class_of = np.zeros(len(order), dtype=np.int64), classes[np.argsort(groups)][order]
    for k, parts in enumerate(wanted):
        own = order[class_of == k]
        home[own] = np.repeat(list(parts), list(parts.values()))[: len(own)]
    return home


def _deal_groups(
    classes: np.ndarray, groups: np.ndarray, wanted: list[dict[int, int]], order: np.ndarray
) -> np.ndarray:
    """Return int64 [G], the part of each group: the largest first, each to the part that lacks most of its classes."""
    left = [dict(parts) for parts in wanted]
    held: list[Counter[int]] = [Counter() for _ in order]
    for group, k in zip(groups.tolist(), classes.tolist(), strict=True):
        held[group][k] += 1
    home = np.zeros(len(order), dtype=np.int64)
    for group in sorted(order.tolist(), key=lambda g: -held[g].total()):
        lacking = {p: sum(n * left[k][p] / wanted[k][p] for k, n in held[group].items()) for p in wanted[0]}
        home[group] = part = max(lacking, key=lacking.__getitem__)  # of equal ones the first
        for k, n in held[group].items():
            left[k][part] -= n
    return home


def _wanted(images: int, shares: dict[int, float]) -> dict[int, int]:
    """Return how many of a class's images each part should have, 1 or more: the largest share takes what is left."""
    total = sum(shares.values())
    wanted = {part: max(1, round(images * share / total)) for part, share in shares.items()}
    largest = max(shares, key=shares.__getitem__)
    return wanted | {largest: max(1, images - sum(n for part, n in wanted.items() if part != largest))}
