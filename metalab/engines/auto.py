"""The choice of an engine by measurements that ship with the package: a run and its repetition choose alike."""

import csv
import logging
import math
from dataclasses import dataclass, field
from pathlib import Path

from metalab.core.interfaces import Backbone, Engine
from metalab.engines.learn2learn import Learn2Learn
from metalab.engines.precision import Precision
from metalab.engines.vectorized import Vectorized
from metalab.models.backbones import Conv4

TABLE = Path(__file__).parent / "measured.csv"  # written by the command that stands in its first line
GAIN = 1.2  # how much faster than task by task it must have been: two processes differ by less
logger = logging.getLogger("metalab")


@dataclass(frozen=True)
class Workload:
    """What one meta-step does, as far as the choice looks at it."""

    device: str  # cpu or cuda
    algo: str | None  # an algorithm's name, as reports have it; None: an evaluation
    size: int  # pixels, height and width
    tasks: int
    images: int  # support and query of one task
    steps: int  # inner steps; 0: a metric method
    filters: int | None  # of a conv4; None: another backbone, of which nothing was measured
    checkpointing: bool = field(
        default=False, kw_only=True
    )  # the net computes activations again for the gradient, which torch.func cannot
    features: bool = field(default=False, kw_only=True)  # an evaluation's episodes are of stored features


def conv4_filters(backbone: Backbone) -> int | None:
    """Return the filters of a backbone, as Workload has them."""
    return backbone.filters if isinstance(backbone, Conv4) else None


def checkpoints(backbone: Backbone) -> bool:
    """Return whether a backbone's net computes its activations again for the gradient."""
    return bool(getattr(backbone, "checkpointing", False))


@dataclass(frozen=True)
class Measurement:
    """One measurement: milliseconds of a meta-step task by task, and with so many tasks at once."""

    work: Workload
    chunk: int | None
    learn2learn: float
    vectorized: float

    def near(self, work: Workload) -> bool:
        """Whether the row says something about this work: half to twice as much of it, a quarter to four times."""
        mine = self.work
        alike = mine.device == work.device and (mine.steps == 0) == (work.steps == 0)
        if not alike or mine.filters is None or work.filters is None:
            return False
        within = ((mine.size, work.size, 1.5), (mine.tasks, work.tasks, 4.0), (mine.images, work.images, 2.0))
        within += ((mine.steps or 1, work.steps or 1, 3.0), (mine.filters, work.filters, 1.5))
        return all(abs(math.log(a / b)) <= math.log(most) for a, b, most in within)


@dataclass(frozen=True)
class AutoEngine:
    """Take the engine that was faster where it was measured, and learn2learn's where nothing near was."""

    precision: Precision
    graphs: bool | None = None  # see Vectorized

    def choose(self, work: Workload) -> Engine:
        """Return the engine for this work and say which it is; the same work gives the same engine everywhere."""
        if work.checkpointing:
            logger.info("engine=auto takes learn2learn: gradient checkpointing does not work under torch.func")
            return Learn2Learn(self.precision)
        if work.device == "cuda":
            logger.info(
                "engine=auto takes vectorized: on a GPU one task after another is bound by the launches of its kernels "
                "(docs/performance.md)"
            )
            return Vectorized(None, self.precision, self.graphs)
        if work.features:
            logger.info(
                "engine=auto takes vectorized: on stored features one task after another is bound by the calls of "
                "small operations (docs/performance.md)"
            )
            return Vectorized(None, self.precision, self.graphs)
        if work.algo is None:
            logger.info("engine=auto takes learn2learn: on a CPU an evaluation gains nothing from vectorized")
            return Learn2Learn(self.precision)
        near = [row for row in table() if row.near(work)]
        near = [row for row in near if row.work.algo == work.algo] or near
        gains = [row.learn2learn / row.vectorized for row in near]
        if not near or min(gains) < GAIN:
            why = (
                f"vectorized was measured at {min(gains):.2f} times its speed" if near else "nothing near was measured"
            )
            logger.info(f"engine=auto takes learn2learn: {why}")
            return Learn2Learn(self.precision)
        chunk = near[gains.index(min(gains))].chunk
        at_once = "all tasks" if chunk is None else f"{chunk} tasks"
        logger.info(f"engine=auto takes vectorized, {at_once} at once: {min(gains):.2f} times learn2learn's speed")
        return Vectorized(chunk, self.precision, self.graphs)


def table(path: Path = TABLE) -> list[Measurement]:
    """Read the measurements; lines that start with # say where they come from."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return [
        Measurement(
            Workload(r["device"], r["algo"], *(int(r[key]) for key in ("size", "tasks", "images", "steps", "filters"))),
            int(r["chunk"]) if r["chunk"] else None,
            float(r["learn2learn_ms"]),
            float(r["vectorized_ms"]),
        )
        for r in csv.DictReader(lines)
    ]
