"""metalab export: files that compute what metalab computes, by runtimes that know nothing of it."""

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from metalab.config.paths import conf_dir
from metalab.core.interfaces import algorithm_traits
from metalab.serving import export, export_formats
from metalab.training import train
from tests.data.few_classes import idx
from tests.pretrained import mobilenet_weights
from tests.quick import among, quick

onnxruntime: Any = pytest.importorskip("onnxruntime", reason="metalab[export] is not installed")
pytest.importorskip("onnxscript", reason="metalab[export] is not installed")

ALGORITHMS = sorted(path.stem for path in (conf_dir() / "algo").glob("*.yaml"))
COMPARE = [
    "protonet",
    "autoencoder",
    "covamnet",
    "ctx",
    "feat",
    "matching",
    "meta_baseline",
    "relation",
    "siamese",
    "simpleshot",
    "versa",
]
SHORT = ("train.steps=1", "train.val_every=1", "train.val_episodes=2", "train.meta_batch=1")
WAY, SHOT = 5, 3


@pytest.fixture(scope="module")
def pictures(tiny, tmp_path_factory) -> Path:
    """support/ with 3 images of 5 classes, one of them with 4, and images/ with others of them."""
    home, test = tmp_path_factory.mktemp("pictures"), tiny["test"]
    for k in range(WAY):
        for i in range(8):
            part = "support" if i < SHOT + (k == 0) else "images"
            (home / part / f"class{k}").mkdir(parents=True, exist_ok=True)
            Image.fromarray(test.images[int(test.first[k]) + i, 0].numpy()).save(home / part / f"class{k}" / f"{i}.png")
    return home


@pytest.fixture(scope="module")
def runs(small, tmp_path_factory) -> Callable[..., Path]:
    """runs(algorithm) is the folder of a run of one step, made once."""
    home = tmp_path_factory.mktemp("runs")

    def made(algo: str) -> Path:
        if algo == "metaoptnet":
            pytest.importorskip("proxsuite")
        if not (home / algo).exists():
            batches = small(f"algo={algo}").algo.get("mini_batch") is not None  # it trains on these, not on episodes
            way = ("task.train_way=null",) if batches else ()
            few = ("algo.test_steps=5",) if algo == "clip_lora" else ()  # of 500, for each class left out, too
            train.run(small(f"algo={algo}", *way, *few, *SHORT), home / algo)
        return home / algo

    return made


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> tuple[Path, dict[Any, Any]]:
    """Where the files lie, and what was said when each was written: an export takes seconds."""
    return tmp_path_factory.mktemp("done"), {}


@pytest.fixture
def exported(command_line, runs, done, tiny_dir, tmp_path, monkeypatch):
    """exported(algorithm, *words) -> exit code, what was said, the folder; the same words are run once."""
    monkeypatch.chdir(tmp_path)
    home, told = done

    def typed(algo: str, *words: str, command: str = "export") -> tuple[int, str, Path]:
        key = algo, words, command
        if key not in told:
            out = home / str(len(told))
            run = () if any(word.startswith("run=") for word in words) else (f"run={runs(algo)}",)
            data = f"hydra.searchpath=[file://{tiny_dir}]"
            told[key] = (*command_line(command, *words, *run, data, f"hydra.run.dir={out}"), out)
        return told[key]

    return typed


def opened(folder: Path) -> tuple[Callable[..., Tensor], dict[str, Any]]:
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    stored = session.get_modelmeta().custom_metadata_map
    assert "/" not in stored["run"]

    def run(**inputs: Tensor) -> Tensor:
        [made] = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
        return torch.from_numpy(made)

    return run, stored


def read(folder: Path) -> tuple[Tensor, Tensor, list[str]]:
    """Return the grey 16x16 images below a folder, as float32 in [0,1], their labels and their names."""
    files = sorted(folder.rglob("*.png"))
    pixels = np.stack([np.asarray(Image.open(file)) for file in files])
    labels = [int(file.parent.name.removeprefix("class")) for file in files]
    names = [str(file.relative_to(folder)) for file in files]
    return torch.from_numpy(pixels)[:, None].float() / 255, torch.tensor(labels), names


def probabilities(folder: Path) -> tuple[list[str], Tensor]:
    with (folder / "predictions.csv").open() as file:
        rows = list(csv.reader(file))[1:]
    return [row[0] for row in rows], torch.tensor([[float(value) for value in row[3:]] for row in rows])


def plain_conv4(tensors: dict[str, Tensor], x: Tensor, support: Tensor | None = None) -> Tensor:
    """Return the features [N,D] of a Conv4, written out; support: whose statistics normalize, None: the stored ones."""
    shown = 0 if support is None else len(support)
    x = x if support is None else torch.cat([support, x])
    x = (x - tensors["normalize.mean"]) / tensors["normalize.std"]
    for i in range(4):
        own = {name: tensors[f"body.{i}.{name}"] for name in ("0.weight", "0.bias", "1.weight", "1.bias")}
        x = F.conv2d(x, own["0.weight"], own["0.bias"], padding=1)
        mean, var = tensors[f"body.{i}.1.running_mean"], tensors[f"body.{i}.1.running_var"]
        if support is not None:
            var, mean = torch.var_mean(x[:shown], dim=(0, 2, 3), correction=0)
        x = F.max_pool2d(F.batch_norm(x, mean, var, own["1.weight"], own["1.bias"], eps=1e-5).relu(), 2)
    return x[shown:].flatten(1)


def infers_jointly(algo: str) -> bool:
    from metalab.algorithms.build import build_algorithm
    from tests.config.test_conf import composed

    if algo == "metaoptnet":  # its solver may be missing
        return False
    return algorithm_traits(build_algorithm(composed(f"algo={algo}")["algo"], 5, True)[1]).transductive


@pytest.mark.slow
@pytest.mark.parametrize("algo", quick(ALGORITHMS, among("protonet", "maml", "bdcspn")))
def test_the_onnx_of_an_adapted_net_gives_the_probabilities_of_predict(exported, pictures, algo):
    code, said, out = exported(algo, f"support={pictures}/support")
    if infers_jointly(algo):
        assert (code, "classifies all images together: take algo=simpleshot" in said) == (1, True), said
        assert not list(out.glob("model.*"))
        return
    assert code == 0, said
    assert "largest difference " in said
    run, stored = opened(out)
    record = json.loads((out / "model.json").read_text())
    assert record["check"]["largest_difference"] <= 1e-4
    assert json.loads(stored["classes"]) == record["classes"] == [f"class{k}" for k in range(WAY)]
    assert {stored[key] for key in ("what", "algo")} == {"adapted", algo}
    assert json.loads(stored["preparation"]) == record["preparation"]
    code, said, told = exported(algo, f"support={pictures}/support", f"images={pictures}/images", command="predict")
    assert code == 0, said
    images, _, names = read(pictures / "images")
    files, expected = probabilities(told)
    shares = (run(images=images) / float(stored["temperature"])).softmax(1)
    assert sorted(files) == names
    order = [files.index(name) for name in names]
    assert torch.allclose(shares, expected[order], atol=1e-4, rtol=0)
    assert shares.std(0).max() > 1e-6  # they are not all alike


@pytest.mark.slow
def test_predict_takes_the_file_in_the_place_of_the_run(exported, pictures):
    words = f"support={pictures}/support", f"images={pictures}/images"
    _, _, out = exported("maml", words[0])
    code, said, theirs = exported("maml", f"run={out}/model.onnx", words[1], command="predict")
    assert code == 0, said
    assert "when it was exported, this was expected" in said
    _, _, ours = exported("maml", *words, command="predict")
    (files, shares), (same, expected) = probabilities(theirs), probabilities(ours)
    assert files == same
    assert torch.allclose(shares, expected, atol=1e-4, rtol=0)
    heads = [(folder / "predictions.csv").read_text().splitlines()[0] for folder in (theirs, ours)]
    assert heads[0] == heads[1]
    code, said, plain = exported(
        "maml", f"run={out}/model.onnx", words[1], "predict.calibrate=false", command="predict"
    )
    assert not torch.allclose(probabilities(plain)[1], shares, atol=1e-4, rtol=0)
    for word, message in ((words[0], "holds the classifier of the support"), ("predict.reject=0.1", "does not hold")):
        code, said, _ = exported("maml", f"run={out}/model.onnx", words[1], word, command="predict")
        assert (code, message in said) == (1, True), said


@pytest.mark.slow
def test_without_a_support_the_classes_are_those_that_the_run_learned(exported, small, pictures, tmp_path):
    draw = np.random.default_rng(0)
    for part, n in (("train", 6), ("t10k", 3)):
        y = np.repeat(np.arange(10), n).astype(np.uint8)
        for kind, values in (
            ("images-idx3", draw.integers(0, 256, (len(y), 28, 28)).astype(np.uint8)),
            ("labels-idx1", y),
        ):
            (tmp_path / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(idx(values)))
    data = "data=mnist", f"data.root={tmp_path}", f"data.cache={tmp_path / 'cache'}", "data.protocol=images"
    train.run(small(*data, "algo=baseline", "task.train_way=null", *SHORT), tmp_path / "learned")
    learned = f"run={tmp_path / 'learned'}"
    code, said, out = exported("baseline", learned)
    assert code == 0, said
    record = json.loads((out / "model.json").read_text())
    assert (len(record["classes"]), record["temperature"], record["expected"]) == (10, 1.0, None)
    code, said, ours = exported("baseline", learned, f"images={pictures}/images", command="predict")
    assert code == 0, said
    run = f"run={out}/model.onnx"
    code, said, theirs = exported("baseline", run, f"images={pictures}/images", command="predict")
    assert code == 0, said
    assert torch.allclose(probabilities(theirs)[1], probabilities(ours)[1], atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("algo", quick(COMPARE, among("protonet")))
def test_an_episode_takes_any_number_of_supports_and_queries(exported, pictures, runs, algo):
    code, said, out = exported(algo, "what=episode", f"support={pictures}/support")
    assert code == 0, said
    run, stored = opened(out)
    assert json.loads(stored["inputs"])["labels"] == ["support"]
    known, labels, _ = read(pictures / "images")  # 5 or 4 of each class, where it was recorded with 3 or 4
    asked, _, _ = read(pictures / "support")
    code, said, adapted = exported(algo, f"support={pictures}/images")  # the same support, before it was written
    assert code == 0, said
    expected = opened(adapted)[0](images=asked)
    found = run(support=known, labels=labels, queries=asked)
    assert torch.allclose(found, expected, atol=1e-4, rtol=1e-5)
    mixed = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    again = run(support=known[mixed], labels=labels[mixed], queries=asked[:1])
    assert torch.allclose(again, expected[:1], atol=1e-4, rtol=1e-5)
    assert found.std(0).max() > 1e-6


@pytest.mark.slow
def test_who_declares_an_episode_is_who_is_tested():
    from metalab.algorithms.build import build_algorithm
    from tests.config.test_conf import composed

    nodes = {name: composed(f"algo={name}")["algo"] for name in ALGORITHMS if name != "metaoptnet"}
    declared = [n for n, node in nodes.items() if algorithm_traits(build_algorithm(node, 5, True)[1]).exports_episode]
    assert sorted(declared) == sorted(COMPARE)


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["maml", "r2d2", "mann"])
def test_an_algorithm_that_learns_from_each_support_has_no_episode(exported, pictures, algo):
    code, said, out = exported(algo, "what=episode", f"support={pictures}/support")
    assert (code, "what=adapted support=FOLDER" in said) == (1, True), said
    assert not list(out.glob("model.*"))


@pytest.mark.slow
def test_features_are_those_of_a_conv4_written_out(exported, pictures):
    from safetensors import safe_open
    from safetensors.torch import load_file

    code, said, out = exported("protonet", "what=features")
    assert (code, "the run's own data" in said) == (0, True), said
    code, said, saved = exported("protonet", "what=features", "format=safetensors")
    assert code == 0, said
    tensors, (images, _, _) = load_file(saved / "model.safetensors"), read(pictures / "images")
    found = opened(out)[0](images=images).flatten(1)
    assert torch.allclose(found, plain_conv4(tensors, images), atol=1e-5)
    with safe_open(saved / "model.safetensors", "pt") as file:
        assert file.metadata()["algo"] == "protonet"
        assert json.loads(file.metadata()["preparation"])["size"] == 16


def test_the_weights_of_an_adapted_net_and_the_supports_statistics_are_enough(exported, pictures):
    from safetensors.torch import load_file

    code, said, saved = exported("maml", f"support={pictures}/support", "format=safetensors")
    assert code == 0, said
    _, _, out = exported("maml", f"support={pictures}/support")
    tensors, (images, _, _) = load_file(saved / "model.safetensors"), read(pictures / "images")
    features = plain_conv4(tensors, images, tensors["support.images"])
    logits = features @ tensors["head.weight"].T + tensors["head.bias"]
    assert torch.allclose(opened(out)[0](images=images), logits, atol=1e-4)
    code, said, _ = exported("protonet", f"support={pictures}/support", "format=safetensors")
    assert (code, "adapts no weights" in said) == (1, True), said


@pytest.mark.slow
def test_a_program_of_torch_export_is_loaded_again(exported, pictures):
    code, said, out = exported("protonet", f"support={pictures}/support", "format=pt2")
    assert code == 0, said
    extra = {"metadata.json": ""}
    program = torch.export.load(out / "model.pt2", extra_files=extra)
    assert json.loads(extra["metadata.json"])["classes"][0] == "class0"
    images, _, _ = read(pictures / "images")
    _, _, onnx = exported("protonet", f"support={pictures}/support")
    assert torch.allclose(program.module()(images), opened(onnx)[0](images=images), atol=1e-5)


@pytest.mark.slow
def test_a_sweep_writes_a_file_a_job(exported, tmp_path):
    code, said, _ = exported("protonet", "-m", "what=features,episode", "format=pt2", "hydra.sweep.dir=sweep")
    assert code == 0, said
    assert {json.loads(path.read_text())["what"] for path in Path("sweep").rglob("model.json")} == {
        "features",
        "episode",
    }


def test_a_file_that_computes_another_thing_is_removed(exported, pictures, monkeypatch):
    kind = export_formats.FORMATS["pt2"]

    def off(path, what):
        compute = kind.read(path, what)
        return lambda *inputs: compute(*inputs) + 1e-2

    monkeypatch.setitem(export_formats.FORMATS, "pt2", kind._replace(read=off))
    code, said, out = exported("protonet", f"support={pictures}/support", "format=pt2", "seed=1")
    assert (code, "differ by 0.01 from ours" in said) == (1, True), said
    assert not list(out.glob("model.*"))


def test_the_difference_of_what_is_no_number_is_none_that_passes():
    assert not export._difference(torch.zeros(2), torch.tensor([0.0, torch.nan])) <= export.LARGEST
    assert export._difference(torch.tensor([1.0, -torch.inf]), torch.tensor([1.5, -torch.inf])) == 0.5


@pytest.mark.slow
def test_what_is_wrong_is_told_before_any_work(exported, pictures, monkeypatch):
    for words, message in (
        (("what=whole",), "what=whole"),
        (("format=tf",), "format=tf"),
        (("device=cuda",), "type device=cpu"),
        ((), "give some images of each of yours, support=FOLDER"),
        ((f"support={pictures}/support", "eval.bn=one"), "type eval.bn=support"),
        (("train.steps=3",), "trains nothing"),
        (("run=null",), "which run? metalab export run="),
    ):
        code, said, out = exported("protonet", *words)
        assert (code, message in said) == (1, True), said
        assert not list(out.glob("model.*"))
    monkeypatch.setattr(export_formats, "find_spec", lambda name: None)
    code, said, _ = exported("protonet", f"support={pictures}/support", "seed=1")
    assert (code, "type pip install 'metalab[export]'" in said) == (1, True), said


def test_predict_refuses_a_file_that_is_no_classifier_of_metalabs(exported, pictures, tmp_path):
    import onnx

    sizes = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "g", sizes[:1], sizes[1:])
    opset = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), str(tmp_path / "other.onnx"))
    (tmp_path / "text.onnx").write_text("no graph")
    _, _, out = exported("protonet", "what=features")
    for file, message in (
        ("other.onnx", "was not made by metalab"),
        ("text.onnx", "cannot be read as ONNX"),
        (f"{out}/model.onnx", "holds what=features"),
        (f"{out}/model.onnx algo=maml", "is as it was exported"),
        ("none.onnx", "there is no such file"),
    ):
        code, said, _ = exported("protonet", *f"run={file}".split(), f"images={pictures}/images", command="predict")
        assert (code, message in said) == (1, True), said


@pytest.mark.net
def test_real_pretrained_features_are_torchvisions(exported, tmp_path):
    from torchvision import models

    weights = mobilenet_weights()
    words = (
        "backbone=torchvision",
        "backbone.name=mobilenet_v2",
        f"backbone.weights={weights}",
        "backbone.classes=imagenet",
    )
    code, said, out = exported("none", "run=null", *words, "what=features")
    assert code == 0, said
    record = json.loads((out / "model.json").read_text())
    assert record["preparation"] == {
        "resize": 256, "interpolation": "bilinear", "size": 224, "channels": 3, "range": [0, 1]
    }  # fmt: skip
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    transforms = models.MobileNet_V2_Weights.IMAGENET1K_V1.transforms()
    net = models.mobilenet_v2().eval()
    net.load_state_dict(torch.load(weights, weights_only=True))
    net.classifier = torch.nn.Sequential()
    image = transforms(Image.fromarray(pixels))[None]
    mean, std = (torch.tensor(values)[:, None, None] for values in (transforms.mean, transforms.std))
    with torch.no_grad():
        expected = net(image)
    found = opened(out)[0](images=image * std + mean).flatten(1)
    assert torch.allclose(found, expected, atol=1e-4)
