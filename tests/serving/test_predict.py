"""`metalab predict` as a person types it."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from metalab.config.experiment import read_config
from metalab.models.layers import running_statistics
from metalab.serving.loading import load_run
from metalab.tracking import checkpoint
from tests.configs import net_in
from tests.serving.pictures import write_classes, write_patterns


def rows(folder: Path) -> list[dict[str, str]]:
    """Return the rows of predictions.csv."""
    with (folder / "predictions.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def typed(command_line, tiny_dir, tmp_path, monkeypatch):
    """Run `metalab predict`, its folder at tmp_path/out: typed(*words) -> exit code, what was printed."""
    monkeypatch.chdir(tmp_path)
    return lambda *words: command_line("predict", "--config-dir", str(tiny_dir), "hydra.run.dir=out", *words)


@pytest.fixture
def folders(tmp_path) -> list[str]:
    """Make support/ of three classes with 5 images each and images/ with 7 others of each; return their names."""
    write_patterns(tmp_path / "images", [0, 1, 4], range(5, 12))
    return write_patterns(tmp_path / "support", [0, 1, 4], range(5))


def test_predict_writes_what_scripts_read(typed, run_of, folders, tmp_path):
    code, said = typed(f"run={run_of('algo=protonet')}", "support=support", "images=images", "device=cpu")
    assert code == 0, said
    found = rows(tmp_path / "out")
    assert list(found[0]) == ["file", "label", "probability", *folders]
    assert [row["file"] for row in found] == [f"{name}/{i:02}.png" for name in folders for i in range(5, 12)]
    for row in found:
        shares = {name: float(row[name]) for name in folders}
        assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
        assert row["label"] == max(shares, key=lambda name: shares[name])
        assert float(row["probability"]) == max(shares.values())
    right = np.mean([row["label"] == row["file"].split("/")[0] for row in found])
    assert right > 0.6  # of three
    record = json.loads((tmp_path / "out" / "predict.json").read_text())
    assert record["classes"] == dict.fromkeys(folders, 5)
    assert (record["expected"]["images"], record["expected"]["shot"]) == (15, [4, 4])
    assert "15 support images, each left out once" in " ".join(said.split())
    with Image.open(tmp_path / "out" / "predictions.png") as sheet:
        assert sheet.width > 400


def test_predictions_are_those_of_the_evaluation_s_objective(typed, run_of, tiny, tmp_path):
    """An oracle that knows nothing of serving: nearest mean of the net's features, of the very same pixels."""
    run = run_of("algo=protonet")
    names = write_classes(tiny["test"], tmp_path / "support", [1, 4], [slice(3), slice(5)])
    write_classes(tiny["test"], tmp_path / "images", [1, 4], slice(6, 12))
    words = (f"run={run}", "support=support", "images=images", "predict.calibrate=false", "device=cpu")
    assert typed(*words)[0] == 0
    cfg = OmegaConf.load(run / "config.yaml")
    net = net_in(cfg, checkpoint.load(run / "best.pt")).eval()  # type: ignore[arg-type]
    split = tiny["test"]
    with running_statistics(), torch.no_grad():
        every = net("features", split.images.float() / 255).flatten(1)
    first = split.first.tolist()
    means = torch.stack([every[first[1] : first[1] + 3].mean(0), every[first[4] : first[4] + 5].mean(0)])
    asked = torch.cat([every[first[k] + 6 : first[k] + 12] for k in (1, 4)])
    shares = (-(torch.cdist(asked.double(), means.double()) ** 2)).softmax(1)
    found = torch.tensor([[float(row[name]) for name in names] for row in rows(tmp_path / "out")])
    assert torch.allclose(found.double(), shares, atol=2e-4)


@pytest.mark.slow
def test_an_image_s_prediction_does_not_hang_on_its_neighbours(typed, run_of, folders, tmp_path):
    """maml's own batch norm would look at all queries together: predict takes the support's statistics."""
    run = run_of("algo=maml", "task.way=3", "task.train_way=3", "algo.test_steps=2")
    assert typed(f"run={run}", "support=support", "images=images", "device=cpu")[0] == 0
    together = {row["file"]: row for row in rows(tmp_path / "out")}
    alone = f"{folders[1]}/07.png"
    words = (f"run={run}", "support=support", f"images=images/{alone}", "device=cpu", "hydra.run.dir=one")
    assert typed(*words)[0] == 0
    [row] = rows(tmp_path / "one")
    assert row["file"] == "07.png"
    for name in folders:
        assert float(row[name]) == pytest.approx(float(together[alone][name]), abs=1e-5)


def test_unreadable_images_are_named_and_left_out(typed, run_of, folders, tmp_path):
    (tmp_path / "images" / "broken.png").write_bytes(b"no picture")
    (tmp_path / "support" / folders[0] / "broken.jpg").write_bytes(b"none either")
    words = (f"run={run_of('algo=protonet')}", "support=support", "images=images", "device=cpu")
    code, said = typed(*words)
    assert code == 0
    assert "1 of the 22 images cannot be read and are left out: broken.png" in said
    assert f"1 of the 16 support images cannot be read and are left out: {folders[0]}/broken.jpg" in said
    assert len(rows(tmp_path / "out")) == 21
    assert list(json.loads((tmp_path / "out" / "predict.json").read_text())["unreadable"]) == ["broken.png"]
    code, said = typed(*words, "predict.strict=true", "hydra.run.dir=strict")
    assert code == 1
    assert "predict.strict=true asks for all of them" in said
    assert not (tmp_path / "strict" / "predictions.csv").exists()


def test_images_of_the_support_among_the_images_are_told(typed, run_of, folders, tmp_path):
    code, said = typed(f"run={run_of('algo=protonet')}", "support=support", "images=support", "device=cpu")
    assert code == 0
    assert "15 of the images are images of the support, and say nothing about new ones" in " ".join(said.split())


def test_one_image_a_class_gives_no_estimate(typed, run_of, tiny, tmp_path):
    write_classes(tiny["test"], tmp_path / "support", [0, 1], slice(1))
    write_classes(tiny["test"], tmp_path / "images", [0], slice(3, 4))
    code, said = typed(f"run={run_of('algo=protonet')}", "support=support", "images=images", "device=cpu")
    assert code == 0
    assert "with one image a class no accuracy can be estimated" in " ".join(said.split())
    assert json.loads((tmp_path / "out" / "predict.json").read_text())["expected"] is None


@pytest.mark.slow
def test_images_of_other_classes_are_marked(typed, run_of, folders, tmp_path):
    write_patterns(tmp_path / "others", [5, 7, 8], range(12), classes=False)
    run = run_of("algo=protonet")
    words = (f"run={run}", "support=support", "predict.reject=0.2", "device=cpu")
    assert typed(*words, "images=others")[0] == 0
    others = [row["label"] for row in rows(tmp_path / "out")]
    code, said = typed(*words, "images=images", "hydra.run.dir=known")
    known = [row["label"] for row in rows(tmp_path / "known")]
    assert code == 0
    assert "set on 15 support images, each left out once; of images of other classes" in " ".join(said.split())
    assert others.count("") / len(others) > known.count("") / len(known)
    code, said = typed(*words[:2], "images=images", "predict.reject=0.01", "hydra.run.dir=few", "device=cpu")
    assert code == 0, said  # the run's own data say what known images look like


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "which run? metalab predict run=outputs/train/..."),
        (("run=RUN", "support=support"), "which images? Type images=FOLDER"),
        (("run=RUN", "support=nowhere", "images=images"), "support=nowhere does not exist"),
        (("run=RUN", "support=support", "images=nowhere"), "images=nowhere does not exist"),
        (("run=RUN", "support=one", "images=images"), "support=one has 1 class folders with images, 2 or more"),
        (("run=RUN", "support=support", "images=empty"), "images=empty holds no image at any depth"),
        (("run=RUN", "images=images"), "knows no classes of its own: give some images of each of yours"),
        (("run=RUN", "support=support", "images=images", "predict.reject=0"), "predict.reject=0: expected a share"),
        (("run=RUN", "support=support", "images=images", "predict.rejct=0.1"), "rejct"),
        (("run=null", "support=support", "images=images"), "which run?"),
        (("run=null", "backbone=conv4", "support=support", "images=images"), "this one has random weights"),
        (("run=[RUN,RUN]", "support=support", "images=images"), "is given twice"),
        (
            ("run=RUN", "support=support", "images=images", "eval.bn=target"),
            "adapt a net to a target domain for metalab",
        ),
        (("run=RUN", "support=support", "images=images", "eval.tent=3"), "adapt a net to a target domain for metalab"),
        (("run=RUN", "support=support", "images=images", "train.steps=3"), "metalab predict trains nothing"),
    ],
)
def test_mistakes_have_one_message(typed, run_of, folders, tiny, tmp_path, words, message):
    (tmp_path / "empty").mkdir()
    write_classes(tiny["test"], tmp_path / "one", [0], slice(2))
    run = str(run_of("algo=protonet"))
    code, said = typed(*(word.replace("RUN", run) for word in words), "device=cpu")
    assert code == 1
    assert message in " ".join(said.split())
    assert "Traceback" not in said


@pytest.mark.slow
def test_a_learned_head_of_another_way_is_refused(typed, run_of, folders):
    run = run_of("algo=maml", "task.way=5", "algo.test_steps=1")
    code, said = typed(f"run={run}", "support=support", "images=images", "device=cpu")
    assert code == 1
    assert "the run's head was learned for 5 classes and the support has 3" in " ".join(said.split())


@pytest.mark.slow
def test_a_plain_classifier_predicts_without_a_support(typed, run_of, tiny, tmp_path):
    """The checkpoint of a plain classifier holds the names of its classes."""
    run = run_of("algo=baseline", "task.train_way=null", "train.steps=2", "train.val_every=2")
    for name in ("best.pt", "last.pt"):
        saved = checkpoint.load(run / name)
        names = [f"kind{k}" for k in range(saved["train_way"])]
        checkpoint.save(run / name, saved | {"labels": [f"own:{n}" for n in names], "label_names": names})
    write_classes(tiny["test"], tmp_path / "images", [0, 1], slice(2))
    code, said = typed(f"run={run}", "images=images", "device=cpu")
    assert code == 0, said
    assert list(rows(tmp_path / "out")[0])[3:5] == ["kind0", "kind1"]
    assert "no support was given" in " ".join(said.split())


def test_a_net_that_is_served_drops_nothing(run_of):
    """Dropout in training mode once changed the features that metalab export wrote."""
    run = run_of("algo=protonet", "reg=dropout")
    loaded = load_run(run, read_config(OmegaConf.load(run / "config.yaml")), 10)  # type: ignore[arg-type]
    assert not any(module.training for module in loaded.adaptation.net.modules())
    x = torch.rand(3, 1, 16, 16)
    assert torch.equal(loaded.adaptation.net("features", x), loaded.adaptation.net("features", x))
