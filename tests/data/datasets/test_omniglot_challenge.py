"""The one-shot challenge: 20 given episodes, whose characters are known by name, so that training on them is found."""

import io
import json
import os
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from metalab.config.schema import Eval, Task
from metalab.core.errors import UserError
from metalab.data.class_lists import class_list
from metalab.data.datasets.drawings.omniglot_challenge import OmniglotChallenge
from metalab.data.datasets.drawings.omniglot_splits import split_of
from metalab.data.sampling.episode_sampler import EpisodeSampler
from metalab.evaluation.leakage import refuse_trained_on
from metalab.evaluation.protocols.build import evaluation_protocol
from metalab.evaluation.split_metrics import split_metrics
from metalab.training import train

SHARED = os.environ.get("METALAB_SHARED_DATA")
real = pytest.mark.skipif(not SHARED, reason="METALAB_SHARED_DATA is unset: there is no all_runs.zip to test on")
LINES = [line.split() for line in class_list("omniglot_challenge")]
CHARACTERS = {character for _, character in LINES}
CPU = torch.device("cpu")


def png(run: int, label: int, test: bool) -> bytes:
    """Return a 105x105 drawing of 1 bit whose four bars, ink black, tell run and label; the test image has one more."""
    ink = np.ones((105, 105), bool)
    ink[: run * 5, :20], ink[: label * 5, 40:60] = False, False
    ink[:, 90:] = not test
    raw = io.BytesIO()
    Image.fromarray(ink).save(raw, "PNG")
    return raw.getvalue()


def item(label: int) -> int:
    """Return the number of the test image of a class: in another order, as in the official runs."""
    return label % 20 + 1


def write_runs(root: Path, without: str = "") -> None:
    with zipfile.ZipFile(root / "all_runs.zip", "w") as archive:
        for run in range(1, 21):
            lines = [
                f"run{run:02d}/test/item{item(label):02d}.png run{run:02d}/training/class{label:02d}.png"
                for label in range(1, 21)
            ]
            files = {f"run{run:02d}/class_labels.txt": ("\n".join(lines) + "\n").encode()}
            for label in range(1, 21):
                files[f"run{run:02d}/training/class{label:02d}.png"] = png(run, label, False)
                files[f"run{run:02d}/test/item{item(label):02d}.png"] = png(run, label, True)
            for name, raw in files.items():
                if name != without:
                    archive.writestr(name, raw)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    write_runs(folder)
    return folder


@pytest.fixture(scope="module")
def split(root):
    return OmniglotChallenge(str(root), str(root / "cache"), 105).load("test")


def test_the_list_names_20_runs_of_20_characters_of_one_alphabet_each():
    runs = {run: [c for where, c in LINES if where.startswith(f"{run}/")] for run in {w[:5] for w, _ in LINES}}
    assert sorted(runs) == [f"run{i:02d}" for i in range(1, 21)]
    assert all(len(set(characters)) == 20 for characters in runs.values())
    assert all(len({c.partition("/")[0] for c in characters}) == 1 for characters in runs.values())
    assert Counter(c for _, c in LINES) == dict.fromkeys(CHARACTERS, 2)
    assert len(CHARACTERS) == 200


def test_78_of_its_characters_are_in_vinyals_training_split_and_none_in_a_background_set():
    splits = split_of("vinyals", 0)
    assert Counter(splits[character] for character in CHARACTERS) == {"train": 78, "test": 122}
    for name in ("background", "small1", "small2"):
        assert not CHARACTERS & split_of(name, 0).keys()


def test_each_run_is_one_episode_of_its_20_classes(split):
    source = EpisodeSampler(split, 20, 1, 1, 8, 0, "test", CPU)
    for step in range(3):
        episode, draw = source(step), source.indices(step)
        for t in range(8):
            run = (8 * step + t) % 20 + 1
            assert draw.classes[t].tolist() == list(range(20 * run - 20, 20 * run))
            assert episode.support.y[t].tolist() == episode.query.y[t].tolist() == list(range(20))
            for label in range(20):
                for part, test in ((episode.support, False), (episode.query, True)):
                    drawn = np.asarray(Image.open(io.BytesIO(png(run, label + 1, test))))
                    assert torch.equal(part.x[t, label, 0] == 0, torch.from_numpy(drawn.copy()))


def test_the_ids_are_omniglots(split):
    assert set(split.ids) == {f"omniglot:{character}" for character in CHARACTERS}
    assert split.names[20] == "run02/class01/" + LINES[20][1]


def test_the_episodes_depend_on_nothing(split):
    one, two = (EpisodeSampler(split, 20, 1, 1, t, s, "test", CPU).indices(0) for t, s in ((20, 0), (20, 7)))
    assert all(map(torch.equal, one, two))


def test_other_sizes_are_refused_and_settled_ones_are_those_of_the_runs(split):
    with pytest.raises(UserError, match=r"with 1 queries a class and nothing unlabelled: type task\.way=20 "):
        EpisodeSampler(split, 5, 1, 15, 8, 0, "test", CPU)
    task, evaluation = evaluation_protocol(split).sized(
        Task(5, 1, 15, None, None, None, 3, 2), Eval(600, None, "test", False, 8), split
    )
    assert (task.way, task.shot, task.query, evaluation.episodes) == (20, 1, 1, 20)
    assert task.unlabelled == task.distractors == 0


def test_other_splits_and_missing_files_are_told(root, tmp_path):
    with pytest.raises(UserError, match=r"no val split, only its 20 runs: .* metalab train data=omniglot data\.proto"):
        OmniglotChallenge(str(root), str(root / "cache")).load("val")
    with pytest.raises(UserError, match=r"has no all_runs\.zip\. all_runs\.zip is read from .*: fetch it"):
        OmniglotChallenge(str(tmp_path), str(tmp_path)).load("test")
    write_runs(tmp_path, without="run07/test/item03.png")
    with pytest.raises(UserError, match=r"run07/training/class02\.png and its one test image"):
        OmniglotChallenge(str(tmp_path), str(tmp_path)).load("test")
    with pytest.raises(UserError, match=r"data\.size=106 is out of range"):
        OmniglotChallenge(size=106)


def test_a_net_trained_on_vinyals_split_is_refused_there(split):
    trained = [f"omniglot:{name}" for name, part in split_of("vinyals", 0).items() if part == "train"]
    with pytest.raises(UserError, match=r"was trained on 78 of the 200 classes of the test split: omniglot:Atlantean"):
        refuse_trained_on(split, trained, Eval(600, None, "test", False, 8), Path("run"))
    trained = [f"omniglot:{name}" for name in split_of("background", 0)]
    assert refuse_trained_on(split, trained, Eval(600, None, "test", False, 8), Path("run")) == []


def test_the_report_sets_the_error_beside_people_and_bpl(split):
    accuracy = np.linspace(0, 1, 20)
    told = split_metrics(split, accuracy, EpisodeSampler(split, 20, 1, 1, 8, 0, "test", CPU))
    assert told["error"] == {"here": pytest.approx(0.5), "people": 0.045, "BPL": 0.033}
    assert list(told["error_of_each"]) == [f"run{i:02d}" for i in range(1, 21)]
    assert told["error_of_each"]["run20"] == 0


@pytest.mark.slow
def test_a_net_of_another_task_is_measured_on_the_20_runs(small, root, tiny_dir, command_line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train.run(small("train.steps=1", "train.val_episodes=2"), tmp_path / "run")
    words = (f"data.root={root}", f"data.cache={root / 'cache'}", "hydra.run.dir=out", f"--config-dir={tiny_dir}")
    code, said = command_line("eval", "run=run", "data=omniglot_challenge", *words)
    assert code == 0, said
    record = json.loads((tmp_path / "out" / "eval.json").read_text())
    assert [record[key] for key in ("way", "shot", "query", "episodes")] == [20, 1, 1, 20]
    assert record["error"]["here"] == pytest.approx(1 - record["accuracy"])
    assert "people 4.5 %, BPL 3.3 %" in " ".join(said.split())
    assert "the data gives its episodes: 20 of 20-way 1-shot" in said


@real
def test_the_list_is_what_pixels_say(tmp_path):
    """Find every image of the challenge among those of images_evaluation.zip, where drawings stand by name."""

    def pixels(archive: zipfile.ZipFile, name: str) -> bytes:
        return Image.open(io.BytesIO(archive.read(name))).tobytes()

    folder = Path(str(SHARED)) / "omniglot"
    with (
        zipfile.ZipFile(folder / "images_evaluation.zip") as drawings,
        zipfile.ZipFile(folder / "all_runs.zip") as runs,
    ):
        named = {
            pixels(drawings, name): "/".join(name.split("/")[1:3])
            for name in drawings.namelist()
            if name.endswith(".png") and f"{'/'.join(name.split('/')[1:3])}" in CHARACTERS
        }
        split = OmniglotChallenge(str(folder), str(tmp_path)).load("test")
        assert len(split.files) == 800
        for i, file in enumerate(split.files):
            assert split.ids[i // 2] == f"omniglot:{named[pixels(runs, file)]}", file
