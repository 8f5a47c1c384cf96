"""Print the accuracy of the nearest support image on raw pixels: python scripts/pixel_nn.py --data glyphs."""

import argparse
import sys
from pathlib import Path

import torch
from omegaconf import OmegaConf

from metalab.config.image_preparation import fill_preparation
from metalab.config.instantiate import build, plain_group
from metalab.config.paths import conf_dir
from metalab.core.errors import UserError
from metalab.data.sampling.episode_sampler import EpisodeSampler
from metalab.data.sampling.episode_size import EVALUATED
from metalab.evaluation.pixel_baseline import pixel_nearest_neighbour


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = ", ".join(sorted(path.stem for path in (conf_dir() / "data").glob("*.yaml")))
    parser.add_argument("--data", default="glyphs", help=f"one of {names}, or the path of such a YAML file")
    parser.add_argument("--root", help="data.root: the folder with the data")
    parser.add_argument("--split", default="test", choices=("train", "val", "test"))
    parser.add_argument("--way", type=int, default=5)
    parser.add_argument("--shot", type=int, default=1)
    parser.add_argument("--query", type=int, default=15)
    parser.add_argument("--episodes", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Load the split, draw the episodes and print accuracy with its 95 % confidence interval."""
    given = arguments(argv)
    path = Path(given.data) if given.data.endswith(".yaml") else conf_dir() / "data" / f"{given.data}.yaml"
    if not path.is_file():
        raise UserError(f"--data {given.data}: no file {path}; --help lists the names")
    node = OmegaConf.load(path)
    root = {} if given.root is None else {"root": given.root}
    data = fill_preparation(plain_group(OmegaConf.merge(node, root), "data"))
    split = build(data, "data").load(given.split)
    cpu = torch.device("cpu")
    stream = EVALUATED[given.split]
    episodes = EpisodeSampler(split, given.way, given.shot, given.query, 10, given.seed, stream, cpu)
    accuracy, ci95 = pixel_nearest_neighbour(episodes, given.episodes)
    print(
        f"{given.data} {given.split} ({len(split.ids)} classes), {given.way}-way {given.shot}-shot, {given.query} "
        f"queries a class, {given.episodes} episodes: {100 * accuracy:.1f} +- {100 * ci95:.1f} %"
    )


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"pixel_nn: {error}")
