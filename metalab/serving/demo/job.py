"""The job of `metalab demo`: load the run, open the page, and wait for Ctrl-C."""

import logging
import socket
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from omegaconf import DictConfig

from metalab.config.experiment import read_config
from metalab.config.instantiate import settings
from metalab.config.schema import Demo, Predict
from metalab.core.errors import UserError
from metalab.core.text import first_names
from metalab.serving.demo.session import Session
from metalab.serving.loading import LoadedRun, load_run
from metalab.tracking.run_folder import trained_runs
from metalab.tracking.run_lock import locked_run

logger = logging.getLogger("metalab")
KEYS = ("support", "images", "predict", "demo")  # of the root, beside those of every command
RUNS = 50  # that the page offers, the newest ones
Compose = Callable[[Path], DictConfig]  # from a run's folder to its configuration under the words of the command line


def run(folder: Path | None, cfg: DictConfig, out: Path, compose: Compose) -> None:
    """Show the page until Ctrl-C.

    Args:
        folder: of the run; None: a pretrained backbone, and no run.
        cfg: the configuration of the command.
        out: the folder of the log file, and of the pictures while the page is open.
        compose: gives the configuration of another run, which the page can switch to.

    Raises:
        UserError: for settings or a support that do not fit, a port that is taken, or a package that is missing.
    """
    config = read_config(cfg, KEYS)
    asked, where = settings(Predict, config.whole["predict"], "predict"), settings(Demo, config.whole["demo"], "demo")
    if config.whole["images"] is not None:
        raise UserError("images: the page asks for the pictures; files are classified by metalab predict images=FOLDER")
    if missing := [name for name in ("gradio", "captum") if find_spec(name) is None]:
        raise UserError(f"the page needs {' and '.join(missing)}: pip install 'metalab[demo]'")
    _check_address(where)
    with locked_run(out), TemporaryDirectory(prefix=".pictures-", dir=out) as place:
        session = Session(load_run(folder, config, asked.batch), asked, config.seed, Path(place))
        if config.whole["support"] is not None:
            _load(session, str(config.whole["support"]))
        from metalab.serving.demo import page, server  # only now: they load gradio

        def other(name: str) -> LoadedRun:
            if name == session.run.words:
                return session.run
            if name == first and folder is None:
                return load_run(None, config, asked.batch)
            return load_run(Path(name), read_config(compose(Path(name)), KEYS), asked.batch)

        first = session.run.words
        runs = list(dict.fromkeys([first, *map(str, trained_runs()[:RUNS])]))
        server.serve(page.Page(session, runs, other, Path(place)), where)


def _load(session: Session, given: str) -> None:
    """Load the support of the command line, and say what of it cannot be read."""
    left = session.load(given)
    if left and session.asked.strict:
        raise UserError(f"support={given}: {first_names(left)}; predict.strict=false leaves that out")
    for line in left:
        logger.warning(line)
    session.practice()  # a support that does not fit the run is told before the page opens


def _check_address(where: Demo) -> None:
    """Raise UserError where the page cannot listen."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(where.host, where.port or 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, proto) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(address)
    except OSError as error:
        why = error.strerror or error
        raise UserError(
            f"demo.host={where.host} demo.port={where.port}: the page cannot listen there ({why}); demo.port=null "
            "takes the first port that is free, demo.host=127.0.0.1 is this machine"
        ) from error
