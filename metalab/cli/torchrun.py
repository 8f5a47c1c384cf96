"""`torchrun --nproc-per-node=2 -m metalab train ...`: one training in several processes, which speak with one voice.

Rank 0 alone locks, writes and prints. Of a mistake or a failure, whichever process has it, one message is shown: that
of the process which is first, as the store of torchrun counts them.
"""

import os
import sys
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from metalab.core.errors import UserError
from metalab.distributed.processes import is_main, processes, several

if TYPE_CHECKING:
    from omegaconf import DictConfig

MUTE = ("hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=none", "hydra/hydra_logging=none")
PATIENCE = timedelta(seconds=10)  # with a store that does not answer


def run(command: Callable[[], None]) -> None:
    """Run a command in this process, one of several: quietly but in rank 0, with one message where it fails."""
    sys.stdout.flush()
    terminal = os.dup(2)
    if not is_main():
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
    try:
        command()
    except SystemExit as end:
        if not isinstance(end.code, str):
            raise
        _fail(f"{end.code}\n", terminal)
    except Exception:
        _fail(traceback.format_exc(), terminal)


def _fail(message: str, terminal: int) -> None:
    """Show a message, unless another process has shown one, and end at once: to take leave of others would wait."""
    if _first():
        os.write(terminal, message.encode(errors="backslashreplace"))
    sys.stdout.flush()
    os._exit(1)


def _first() -> bool:
    """Return whether no other process of this training has failed before; rank 0 where nobody counts."""
    import torch.distributed as dist

    try:
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = dist.TCPStore(address, port, is_master=False, timeout=PATIENCE)
        return store.add(f"metalab/failed/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", 1) == 1
    except RuntimeError:
        return is_main()


def refuse(command: str, sweep: str) -> None:
    """Raise UserError for a command that several processes do not share; sweep: the word that makes it one, or none."""
    count = processes().count
    if several() and command != "train":
        raise UserError(f"metalab {command} runs in one process, and torchrun started {count}: leave out torchrun")
    if several() and sweep:
        raise UserError(
            f"{sweep} is a sweep, and torchrun started {count} processes for one training: leave out one of the two"
        )


def muted(words: list[str]) -> list[str]:
    """Return the words of a command line with which Hydra writes nothing; as they are in the process that writes."""
    if is_main():
        return words
    keys = {word.partition("=")[0] for word in MUTE}
    return [*(word for word in words if word.partition("=")[0] not in keys), *MUTE]


def train(cfg: "DictConfig", out: Path) -> float:
    """Train as cfg says, one of several processes, in rank 0's folder out; return the best validation accuracy."""
    if cfg.train.phases is not None:
        raise UserError(
            "train.phases trains several nets, one after another, which several processes do not share: leave out "
            "torchrun, or train each phase by itself, with train.init=RUN for those behind"
        )
    from metalab.distributed import group  # only now: they load torch
    from metalab.distributed.device import own_device
    from metalab.training import train

    with group.joined(own_device(str(cfg.device))):
        folder = group.from_main(str(out.absolute()))
        if cfg.resume is not None:
            cfg.resume = folder
        return train.run(cfg, Path(folder) if not is_main() else out)
