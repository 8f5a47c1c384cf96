"""data.protocol=images: a plain classifier of all classes, tested on the published test images, each once."""

import csv
import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from metalab.config.instantiate import build
from metalab.core.errors import UserError
from metalab.core.interfaces import Split
from metalab.data.sampling.sequential import SequentialImages
from metalab.evaluation import compare, evaluate
from metalab.evaluation.calibration import fit_temperature
from metalab.models.layers import running_statistics
from metalab.tracking import checkpoint, compare_report, figures
from metalab.training import train
from tests.configs import net_in
from tests.data.few_classes import idx

CPU = torch.device("cpu")
TRAINING = (
    "algo=baseline",
    "task.train_way=null",
    "task.query=15",
    "train.steps=40",
    "train.val_every=20",
    "optim.lr=0.02",
)
TESTED = 13  # images a class
T130 = 1.978524  # Student's t, 0.975, of 10 * TESTED images


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder with MNIST's four files: per class 40 training images and 13 for the test, a pattern under noise."""
    root = tmp_path_factory.mktemp("plain")
    draw = np.random.default_rng(0)
    patterns = np.kron(draw.integers(0, 256, (10, 4, 4)), np.ones((7, 7)))
    for part, n in (("train", 40), ("t10k", TESTED)):
        y = draw.permutation(np.repeat(np.arange(10), n))
        x = (0.6 * patterns[y] + 0.4 * draw.integers(0, 256, (len(y), 28, 28))).astype(np.uint8)
        (root / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(x)))
        (root / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(y.astype(np.uint8))))
    return root


@pytest.fixture(scope="module")
def made(small, home):
    """Compose a training on them: made("key=value", data="mnist")."""

    def composed(*words: str, data: str = "mnist"):
        where = (f"data={data}", f"data.root={home}", f"data.cache={home / 'cache'}")
        return small(*where, "data.protocol=images", *TRAINING, *words)

    return composed


@pytest.fixture(scope="module")
def run(made, home) -> Path:
    train.run(made(), home / "run")
    return home / "run"


def record(out: Path) -> dict:
    return json.loads((out / "eval.json").read_text())


def test_every_image_comes_once_and_its_classes_are_mixed():
    images = torch.arange(25, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2)
    count = torch.tensor([7, 8, 10])
    source = SequentialImages(Split(images, count.cumsum(0) - count, count, list("abc"), list("abc")), 6, CPU)
    seen, labels = [], []
    for step in range(5):
        support, query = source(step)
        assert support.x.shape == (1, 0, 1, 2, 2)
        assert query.x.shape == (1, 5, 1, 2, 2)
        assert set(query.y.flatten().tolist()) == {0, 1, 2}
        seen += (255 * query.x[0, :, 0, 0, 0]).round().int().tolist()
        labels += query.y.flatten().tolist()
    assert sorted(seen) == list(range(25))
    assert labels == [0 if i < 7 else 1 if i < 15 else 2 for i in seen]


def test_the_accuracy_is_that_of_the_nets_own_head_on_each_test_image(made, run, tmp_path):
    cfg = made("eval.episodes=6")
    evaluate.run([(run, cfg)], tmp_path)
    held, images = record(tmp_path), 10 * TESTED
    net = net_in(cfg, checkpoint.load(run / "best.pt")).eval()
    test = build(cfg.data, "data").load("test")
    with torch.no_grad(), running_statistics():
        logits = net("logits", test.images.float() / 255)
    y = torch.arange(10).repeat_interleave(TESTED)
    right = (logits.argmax(1) == y).double()
    assert held["accuracy"] == pytest.approx(right.mean().item(), abs=1e-12)
    assert held["accuracy"] > 0.5  # chance is 0.1
    assert held["ci95"] == pytest.approx(T130 * right.std().item() / images**0.5, rel=1e-6)
    assert held["loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, y).item(), rel=1e-5)
    expected = {"episodes": None, "images": images, "way": 10, "shot": None, "query": None, "bn": "running"}
    assert {key: held[key] for key in expected} == expected
    assert "each image once, by the net's own classifier: no episode and no support were involved" in held["note"]
    assert "overlap" not in held
    with (tmp_path / "episodes.csv").open() as file:
        rows = [float(row["accuracy"]) for row in csv.DictReader(file)]
    assert sorted(rows) == sorted(right.tolist())


@pytest.mark.slow
def test_a_fitted_temperature_calibrates_and_leaves_the_accuracy(made, run, tmp_path, command_line, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for temperature in ("null", "fit", "1.5"):
        words = (f"eval.temperature={temperature}", f"hydra.run.dir=out_{temperature}", "device=cpu")
        code, said = command_line("eval", f"run={run}", *words)
        assert code == 0, said
        assert "macro avg" in said
    found = {name: record(tmp_path / f"out_{name}") for name in ("null", "fit", "1.5")}
    assert len({each["accuracy"] for each in found.values()}) == 1
    assert "temperature" not in found["null"]["calibration"]
    assert found["1.5"]["calibration"]["temperature"] == 1.5
    net = net_in(made(), checkpoint.load(run / "best.pt")).eval()
    val = build(made().data, "data").load("val")
    with torch.no_grad(), running_statistics():
        logits = net("logits", val.images.float() / 255)
    best = found["fit"]["calibration"]["temperature"]
    assert best == pytest.approx(fit_temperature(logits, torch.arange(10).repeat_interleave(4)), rel=1e-3)
    assert {"confusion.png", "reliability.png", "reliability_scaled.png"} <= {
        p.name for p in (tmp_path / "out_fit").iterdir()
    }
    with (tmp_path / "out_fit" / "per_class.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["class"] for row in table] == [f"mnist:{k}" for k in range(10)]
    assert sum(float(row["recall"]) * int(row["support"]) for row in table) / 130 == pytest.approx(
        found["fit"]["accuracy"], abs=1e-12
    )
    for words, why in (
        (("eval.report=false",), r"with eval\.report=false: nothing would tell"),
        (("data.seed=1",), r"run was validated on other images than these"),
    ):
        with pytest.raises(UserError, match=rf"^eval\.temperature=fit.*{why}"):
            evaluate.run([(run, made("eval.temperature=fit", *words))], tmp_path / "none")


def test_validation_is_of_all_images_held_out_and_the_picture_is_of_them(made, run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    accuracies = [line["val/accuracy"] for line in lines if "val/accuracy" in line]
    val = build(made().data, "data").load("val")
    assert len(val.images) == 40
    assert [(40 * each) % 1 for each in accuracies] == pytest.approx([0, 0], abs=1e-9)
    net = net_in(made(), checkpoint.load(run / "last.pt")).eval()
    with torch.no_grad(), running_statistics():
        right = net("logits", val.images.float() / 255).argmax(1) == torch.arange(10).repeat_interleave(4)
    assert accuracies[-1] == pytest.approx(right.double().mean().item())
    assert (run / "episode.png").is_file()
    assert not (run / "adaptation.png").exists()


def test_corruptions_are_measured_image_by_image(made, run, tmp_path):
    evaluate.run([(run, made("eval.corrupt=contrast", "eval.severities=[2,3]"))], tmp_path)
    test = build(made().data, "data").load("test").images.float() / 255
    net, mean = net_in(made(), checkpoint.load(run / "best.pt")).eval(), test.mean((-2, -1), keepdim=True)
    y = torch.arange(10).repeat_interleave(TESTED)
    for severity, share in (("2", 0.5), ("3", 0.4)):
        with torch.no_grad(), running_statistics():
            right = (net("logits", mean + share * (test - mean)).argmax(1) == y).double()
        found = record(tmp_path)["corruptions"]["kinds"]["contrast"][severity]
        assert found["accuracy"] == pytest.approx(right.mean().item(), abs=1e-12)
        assert found["ci95"] == pytest.approx(T130 * right.std().item() / (10 * TESTED) ** 0.5, rel=1e-6)
    both = made("eval.corrupt=contrast", "eval.corrupt_on=both")
    with pytest.raises(UserError, match=r"eval\.corrupt_on=both: with data\.protocol=images there is no support"):
        evaluate.run([(run, both)], tmp_path / "no")


@pytest.mark.slow
def test_from_the_command_line_with_attacks_image_by_image(command_line, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    titles, real = [], figures.robustness_curve
    monkeypatch.setattr(figures, "robustness_curve", lambda *given: titles.append(given[2]) or real(*given))
    words = ("attack=[fgsm,pgd]", "attack.pgd.steps=2", "eval.eps=[0,24]", "device=cpu")
    for engine in ("learn2learn", "vectorized"):
        code, said = command_line("eval", f"run={run}", f"engine={engine}", f"hydra.run.dir={engine}", *words)
        assert code == 0, said
        assert "plain classification, 10 classes" in said
        assert f"1.98 sd / sqrt({10 * TESTED} images)" in said
    one, two = (record(tmp_path / engine) for engine in ("learn2learn", "vectorized"))
    assert one["accuracy"] == two["accuracy"]
    by = {(attack["name"], attack["eps"]): attack["accuracy"] for attack in one["attacks"]}
    assert by["fgsm", 0.0] == by["all", 0.0] == one["accuracy"]
    assert by["all", 24.0] <= min(by["fgsm", 24.0], by["pgd", 24.0])
    assert by["fgsm", 24.0] < one["accuracy"] - 0.1
    for attack in one["attacks"]:
        p, n = attack["accuracy"], 10 * TESTED
        assert attack["ci95"] == pytest.approx(T130 * (p * (1 - p) / (n - 1)) ** 0.5, rel=1e-6)
    assert (tmp_path / "learn2learn" / "robustness.png").is_file()
    assert titles[0] == f"accuracy under attack on the query, {10 * TESTED} images, bn=running"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("algo=protonet",),
            r"same classes in training and test.* algo=protonet trains on episodes: type algo=baseline",
        ),
        (("algo=maml",), r"and algo=maml trains on episodes: type algo=baseline, or .* data\.protocol=classes"),
        (("algo=autoencoder",), r"and algo=autoencoder trains no classifier: type algo=baseline"),
        (
            ("eval.bn=batch",),
            r"^eval\.bn=batch: .* each image is classified alone, without a support: type eval\.bn=run",
        ),
        (("task.train_way=5",), r"^task\.train_way=5: algo=baseline trains on mini-batches of all 10 training classes"),
        (("data.protocol=classes",), r"leaves no class for train.* or data\.protocol=images algo=baseline"),
    ],
)
def test_what_trains_on_episodes_or_needs_a_support_is_refused(made, tmp_path, words, said):
    with pytest.raises(UserError, match=said):
        train.run(made(*words), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["baselinepp", "feature_extraction", "finetune", "simpleshot"])
def test_every_classifier_on_mini_batches_is_measured_by_its_head(made, tmp_path, algo):
    cfg = made(f"algo={algo}", "train.steps=2", "train.val_every=1")
    train.run(cfg, tmp_path / "run")
    evaluate.run([(tmp_path / "run", cfg)], tmp_path / "eval")
    assert record(tmp_path / "eval")["images"] == 10 * TESTED


@pytest.mark.parametrize(
    ("words", "data", "said"),
    [
        (("data.protocol=classes",), "mnist", r"was trained on 10 of the 10 classes of the test split: mnist:0, "),
        (("eval.split=train",), "mnist", r"was trained on 10 of the 10 classes of the train split"),
        (("eval.split=val", "data.seed=1"), "mnist", r"was trained on \d+ of the \d+ images of the val split"),
        ((), "kmnist", r"run has no classifier of kmnist:o and the other 9 classes, for it was not trained on them"),
        (
            ("algo=simpleshot",),
            "mnist",
            r"^algo=simpleshot: .* the run's own classifier is measured, that of algo=base",
        ),
        (
            ("eval.bn=support",),
            "mnist",
            r"^eval\.bn=support: with data\.protocol=images each image is classified alone",
        ),
        (
            ("+attack@attack.fgsm=fgsm", "attack.on=support"),
            "mnist",
            r"^attack\.on=support: .* there is no support: type attack\.on=query",
        ),
    ],
)
def test_what_the_test_images_do_not_measure_is_refused(made, run, tmp_path, words, data, said):
    with pytest.raises(UserError, match=said):
        evaluate.run([(run, made(*words, data=data))], tmp_path)


def test_a_net_trained_on_the_classes_in_episodes_has_seen_the_test_images(made, tmp_path):
    few = ("data.protocol=classes", "data.classes=[4,3,3]", "task.way=3", "task.query=3", "train.steps=1")
    cfg = made(*few, "algo=baseline")
    train.run(cfg, tmp_path / "few")
    with pytest.raises(UserError, match=r"few has no classifier of mnist:0 and the other 9 classes"):
        evaluate.run([(tmp_path / "few", made())], tmp_path / "eval")
    with pytest.raises(UserError, match=r"few was trained on 4 of the 10 validation classes: mnist:"):
        train.run(made(f"train.init={tmp_path / 'few'}"), tmp_path / "warm")


@pytest.mark.slow
def test_a_warm_start_from_the_same_images_goes_on_and_from_others_is_refused(made, run, tmp_path):
    cfg = made(f"train.init={run}", "train.steps=1")
    train.run(cfg, tmp_path / "warm")
    evaluate.run([(tmp_path / "warm", cfg)], tmp_path / "eval")
    assert record(tmp_path / "eval")["accuracy"] > 0.3
    with pytest.raises(
        UserError, match=r"was trained on 10 of the 10 validation classes: .* Give the split that it was"
    ):
        train.run(made(f"train.init={run}", "data.seed=1"), tmp_path / "other")


@pytest.mark.slow
def test_a_warm_start_from_the_test_images_in_a_folder_is_known_again(made, tmp_path, small):
    test = build(made().data, "data").load("test").images
    for k in range(10):
        for i in range(6):
            file = tmp_path / "mine" / ("train", "val", "test")[i % 3] / f"{k}{i % 3}" / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            image = test[TESTED * k + i, 0] if i % 3 == 0 else torch.full((28, 28), 20 * k + i, dtype=torch.uint8)
            Image.fromarray(image.numpy()).save(file)
    own = ("data=folder", f"data.root={tmp_path / 'mine'}", f"data.cache={tmp_path}", "data.size=28", "data.channels=1")
    train.run(small(*own, *TRAINING, "task.query=1", "train.steps=1"), tmp_path / "first")
    cfg = made(f"train.init={tmp_path / 'first'}", "train.steps=1")
    train.run(cfg, tmp_path / "second")
    with pytest.raises(
        UserError, match=r"second was trained on 20 of the 130 images of the test split: .* about new im"
    ):
        evaluate.run([(tmp_path / "second", cfg)], tmp_path / "eval")
    cfg.eval.allow_overlap = True
    evaluate.run([(tmp_path / "second", cfg)], tmp_path / "eval")
    assert len(record(tmp_path / "eval")["overlap"]) == 20


@pytest.mark.slow
def test_it_is_no_member_of_a_union_and_its_report_compares_images(command_line, home, monkeypatch, tmp_path):
    monkeypatch.setenv("METALAB_CACHE", str(tmp_path / "cache"))
    words = ("data.protocol=images", f"data.root={home}")
    code, said = command_line("data", "check", "mnist", *words)
    assert (code, "\nall classes in each split\npairs of identical images: none\n" in said) == (0, True)
    members = ("+data@data.members.one=mnist", "+data@data.members.two=glyphs")
    inside = [word.replace("data.", "data.members.one.") for word in words]
    code, said = command_line("data", "prepare", "union", *members, *inside)
    assert code == 1
    assert re.search(r"one splits images and not classes.* type data\.members\.one\.protocol=classes", said)


@pytest.fixture(scope="module")
def two(made, home, run) -> tuple[Path, Path]:
    """That classifier and one that was trained for fewer steps from another seed."""
    train.run(made("seed=1", "train.steps=10", "train.val_every=10"), home / "second")
    return run, home / "second"


def probabilities(cfg, folder: Path) -> torch.Tensor:
    """Return what a run's net says of every test image, [N,K], without metalab's evaluation."""
    net = net_in(cfg, checkpoint.load(folder / "best.pt")).eval()
    with torch.no_grad(), running_statistics():
        return net("logits", build(cfg.data, "data").load("test").images.float() / 255).softmax(1)


def test_an_ensemble_of_classifiers_has_the_mean_of_their_probabilities(made, two, tmp_path):
    evaluate.run([(folder, made("+ensemble=mean", "eval.report=false")) for folder in two], tmp_path)
    held, y = record(tmp_path), torch.arange(10).repeat_interleave(TESTED)
    each = [probabilities(made(), folder) for folder in two]
    right = ((each[0] + each[1]).argmax(1) == y).double()
    alone = [(p.argmax(1) == y).double() for p in each]
    assert held["accuracy"] == pytest.approx(right.mean().item(), abs=1e-12)
    assert (held["episodes"], held["images"]) == (None, 130)
    for member, own_right in zip(held["members"], alone, strict=True):
        assert member["accuracy"] == pytest.approx(own_right.mean().item(), abs=1e-12)
        assert member["difference"] == pytest.approx((right - own_right).mean().item(), abs=1e-12)
    assert alone[0].mean() != alone[1].mean()


def test_classifiers_are_compared_image_by_image(made, two, tmp_path, monkeypatch):
    monkeypatch.setattr(compare_report, "_write_page", lambda path, comparison: None)  # drawing takes longer
    for folder, words in zip(two, ((), ("seed=1", "train.steps=10", "train.val_every=10")), strict=True):
        OmegaConf.save(made(*words), folder / "config.yaml", resolve=True)
    pairs = []
    for folder in two:
        cfg = made()
        OmegaConf.set_struct(cfg, False)
        cfg.compare = {"data": None, "alpha": 0.05, "pictures": 0}
        pairs.append((folder, cfg))
    compare.run({"": pairs}, tmp_path)
    y = torch.arange(10).repeat_interleave(TESTED)
    each = [(probabilities(made(), folder).argmax(1) == y).double() for folder in two]
    with (tmp_path / "compare_episodes.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 130
    held = json.loads((tmp_path / "compare.json").read_text(encoding="utf-8"))
    accuracies = sorted(row["mean"] for row in held["data"][0]["rows"])
    assert accuracies == pytest.approx(sorted(right.mean().item() for right in each), abs=1e-12)
