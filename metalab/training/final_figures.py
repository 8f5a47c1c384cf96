"""The pictures of a finished training: one validation episode, and the accuracy after each inner step."""

from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import nn

from metalab.core.interfaces import Engine, EpisodeSource, Objective
from metalab.core.statistics import mean_ci95
from metalab.evaluation.measure import outcome
from metalab.tracking import figures
from metalab.tracking.run_logger import Log


def save_final_figures(
    net: nn.Module,
    engine: Engine,
    curve: Objective,
    source: EpisodeSource,
    bn: str,
    log: Log,
    step: int,
    out: Path,
) -> None:
    """Draw the first meta-batch of a source into TensorBoard and as episode.png and adaptation.png in out.

    `curve` is an objectives.curve.Curve, or one for each way. Mini-batches without a support adapt to nothing.
    """
    episodes = source(0)
    result = outcome(engine, curve, net, episodes, bn)
    support, query = episodes
    right = result.correct[0].float().mean().item()
    what = "one validation episode" if support.y.numel() else "validation images"
    episode = figures.episode(
        support.x[0].cpu(),
        support.y[0].cpu(),
        query.x[0].cpu(),
        query.y[0].cpu(),
        result.scalars["predicted"][0].cpu(),
        f"{what} after step {step}: {100 * right:.1f} % right",
    )
    _save("episode", episode, log, step, out)
    if not support.y.numel():
        return
    points = [
        result.scalars[f"accuracy/{i}"].double().cpu().numpy() for i in range(len(result.scalars) - 1)
    ]  # one an inner step, each [T]
    means, halves = zip(*(mean_ci95(p) for p in points), strict=True)
    tasks = torch.numel(result.loss)
    way = int(support.y[0].max()) + 1
    over = f"{tasks} validation episodes" if tasks > 1 else "one validation episode"
    adaptation = figures.adaptation_curve(means, halves, f"adaptation on {over}", way)
    _save("adaptation", adaptation, log, step, out)


def _save(name: str, figure: Figure, log: Log, step: int, out: Path) -> None:
    log.figure(f"val/{name}", figure, step)
    figures.save(figure, out / f"{name}.png")
