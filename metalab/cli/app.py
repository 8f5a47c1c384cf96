"""The command line: `metalab train|eval|data`, with the whole of Hydra behind it. The only file that touches argv."""

import json
import logging
import os
import sys
from pathlib import Path
from typing import cast

from metalab import __version__
from metalab.cli import streams
from metalab.cli.help import COMMANDS, DATA_USAGE, FLAGS, USAGE, VERBS
from metalab.cli.jobs import JOBS, Defect
from metalab.core.errors import UsageError, UserError
from metalab.tracking.provenance import COMMAND


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
