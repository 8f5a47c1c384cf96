"""The engine that a configuration names, and its settings as a checkpoint keeps them."""

from typing import Any

from metalab.config.instantiate import public_path
from metalab.core.interfaces import Engine
from metalab.engines.auto import AutoEngine, Workload


def engine_config(engine: Engine) -> dict[str, Any]:
    """Return the node that builds an engine as it is now, with the chunk that the memory left it: for checkpoints."""
    return {"_target_": public_path(type(engine)), **vars(engine)}


def select_engine(built: Engine | AutoEngine, work: Workload) -> Engine:
    """Return the engine that was built, and in the place of engine=auto the one that it takes for this work."""
    return built.choose(work) if isinstance(built, AutoEngine) else built
