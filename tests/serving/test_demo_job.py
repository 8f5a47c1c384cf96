"""What metalab demo refuses before it opens a page, and what it takes from the command line."""

import importlib.util
import socket

import pytest

from metalab.cli import run_overrides
from metalab.core.errors import UserError
from metalab.serving.demo import job
from metalab.serving.demo.session import Session
from metalab.tracking.run_folder import trained_runs
from metalab.training import train
from tests.serving.demo_runs import ASKED, saved, trained

WORDS = ("demo.port=null", "device=cpu", "hydra.run.dir=out")


@pytest.fixture(scope="module")
def home(small, tmp_path_factory):
    """A folder with a run."""
    folder = tmp_path_factory.mktemp("home")
    train.run(small(), folder / "outputs/train/tiny")
    return folder


@pytest.fixture
def refused(home, command_line, tiny_dir, monkeypatch):
    """Run `metalab demo WORDS` in a folder with a run: refused(*words) -> what was said."""
    monkeypatch.chdir(home)

    def told(*words: str) -> str:
        flags = [word for word in words if word.startswith("-")]
        given = [word for word in words if word not in flags]
        code, said = command_line("demo", *flags, f"--config-dir={tiny_dir}", *WORDS, *given)
        assert code == 1
        assert "Traceback" not in said
        return said

    return told


@pytest.mark.slow
def test_mistakes_are_told_before_the_run_is_loaded(refused, monkeypatch):
    monkeypatch.setattr(job, "load_run", lambda *_: pytest.fail("the run was loaded"))
    assert refused().startswith("metalab: which run? metalab demo run=")
    assert "demo begins with one run, and run names 2" in refused("run=[outputs/train/tiny,outputs/train/tiny/../tiny]")
    assert "demo shows one page until Ctrl-C: leave out -m" in refused("-m", "run=latest")
    assert "images: the page asks for the pictures" in refused("run=latest", "images=here")
    assert "demo.port=0: expected 1 to 65535, or null" in refused("run=latest", "demo.port=0")
    assert "demo.share=true: Demo has no such setting. There is: host, open, port" in refused(
        "run=latest", "+demo.share=true"
    )
    assert "demo.host=nowhere.invalid" in refused("run=latest", "demo.host=nowhere.invalid")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"demo.port={port}: the page cannot listen there (Address already in use)" in refused(
            "run=latest", f"demo.port={port}"
        )


def test_a_missing_extra_is_named_with_what_to_type(refused, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(job, "find_spec", lambda name: None if name == "gradio" else found(name))
    assert refused("run=latest") == "metalab: the page needs gradio: pip install 'metalab[demo]'"


@pytest.mark.slow
def test_a_support_that_does_not_fit_is_told_before_the_page_opens(refused, tmp_path):
    pytest.importorskip("gradio")
    pytest.importorskip("captum")
    assert "there is no such folder" in refused("run=latest", f"support={tmp_path / 'nowhere'}")


def test_an_unreadable_picture_of_the_given_support_is_an_error_if_asked(small, tiny, tmp_path, caplog):
    saved(tiny["test"], tmp_path / "support", 2, 2)
    (tmp_path / "support/c0/text.png").write_text("no image")
    (tmp_path / "copies").mkdir()
    session = Session(trained(small, tmp_path / "run"), ASKED, 0, tmp_path / "copies")
    job._load(session, str(tmp_path / "support"))
    assert "text.png cannot be read and is left out" in caplog.text
    session.asked = type(ASKED)(strict=True, reject=None, calibrate=True, batch=100)
    with pytest.raises(UserError, match=r"text.png cannot be read .*; predict.strict=false leaves that out"):
        job._load(session, str(tmp_path / "support"))


def test_the_page_offers_the_runs_there_are(home, monkeypatch):
    monkeypatch.chdir(home)
    (home / "outputs/train/begun").mkdir()
    assert [str(folder) for folder in trained_runs()] == ["outputs/train/tiny"]


def test_parts_of_a_backbone_without_a_run_are_not_put_on_other_runs(monkeypatch):
    typed = ["run=null", "backbone=torchvision", "backbone.name=resnet18", "algo=simpleshot", "device=cpu"]
    monkeypatch.setattr(run_overrides, "words", lambda: typed)
    assert run_overrides.words_for_other_runs() == ["run=null", "device=cpu"]
    monkeypatch.setattr(run_overrides, "words", lambda: ["run=a", "algo=simpleshot"])
    assert run_overrides.words_for_other_runs() == ["run=a", "algo=simpleshot"]
