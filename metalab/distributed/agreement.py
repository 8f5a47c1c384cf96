"""Decisions that every process of a training has to take alike, or one would wait for the others without an end."""

from signal import Signals

from metalab.distributed.processes import is_main, several


def agreed(
    end: str | None, stop: Signals | None = None, warned: Signals | None = None
) -> tuple[str | None, Signals | None, Signals | None]:
    """Return in every process what rank 0 has: clocks differ, and signals reach processes at different steps.

    Args:
        end: why a training ends, which rank 0 says.
        stop: the signal that stops it.
        warned: the signal that has it saved.
    """
    if not several():
        return end, stop, warned
    from metalab.distributed import group  # it loads torch.distributed

    ends, *signals = group.numbers_from_main(end is not None, stop or 0, warned or 0)
    stopped, told = (Signals(number) if number else None for number in signals)
    return (end if is_main() else "rank 0 ended the training") if ends else None, stopped, told
