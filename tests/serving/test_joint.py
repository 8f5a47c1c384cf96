"""metalab predict with a method that infers all images together: all at once, said; and who refuses it."""

import csv
import json
from pathlib import Path
from typing import cast

import pytest
import torch
from PIL import Image

from metalab.algorithms.components.distances import cosines
from metalab.algorithms.components.prototype_rectification import rectified, shifted
from metalab.training import train

WAY = 5


@pytest.fixture(scope="module")
def home(small, tiny, tmp_path_factory) -> Path:
    """run/, support/ of 2 images of 5 classes, and images/ of 4 others of each."""
    home, test = tmp_path_factory.mktemp("joint"), tiny["test"]
    words = ("algo=bdcspn", "task.train_way=null", "train.steps=1", "train.val_every=1", "train.val_episodes=2")
    train.run(small(*words), home / "run")
    for k in range(WAY):
        for i in range(6):
            part = home / ("support" if i < 2 else "images") / f"class{k}"
            part.mkdir(parents=True, exist_ok=True)
            Image.fromarray(test.images[int(test.first[k]) + i, 0].numpy()).save(part / f"{i}.png")
    return home


@pytest.fixture
def typed(command_line, home, tiny_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(command: str, *words: str):
        data = f"hydra.searchpath=[file://{tiny_dir}]"
        return command_line(command, f"run={home / 'run'}", data, f"hydra.run.dir={tmp_path / 'out'}", *words)

    return run


def shares(folder: Path) -> dict[str, list[float]]:
    with (folder / "predictions.csv").open() as file:
        return {row[0]: [float(v) for v in row[3:]] for row in list(csv.reader(file))[1:]}


@pytest.mark.slow
def test_all_images_are_classified_at_once_and_it_is_said(typed, home, tmp_path):
    words = (f"support={home}/support", f"images={home}/images")
    code, said = typed("predict", *words, "predict.batch=3")
    assert code == 0, said
    assert "algo=bdcspn classified the 20 images together" in " ".join(said.split())
    record = json.loads((tmp_path / "out" / "predict.json").read_text())
    assert record["expected"] is None
    assert "classified the 20 images together" in " ".join(record["note"])
    in_threes = shares(tmp_path / "out")
    assert typed("predict", *words, "predict.batch=100")[0] == 0
    whole = shares(tmp_path / "out")
    assert all(a == pytest.approx(b, abs=2e-6) for a, b in zip(in_threes.values(), whole.values(), strict=True))
    assert typed("predict", words[0], f"images={home}/images/class0", "predict.batch=100")[0] == 1  # 4 of 5 classes
    (tmp_path / "some").mkdir()
    for i, file in enumerate(sorted((home / "images").rglob("*.png"))[:8]):
        (tmp_path / "some" / f"{i}.png").write_bytes(file.read_bytes())
    assert typed("predict", words[0], f"images={tmp_path}/some")[0] == 0
    some = list(shares(tmp_path / "out").values())
    assert any(a != pytest.approx(b, abs=1e-4) for a, b in zip(some, whole.values(), strict=False))


def test_the_answers_are_those_of_the_episode(home, typed, tmp_path, tiny):
    """The same net's features, the inference written out over all 20 images."""
    from metalab.tracking import checkpoint

    code, said = typed("predict", f"support={home}/support", f"images={home}/images")
    assert code == 0, said
    from omegaconf import DictConfig, OmegaConf

    from metalab.config.experiment import read_config
    from metalab.config.instantiate import build
    from metalab.evaluation.setup import load_net
    from metalab.models.layers import running_statistics

    saved = checkpoint.load(home / "run" / "best.pt")
    config = read_config(cast(DictConfig, OmegaConf.create(saved["config"])))
    net = load_net(config, build(config.backbone, "backbone"), saved).eval()
    test = tiny["test"]
    known, asked = (
        torch.cat([test.images[int(test.first[k]) + a : int(test.first[k]) + b] for k in range(WAY)]).float() / 255
        for a, b in ((0, 2), (2, 6))
    )
    with torch.no_grad(), running_statistics():
        f, q = (
            torch.nn.functional.normalize(net("centre", net("features", x).flatten(1)), dim=1) for x in (known, asked)
        )
    y = torch.arange(WAY).repeat_interleave(2)
    q = shifted(f, q)
    expected = (10 * cosines(q, rectified(f, y, q, WAY, 10.0, "images"))).softmax(1)
    found = torch.tensor(list(shares(tmp_path / "out").values()))
    assert torch.allclose(found, expected, atol=2e-5)


@pytest.mark.slow
def test_too_few_images_a_threshold_and_a_file_are_refused(typed, home):
    support = f"support={home}/support"
    code, said = typed("predict", support, f"images={home}/images/class0/2.png")
    assert (code, "5 classes spread over them, and there is 1: give 5 or more, or take algo=simpleshot" in said) == (
        1,
        True,
    )
    code, said = typed("predict", support, f"images={home}/images", "predict.reject=0.1")
    assert (code, "predict.reject=0.1: algo=bdcspn classifies all images together" in said) == (1, True), said
    for what in ("adapted", "episode"):
        code, said = typed("export", support, f"what={what}")
        assert (code, "algo=bdcspn classifies all images together: take algo=simpleshot" in said) == (1, True), said


def test_the_page_refuses_it(home, small):
    pytest.importorskip("captum")
    from metalab.config.experiment import read_config
    from metalab.config.schema import Predict
    from metalab.core.errors import UserError
    from metalab.serving.demo.session import Session
    from metalab.serving.loading import load_run

    config = read_config(small("algo=bdcspn", "task.train_way=null"))
    session = Session(load_run(home / "run", config, 100), Predict(False, None, True, 100), 0, home)
    session.load(str(home / "support"))
    with pytest.raises(UserError, match="the page classifies one picture at a time, and algo=bdcspn classifies all"):
        session.practice()
