"""`metalab train resume=SWEEP`: all jobs of a sweep that came to no end go on, or begin, under any launcher.

Each is a job of a multirun in the sweep's own folder, so that -m is understood, whether it is typed or not. A job whose
folder holds a checkpoint goes on bit for bit, as resume=RUN does; another begins with its own words. Which they are is
read from sweep.json, job.json and, of older sweeps, Hydra's multirun.yaml.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import OverrideParseException

from metalab.cli import allowed_imports, run_overrides, sweeps
from metalab.cli.quoting import quote_override
from metalab.cli.sweep_jobs import every_job, find_plan, holds_run
from metalab.cli.sweeps import Job, Sweep
from metalab.config import import_policy
from metalab.config.paths import at_home
from metalab.core.errors import UserError
from metalab.tracking.run_lock import refuse_busy


@dataclass(frozen=True)
class Rest:
    """What is to be done for a sweep that goes on."""

    folder: Path
    plan: Sweep
    every: list[Job]
    todo: list[Job]  # of them, those that are not finished
    word: str  # resume=...
    words: list[str]  # of the command line, but that one

    @property
    def begun(self) -> list[Path]:
        """The folders of jobs that have saved."""
        return [Path(job.folder) for job in self.todo if holds_run(Path(job.folder))]

    @property
    def added(self) -> list[str]:
        """Words that make each unfinished job one of this command's jobs, in its own folder."""
        names = [_quoted(str(Path(job.folder).relative_to(self.folder))) for job in self.todo]
        where = [f"hydra.sweep.dir={_quoted(str(self.folder.absolute()))}", "hydra.sweep.subdir=${resume}"]
        return [f"resume={','.join(names)}", *where, "hydra.output_subdir=null"]


_next: list[Rest] = []  # from `expect` to `begin`: nothing is written before Hydra has composed the sweep


def find_rest(words: list[str]) -> Rest | None:
    """Return what is left to do where resume= names a sweep; None where it names no sweep.

    Raises:
        UserError: where nothing is left, another process writes one of its runs, or it is no sweep of trainings.
    """
    word, folder = _named(words)
    if folder is None or (plan := find_plan(folder)) is None:
        return None
    if plan.command != "train":
        raise UserError(f"{folder} is a sweep of metalab {plan.command}, which does not go on: type its command again")
    every = every_job(folder, plan)
    rest = Rest(
        folder,
        plan,
        every,
        [job for job in every if job.state != "done"],
        word,
        [each for each in words if each != word],
    )
    _refuse_running(rest)
    if not rest.todo:
        raise UserError(
            f"all {len(every)} jobs of {folder} are finished. To train one of them further type "
            f"resume={every[0].folder if every else folder} and a higher train.steps"
        )
    _refuse_choices(rest)
    _refuse_parts(rest.todo, rest.words)
    return rest


def primary(rest: Rest) -> str:
    """Return the name of the primary configuration, which knows the keys of all that goes on."""
    if not (begun := rest.begun):
        return "train"
    run_overrides.register_all("train", begun)
    return run_overrides.ALL


def expect(rest: Rest | None) -> None:
    """Have `begin` note that this sweep goes on; None: the command's is a new one."""
    _next[:] = [] if rest is None else [rest]


def begin() -> bool:
    """Note that the sweep which this command is to go on with begins; False where it is a new one."""
    if not _next:
        return False
    rest = _next.pop()
    _say(rest)
    ids = {*rest.plan.earlier, rest.plan.id, *(job.sweep for job in rest.every)}
    plan = replace(rest.plan, stopped=False, begins=len(rest.todo), earlier=sorted(ids))
    now = sweeps.begin(rest.folder.absolute(), plan)
    for job in rest.todo:
        folder = Path(job.folder).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        nobody = {"pid": None, "host": None, "started": None}
        sweeps.record(replace(job, folder=str(folder), state="waiting", sweep=now.id, again=True, **nobody))
    return True


def _named(words: list[str]) -> tuple[str, Path | None]:
    """Return the word that names what is to go on, and that folder; None where none does, or it names a run."""
    for word in words:
        override = _parsed(word)
        if override is None or override.key_or_group != "resume" or override.is_sweep_override():
            continue
        value = override.value()
        given = value.text if isinstance(value, QuotedString) else value
        if given not in (None, "", "latest") and not isinstance(given, (list, dict)):
            folder = Path(str(given))
            return word, folder if folder.is_dir() and not holds_run(folder) else None
    return "", None


def _parsed(word: str) -> Override | None:
    """Return what Hydra reads in a word; None: it says what is wrong with it."""
    try:
        [override] = OverridesParser.create().parse_overrides([quote_override(at_home(word), True)])
    except OverrideParseException:
        return None
    return override


def _refuse_running(rest: Rest) -> None:
    """Raise UserError where a job is being written: by a process of this machine, or by who holds its run's lock."""
    if rest.plan.alive_here:
        raise UserError(
            f"{rest.folder} still runs, by process {rest.plan.pid} on {rest.plan.host}: wait for it or stop it"
        )
    for job in rest.todo:
        if job.alive_here:
            raise UserError(f"{job.folder} is being written by process {job.pid} on {job.host}: its sweep still runs")
        refuse_busy(Path(job.folder))


def _refuse_choices(rest: Rest) -> None:
    """Raise UserError for a word with several values: each job that goes on has one folder and one value."""
    for word in rest.words:
        override = _parsed(word)
        if override is not None and override.is_sweep_override():
            raise UserError(
                f"{word}: {rest.word} goes on with jobs that each have their own words, and a word beside it holds for "
                "all of them: give it one value"
            )


def _refuse_parts(rest: list[Job], typed: list[str]) -> None:
    """Raise UserError where the record of a job that is to begin would have a module imported that is not metalab's."""
    own = allowed_imports.named_by_words(typed)
    for job in rest:
        found = () if holds_run(Path(job.folder)) else allowed_imports.named_by_words(job.words)
        if foreign := sorted(path for path in found if not import_policy.own(path) and path not in own):
            raise UserError(
                f"{job.name} names {foreign[0]}, which is no part of metalab, and a sweep's folder is data, from which "
                "no module is imported. Where it is your own, type that word again beside resume="
            )


def _say(rest: Rest) -> None:
    finished = len(rest.every) - len(rest.todo)
    print(f"{rest.folder}: {finished} of its {len(rest.every)} jobs are finished and left alone; to do:")
    for job in rest.todo:
        print(f"  {job.name}: {'goes on' if holds_run(Path(job.folder)) else 'begins'}", flush=True)


def _quoted(text: str) -> str:
    return QuotedString(text, Quote.single).with_quotes()
