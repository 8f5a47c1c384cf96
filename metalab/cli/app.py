"""The command line: `metalab train|eval|data`, with the whole of Hydra behind it. The only file that touches argv."""

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from metalab import __version__
from metalab.cli import streams
from metalab.cli.help import COMMANDS, DATA_USAGE, FLAGS, USAGE, VERBS
from metalab.core.errors import UsageError, UserError
from metalab.tracking.provenance import COMMAND

if TYPE_CHECKING:  # --help and TAB must be quick: whatever is heavy is imported where it is used
    from omegaconf import DictConfig


class Defect(Exception):
    """What a job raised that is no mistake of the user's: its cause is shown with its traceback."""


def main() -> None:
    """Run the command in sys.argv; exit code 0, 1 (a mistake), 2 (usage), 130 (Ctrl-C) or 141 (a closed pipe)."""
    streams.tolerate_encodings()
    os.environ[COMMAND] = json.dumps(sys.argv)
    try:
        _main()
    except OSError as error:
        if error.errno not in streams.FULL or error.filename is not None:
            raise
        streams.refused(error)
    finally:
        os.environ.pop(COMMAND, None)
        streams.flush()


def _main() -> None:
    commands, *rest = sys.argv[1:] or ["--help"]
    logging.raiseExceptions = False  # a log line that nobody reads any more is no error
    os.environ["MPLBACKEND"] = "agg"  # pictures go into files; a notebook's backend, inherited, may not be here
    try:
        if commands in ("-h", "--help"):
            print(USAGE, end="")
        elif commands == "--version":
            print(f"metalab {__version__}")
        elif commands in COMMANDS:
            _check_here()
            _run_hydra(commands, rest)
        elif commands == "data":
            _check_here()
            _data(rest)
        elif commands in ("-sc", "--shell-completion"):
            _complete(rest)
        else:
            known = f"{', '.join(COMMANDS)} or data"
            sys.stderr.write(f"metalab: unknown command {commands!r}, expected {known}\n\n{USAGE}")
            sys.exit(2)
        sys.stdout.flush()
    except UserError as error:
        sys.exit(f"metalab: {error}")
    except KeyboardInterrupt:
        sys.stderr.write("metalab: stopped\n")
        sys.exit(130)
    except BrokenPipeError:  # | head has seen enough
        streams.silence()
        sys.exit(141)


def _check_here() -> None:
    """Raise UserError where the current folder is gone: outputs go below it, and paths are found from it."""
    try:
        os.getcwd()
    except FileNotFoundError:
        raise UserError("the current folder has been deleted: change to one that is there, as cd ~") from None


def _data(words: list[str]) -> None:
    """Run `metalab data VERB ...`; exit code 2 where the words make no sense."""
    verb, *rest = words or [""]
    if verb in ("-h", "--help") or "--help" in rest:
        print(DATA_USAGE, end="")
        return
    if verb not in VERBS:
        what = f"unknown command 'data {verb}', expected" if verb else "data needs"
        sys.stderr.write(f"metalab: {what} one of: {', '.join(VERBS)}\n\n{DATA_USAGE}")
        sys.exit(2)
    from metalab.cli.data import arguments, commands

    try:
        code = commands.run(verb, arguments.check_arguments(verb, rest))
        sys.stdout.flush()
        sys.exit(code)
    except UsageError as error:
        sys.stderr.write(f"metalab: {error}\n")
        sys.exit(2)


def _complete(rest: list[str]) -> None:
    """Answer the shell, which calls `metalab -sc query=bash` with the line so far in COMP_LINE."""
    line = os.environ.get("COMP_LINE")
    if line is None and not any(word.startswith(("install=", "uninstall=")) for word in rest):
        raise UserError("-sc query=... is the shell's, which says what is typed; you type metalab -sc install=bash")
    if line is None:
        return _run_hydra("train", ["-sc", *rest])
    program, *words = line.split()
    arguments = "" if line[-1].isspace() else words.pop()
    if arguments.startswith("-"):  # Hydra takes half a flag for a mistake
        print("\n".join(flag for flag in FLAGS if flag.startswith(arguments)))
    elif not words or words == ["data"]:
        print("\n".join(each for each in (VERBS if words else (*COMMANDS, "data")) if each.startswith(arguments)))
    elif words[0] == "data":
        from metalab.config.paths import conf_dir

        names = sorted(path.stem for path in (conf_dir() / "data").glob(f"{arguments}*.yaml"))
        print("\n".join(names if len(words) == 2 else ()))
    elif words[0] in COMMANDS:
        os.environ["COMP_LINE"] = " ".join([program, *words[1:], arguments])  # Hydra knows no subcommand
        _run_hydra(words[0], ["-sc", *rest], words[1:])


def _run_hydra(commands: str, given: list[str], arguments: list[str] | None = None) -> None:
    """Hand the words behind the command to Hydra; `arguments`: the words that the shell wants completed."""
    from hydra import version
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from metalab.cli import hydra_private, run_overrides, sweeps
    from metalab.config.paths import conf_dir, given_path

    parser = hydra_private.args_parser()
    args = parser.parse_args(given)
    if args.config_dir is not None:
        args.config_dir = str(given_path(args.config_dir, "--config-dir", "my_conf"))
    name = commands
    try:
        words, name = run_overrides.prepare(commands, args.overrides if arguments is None else arguments, args.multirun)
        args.overrides = [words.get(word, word) for word in args.overrides]
    except UserError:
        if arguments is None:
            raise  # while a line is typed, its runs need not be there yet
    args.resolve = args.resolve or args.help
    version.setbase("1.3")
    try:
        hydra_private.run(args, parser, JOBS[commands], str(conf_dir()), name)
    except Defect as defect:
        raise cast(BaseException, defect.__cause__) from None
    except BrokenPipeError:
        raise  # no mistake of anybody's
    except (HydraException, OmegaConfBaseException, ValueError, OSError) as error:
        if any(job.state == "failed" for job in sweeps.jobs()):  # and told
            sys.exit(1)
        if os.environ[hydra_private.FULL_ERROR] == "1":
            raise
        from metalab.cli import suggestions

        raise UserError(suggestions.explain_hydra_error(error, name, list(map(str, args.overrides)))) from error
    finally:
        _tell_sweep(commands)


def _tell_sweep(command: str) -> None:
    """Say which jobs of a sweep failed, and show the matrix of its evaluations, by what stands in their folders."""
    from metalab.cli import sweeps

    jobs = sweeps.jobs()
    sweeps.forget()
    done = [(Path(job.folder), job.words) for job in jobs if job.state == "done"]
    if command == "eval" and len(jobs) > 1 and done:
        from metalab.core.optional_output import optional_output
        from metalab.tracking import sweep_table

        with optional_output("matrix.csv"):
            sweep_table.write(done, [job.words for job in jobs])
    if failed := [f"  {job.name}: {job.message}" for job in jobs if job.state == "failed"]:
        sys.stderr.write("\n".join([f"metalab: {len(failed)} of the sweep's jobs failed:", *failed, ""]))


def _train(cfg: "DictConfig") -> float:
    with _mistakes_told(), _parts_named():
        from metalab.cli import run_overrides
        from metalab.training import train

        out = run_overrides.out()
        if cfg.resume is not None:
            cfg.resume = str(out)  # runs.prepare made the resumed folder the output folder
        return train.run(cfg, out)


def _evaluate(cfg: "DictConfig") -> float:
    with _mistakes_told(), _parts_named():
        from metalab.cli import run_overrides

        pairs = run_overrides.compose_each(cfg)
        from metalab.evaluation import evaluate  # only now: it loads torch, and there may be nothing to evaluate

        return evaluate.run(pairs, run_overrides.out())


def _predict(cfg: "DictConfig") -> float:
    with _mistakes_told(), _parts_named():
        from metalab.cli import run_overrides

        folder, own = run_overrides.compose_one(cfg, "predict")
        from metalab.serving import predict  # only now: it loads torch

        return predict.run(folder, own, run_overrides.out())


def _demo(cfg: "DictConfig") -> None:
    with _mistakes_told(), _parts_named():
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        from metalab.cli import run_overrides

        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise UserError("demo shows one page until Ctrl-C: leave out -m")
        pairs = run_overrides.compose_each(cfg, "demo")
        if len(pairs) > 1:
            raise UserError(f"demo begins with one run, and run names {len(pairs)}: the page switches between runs")
        typed = run_overrides.words_for_other_runs()
        from metalab.serving.demo import job  # only now: it loads torch

        job.run(*pairs[0], run_overrides.out(), lambda folder: run_overrides.compose_run(folder, "demo", typed))


def _export(cfg: "DictConfig") -> float:
    with _mistakes_told(), _parts_named():
        from metalab.cli import run_overrides

        folder, own = run_overrides.compose_one(cfg, "export")
        from metalab.serving import export  # only now: it loads torch

        return export.run(folder, own, run_overrides.out())


JOBS = {"train": _train, "eval": _evaluate, "predict": _predict, "export": _export, "demo": _demo}


@contextmanager
def _parts_named() -> Iterator[None]:
    """Import meanwhile no part that is not metalab's, but those that this command names."""
    from metalab.cli import allowed_imports, run_overrides
    from metalab.config import import_policy

    with import_policy.allow_only(allowed_imports.named_parts(run_overrides.words(), run_overrides.GROUPS)):
        yield


@contextmanager
def _mistakes_told() -> Iterator[None]:
    """Leave a run with a message and no traceback at a UserError; in a sweep name the job and let the rest go on."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import CompactHydraException
    from hydra.types import RunMode
    from omegaconf.errors import OmegaConfBaseException

    from metalab.cli import sweeps

    job = HydraConfig.get()
    swept = job.mode == RunMode.MULTIRUN
    this = sweeps.Job(job.runtime.output_dir, job.job.num if swept else 0, list(job.overrides.task), "running")
    if swept:
        sweeps.record(this)
    streams.log_in_utf8()
    try:
        if job.job.chdir:
            raise UserError("hydra.job.chdir=true: runs and data are found from the folder you are in; leave it out")
        yield
        if swept:
            sweeps.record(replace(this, state="done"))
    except Exception as error:
        error = _named(error)
        mistake = isinstance(error, (UserError, OmegaConfBaseException, PermissionError))
        if not swept:
            if mistake:
                sys.exit(f"metalab: {error}")
            raise Defect from error
        message = str(error) if mistake else f"{type(error).__name__}: {error}"
        logging.getLogger("metalab").error("job %s failed: %s", this.name, message, exc_info=not mistake)
        sweeps.record(replace(this, state="failed", message=message))
        raise CompactHydraException(message) from None  # the one kind that Hydra shows without a traceback


def _named(error: Exception) -> Exception:
    """Return the error, as a UserError where it is the machine's: too little memory, a full disk."""
    if isinstance(error, OSError) and error.errno in streams.FULL:
        return UserError(f"{error}: make room on that disk; a training goes on from its last.pt with resume=")
    if isinstance(error, (MemoryError, RuntimeError)):
        from metalab.engines.vectorized import out_of_memory

        if isinstance(error, MemoryError) or out_of_memory(error):
            return UserError(
                f"the memory is too small ({str(error).splitlines()[0] if str(error) else 'MemoryError'}): try fewer "
                "episodes at once (train.meta_batch, eval.batch), fewer queries (task.query), fewer inner steps "
                "(algo.steps), smaller images (data.size) or a smaller backbone"
            )
    return error
