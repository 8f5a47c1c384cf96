"""The engine that a configuration names, and its settings as a checkpoint keeps them."""

from typing import Any

from metalab.config.instantiate import public_path
from metalab.core.errors import UserError
from metalab.core.interfaces import Engine
from metalab.engines.auto import AutoEngine, Workload
from metalab.engines.vectorized import Vectorized


def engine_config(engine: Engine) -> dict[str, Any]:
    """Return the node that builds an engine as it is now, with the chunk that the memory left it: for checkpoints."""
    return {"_target_": public_path(type(engine)), **vars(engine)}


def select_engine(built: Engine | AutoEngine, work: Workload) -> Engine:
    """Return the engine that was built, and in the place of engine=auto the one that it takes for this work.

    UserError where the engine cannot do the work.
    """
    chosen = built.choose(work) if isinstance(built, AutoEngine) else built
    if isinstance(chosen, Vectorized) and work.checkpointing:
        raise UserError(
            "backbone.checkpointing=true: torch.func, by which engine=vectorized works, has no gradient checkpointing; "
            "type engine=learn2learn, or backbone.checkpointing=false"
        )
    return chosen
