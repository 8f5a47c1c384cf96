"""Every algorithm that conf/algo lists learns; the details that implementations get wrong are tests by name."""

import ast
import inspect
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from metalab.algorithms.gradient_based import maml, reptile
from metalab.algorithms.metric_based.protonet import ProtoNet
from metalab.config.paths import conf_dir
from metalab.core.errors import UserError
from metalab.core.interfaces import Batch, Episode
from metalab.data.sampling.episode_sampler import EpisodeSampler
from metalab.evaluation import evaluate
from metalab.evaluation.pixel_baseline import pixel_nearest_neighbour
from metalab.training import train
from tests.quick import among, quick

ALGORITHMS = sorted(path.stem for path in (Path(conf_dir()) / "algo").glob("*.yaml"))

GRADIENT = ["train.meta_batch=4", "train.steps=60", "optim.lr=0.01"]

BATCHES = ["optim.lr=0.01", "task.train_way=null"]

QUICK = {  # what makes seconds of it; an algorithm without an entry trains as its YAML says
    "maml": GRADIENT,
    "fomaml": GRADIENT,
    "anil": GRADIENT,
    "metasgd": GRADIENT,
    "reptile": ["train.steps=30", "algo.test_steps=10", "algo.lr=0.01"],
    "r2d2": ["optim.lr=0.01"],
    "siamese": ["optim.lr=0.01"],
    "matching": ["optim.lr=0.01"],
    "boil": [*GRADIENT, "train.steps=40", "algo.steps=1"],
    "imaml": [*GRADIENT, "algo.lr=0.5", "algo.lam=0.5", "algo.steps=3", "algo.test_steps=3", "algo.cg_steps=1"],
    "simpleshot": BATCHES,
    "bdcspn": BATCHES,
    "laplacianshot": BATCHES,
    "soft_kmeans": BATCHES,
    "ptmap": [*BATCHES, "algo.sinkhorn=50"],
    "tim": [*BATCHES, "algo.iterations=100", "algo.lr=0.001"],
    "alpha_tim": [*BATCHES, "algo.iterations=100", "algo.lr=0.001"],
    "tpn": ["optim.lr=0.01", "train.steps=150", "train.meta_batch=4"],
    "autoencoder": BATCHES,
    "covamnet": ["optim.lr=0.01", "train.steps=120"],
    "deepbdc": ["optim.lr=0.01", "train.steps=150"],
    "baseline": [*BATCHES, "algo.epochs=10"],
    "baselinepp": [*BATCHES, "algo.epochs=10"],
    "negative_margin": [*BATCHES, "algo.epochs=10"],
    "feature_extraction": BATCHES,
    "rfs": BATCHES,
    "linear_probe": BATCHES,
    "cosine_probe": BATCHES,
    "distribution_calibration": BATCHES,
    "finetune": [*BATCHES, "algo.test_steps=5", "algo.lr=0.001", "algo.head_init=prototype"],
    "metacurvature": [*GRADIENT, "train.steps=40"],
    "kfo": [*GRADIENT, "train.steps=40"],
    "mtl": [
        "optim.lr=0.01",
        "train.steps=200",
        "train.meta_batch=4",
        "algo.steps=5",
        "algo.test_steps=10",
        "algo.lr=0.1",
    ],
    "versa": ["optim.lr=0.003", "train.steps=300", "train.meta_batch=4"],
    "clip_lora": ["optim.lr=0.01", "algo.scale=10", "algo.test_steps=3", "algo.lr=0.0003"],
    "pmf": ["optim.lr=0.01", "algo.test_steps=5", "algo.lr=0.0003"],
    "mamlpp": [*GRADIENT, "train.steps=30", "algo.steps=2", "algo.test_steps=2"],
    "relation": ["optim.lr=0.01", "train.steps=100"],
}


def trained(small, out: Path, *overrides: str) -> tuple[float, float]:
    """Train on tiny data; return the accuracy on its unseen test classes and the half-width of its interval."""
    ours = ("task.query=5", "backbone.filters=16", "train.val_every=1000", "train.steps=60", "eval.episodes=100")
    cfg = small(*ours, *overrides)
    train.run(cfg, out)
    cfg.data.absent = ""  # from here on the test split may be read
    evaluate.run([(out, cfg)], out / "eval")
    result = json.loads((out / "eval" / "eval.json").read_text())
    return result["accuracy"], result["ci95"]


REAL = EpisodeSampler.__call__

ELSEWHERE = {
    "mann": "takes tens of thousands of episodes; tests/algorithms/test_mann.py has it learn an easier task",
    "mtl": "learns from a pretrained body; below",
    "autoencoder": "learns without labels, pixels' equal at best; what it learns is in test_autoencoder.py",
}


@pytest.mark.parametrize("algo", quick(ALGORITHMS, among("protonet", "maml", "r2d2", "baseline")))
def test_it_learns_unseen_classes_ten_points_better_than_pixels(algo, small, tiny, tmp_path):
    if algo in ELSEWHERE:
        pytest.skip(ELSEWHERE[algo])
    source = EpisodeSampler(tiny["test"], 5, 1, 5, 8, 0, "test", torch.device("cpu"))
    pixels, _ = pixel_nearest_neighbour(source, 100)
    accuracy, ci95 = trained(small, tmp_path, f"algo={algo}", *QUICK.get(algo, []))
    assert accuracy - ci95 > pixels + 0.10


@pytest.mark.slow
def test_mtl_learns_from_a_pretrained_body_whose_kernels_stay(small, tiny, tmp_path):
    source = EpisodeSampler(tiny["test"], 5, 1, 5, 8, 0, "test", torch.device("cpu"))
    pixels, _ = pixel_nearest_neighbour(source, 100)
    trained(small, tmp_path / "body", "algo=baseline", *BATCHES, "algo.epochs=1")
    words = ("algo=mtl", *QUICK["mtl"], f"train.init={tmp_path / 'body'}")
    accuracy, ci95 = trained(small, tmp_path / "mtl", *words)
    assert accuracy - ci95 > pixels + 0.10
    start, end = (torch.load(tmp_path / name / "best.pt", weights_only=True)["net"] for name in ("body", "mtl"))
    kernels = {k: v for k, v in end.items() if k.endswith(".original")}
    assert len(kernels) == 8
    for name, kept in kernels.items():
        assert torch.equal(kept, start[name.replace("parametrizations.", "").removesuffix(".original")])


def shuffled(self, step):
    support, query = REAL(self, step)
    order = np.random.default_rng(step).random(support.y.shape).argsort(1)  # of each episode its own
    return Episode(support._replace(y=support.y.gather(1, torch.from_numpy(order))), query)


SECONDS = ("protonet", "maml", "r2d2")  # one of each family; the others are slow together


@pytest.mark.parametrize("algo", [a if a in SECONDS else pytest.param(a, marks=pytest.mark.slow) for a in ALGORITHMS])
def test_shuffled_labels_give_chance(algo, small, tmp_path, monkeypatch):
    """Supports are labelled at random, queries truly: whoever finds the queries' labels has them from elsewhere."""
    monkeypatch.setattr(EpisodeSampler, "__call__", shuffled)
    accuracy, ci95 = trained(small, tmp_path, f"algo={algo}", *QUICK.get(algo, []), "train.steps=3")
    assert abs(accuracy - 0.2) < 2 * ci95


@pytest.mark.slow
def test_who_knows_the_queries_by_their_order_is_noticed_by_shuffled_labels(small, tmp_path, monkeypatch):
    def cheats(
        self, learner, support, loss, steps
    ):  # knows the queries by their order, as a leaking sampler's would be
        yield lambda x: torch.eye(5)[torch.arange(len(x)) // 5 % 5] + 0 * learner.features(x).flatten(1)[:, :5]

    def ordered(self, step):
        support, query = shuffled(self, step)
        order = query.y.argsort(dim=1, stable=True)
        rows = torch.arange(len(order))[:, None]
        return Episode(support, query._replace(x=query.x[rows, order], y=query.y[rows, order]))

    monkeypatch.setattr(EpisodeSampler, "__call__", ordered)
    monkeypatch.setattr(ProtoNet, "adapt", cheats)
    accuracy, _ = trained(small, tmp_path, "algo=protonet", "train.steps=1")
    assert accuracy > 0.9


def test_reptile_walks_through_all_of_the_support_before_an_image_comes_again(monkeypatch):
    seen = []

    class Watched:
        def parameters(self):
            return {}

        def buffers(self):
            return {}

        def replace(self, tensors):
            return self

        def grad(self, loss, names, first_order):
            assert first_order
            loss(self)
            return {}

    monkeypatch.setattr(reptile.Reptile, "_adam", lambda self, learner, gradient: learner)
    support = Batch(torch.zeros(25, 1, 1, 1), torch.arange(25), torch.zeros(0, 1, 1, 1))
    list(reptile.Reptile(5, 1e-3, 0.999, 10).adapt(Watched(), support, lambda m, b: seen.extend(b.y.tolist()), 5))  # type: ignore[arg-type]
    assert seen == [i % 25 for i in range(50)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("algo=maml", "algo.lr=-1"), "algo.lr=-1: expected a number above 0"),
        (("algo=reptile", "algo.batch=0"), "algo.batch=0: expected a number above 0"),
        (("algo=reptile", "algo.beta2=1"), "algo.beta2=1: expected a number from 0 up to but not including 1"),
        (("algo=reptile", "algo.steps=0"), "algo.steps=0: without an inner step phi is theta, and nothing is learned"),
        (("backbone.filters=0",), "backbone.filters=0: expected 1 or more"),
        (("backbone.pooled=5",), "backbone.pooled=5: expected 0 to 4"),
    ],
)
def test_a_value_out_of_range_is_refused(words, message, small, tmp_path):
    with pytest.raises(UserError, match=re.escape(message)):
        train.run(small(*words), tmp_path)


FAMILIES = ("gradient_based", "memory_based", "metric_based", "solver_based", "transductive", "transfer_learning")
HOME = Path(inspect.getfile(maml)).parents[1]


def test_every_folder_of_algorithms_is_a_known_family():
    folders = {path.name for path in HOME.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == {*FAMILIES, "components", "objectives"}


@pytest.mark.parametrize(
    "path", sorted(path for family in FAMILIES for path in (HOME / family).glob("*.py")), ids=lambda p: p.stem
)
def test_an_algorithm_is_at_most_60_lines_of_code_on_interfaces_and_torch(path):
    tree = ast.parse(path.read_text())
    docs = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            docs |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    lines = [i for i, line in enumerate(path.read_text().splitlines(), 1) if line.strip() and i not in docs]
    assert len(lines) <= 60
    imported = {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert {m for m in imported if m.startswith("metalab")} <= {
        "metalab.core.interfaces",
        "metalab.config.validate",
        "metalab.core.learn2learn_import",
        "metalab.core.typed_torch",
        "metalab.core.errors",
        "metalab.models.layers",
        "metalab.models.decoder",
        "metalab.models.relation_module",
        "metalab.models.text_classifier",
        *(m for m in imported if m.startswith("metalab.algorithms.components.")),
    }
