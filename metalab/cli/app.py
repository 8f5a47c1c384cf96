"""The command line: `metalab train|eval|data`, with the whole of Hydra behind it. The only file that touches argv."""

import json
import logging
import os
import sys
from typing import TYPE_CHECKING, cast

from metalab import __version__
from metalab.cli import streams, torchrun
from metalab.cli.help import COMMANDS, DATA_USAGE, FLAGS, RUNS_USAGE, USAGE, VERBS
from metalab.cli.jobs import Defect
from metalab.core.errors import UsageError, UserError
from metalab.distributed.processes import several
from metalab.tracking.provenance import COMMAND

if TYPE_CHECKING:  # --help and TAB must be quick
    from argparse import Namespace


def main() -> None:
    """Run the command in sys.argv; exit code 0, 1 (a mistake), 2 (usage), 130 (Ctrl-C) or 141 (a closed pipe)."""
    torchrun.run(_whole) if several() else _whole()


def _whole() -> None:
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
        elif commands == "runs":
            _check_here()
            _runs(rest)
        elif commands in ("-sc", "--shell-completion"):
            _complete(rest)
        else:
            known = f"{', '.join((*COMMANDS, 'runs'))} or data"
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


def _runs(words: list[str]) -> None:
    """Run `metalab runs ...`; exit code 2 where the words make no sense."""
    if "--help" in words or "-h" in words:
        print(RUNS_USAGE, end="")
        return
    from metalab.cli import runs_table

    try:
        runs_table.run(words)
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
        print(
            "\n".join(each for each in (VERBS if words else (*COMMANDS, "runs", "data")) if each.startswith(arguments))
        )
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

    from metalab.cli import hydra_private, job_process, suggestions, sweep_summary
    from metalab.config.paths import conf_dir, given_path

    parser = hydra_private.args_parser()
    args = parser.parse_args(given)
    torchrun.refuse(commands, "-m" if args.multirun else "")
    if args.config_dir is not None:
        args.config_dir = str(given_path(args.config_dir, "--config-dir", "my_conf"))
    name = commands
    try:
        name = _prepare(commands, args, arguments)
    except UserError:
        if arguments is None:
            raise  # while a line is typed, its runs need not be there yet
    args.resolve = args.resolve or args.help
    version.setbase("1.3")
    try:
        hydra_private.run(args, parser, job_process.Task(commands), str(conf_dir()), name)
    except Defect as defect:
        raise cast(BaseException, defect.__cause__) from None
    except (BrokenPipeError, UserError):
        raise  # no mistake of anybody's, or told
    except (HydraException, OmegaConfBaseException, ValueError, OSError) as error:
        suggestions.leave(error, name, list(map(str, args.overrides)))
    except Exception as error:
        suggestions.leave_launcher(error)
    finally:
        sweep_summary.tell(commands)


def _prepare(command: str, args: "Namespace", arguments: list[str] | None) -> str:
    """Change the words for Hydra, as runs are found and a sweep goes on; return the primary configuration's name."""
    from metalab.cli import run_overrides, sweep_resume
    from metalab.cli.search.words import search_words

    shown = args.cfg or args.info or args.help or args.hydra_help or arguments is not None
    rest = sweep_resume.find_rest(args.overrides) if command == "train" and arguments is None else None
    sweep_resume.expect(None if shown else rest)
    if rest is not None:
        torchrun.refuse(command, rest.word)
        args.overrides, args.multirun = rest.words, args.multirun or not shown
    words, name = run_overrides.prepare(command, args.overrides if arguments is None else arguments, args.multirun)
    args.overrides = [words.get(word, word) for word in args.overrides]
    if rest is None:
        args.overrides = search_words(list(map(str, args.overrides)), args.multirun, not shown)
    else:
        name, args.overrides = sweep_resume.primary(rest), [*args.overrides, *([] if shown else rest.added)]
    args.overrides = torchrun.muted(args.overrides)
    return name
