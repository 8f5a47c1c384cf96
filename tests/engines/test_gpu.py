"""On a GPU: the numbers are the CPU's, by both engines and by CUDA graphs, and trainings go through."""

import json
from pathlib import Path

import pytest
import torch

from metalab.core.errors import UserError
from metalab.core.interfaces import Batch, Episode
from metalab.engines.cuda_graph import EAGER, CUDAGraphEngine
from metalab.engines.learn2learn import Learn2Learn
from metalab.engines.vectorized import Vectorized
from metalab.evaluation import evaluate
from metalab.tracking import checkpoint
from metalab.training import train
from tests.engines import tasks
from tests.engines import test_parity as parity
from tests.engines.tasks import farthest, of
from tests.engines.test_cuda_graph import batches, trained
from tests.engines.test_parity import ALGORITHMS, NEAR, SMALL, assert_same, episodes, gradient, net_of, recipes

DEVICE = torch.device("cuda")
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def there(batch: Episode) -> Episode:
    return Episode(*(Batch(*(t.to(DEVICE) for t in b)) for b in batch))


@pytest.mark.parametrize("engine", [Learn2Learn(), Vectorized(None), Vectorized(2)], ids=["loop", "whole", "chunks"])
@pytest.mark.parametrize("algo", ALGORITHMS)
def test_its_gradients_are_the_cpus(algo, engine, small):
    try:
        found = recipes(small, algo, 16)
    except UserError as error:
        pytest.skip(f"not here: {error}")
    for r in found:
        here, net, batch = net_of(r, SMALL["conv4"], 16), net_of(r, SMALL["conv4"], 16).to(DEVICE), episodes(r)
        try:
            expected, theirs = gradient(Learn2Learn(), r, here, batch, 0.25)
            result, mine = gradient(engine, r, net, there(batch), 0.25)
        except UserError as error:
            pytest.skip(f"refused: {error}")
        parts = (result.loss.cpu(), result.correct.cpu(), {k: v.cpu() for k, v in result.scalars.items()})
        assert_same(result._replace(loss=parts[0], correct=parts[1], scalars=parts[2]), expected)
        assert farthest({n: g.cpu() for n, g in mine.items()}, theirs) < NEAR


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_in_float32_the_gradient_is_float64s_direction(algo, small, monkeypatch):
    """Small nets of noise: a maximum that rounding moves to another pixel is the largest difference."""
    monkeypatch.setattr("metalab.models.conv_triton.LEAST", 1)  # by Triton's kernels, though the net is small
    if algo == "reptile":
        pytest.skip("its inner Adam makes whole steps of gradients that are rounding alone, on a CPU too: 0.95")
    try:
        found = recipes(small, algo, 16)
    except UserError as error:
        pytest.skip(f"not here: {error}")
    for r in found:
        net, batch = net_of(r, SMALL["conv4"], 16), episodes(r)
        try:
            _, exact = gradient(Learn2Learn(), r, net, batch, 0.25)
            single = Episode(*(Batch(*(t.float() if t.is_floating_point() else t for t in b)) for b in there(batch)))
            _, mine = gradient(Vectorized(None), r, net.float().to(DEVICE), single, 0.25)
        except UserError as error:
            pytest.skip(f"refused: {error}")
        both = [torch.cat([found[n].double().cpu().flatten() for n in exact]) for found in (exact, mine)]
        assert torch.cosine_similarity(*both, dim=0) > 0.999


@pytest.mark.parametrize("algo", [a for a in ALGORITHMS if a != "metaoptnet"])  # it solves on the CPU
def test_a_training_by_graphs_is_the_training(algo, small):
    for r in recipes(small, algo, 16):
        given = [there(episodes(r)) for _ in range(EAGER + 3)]
        nets = [net_of(r, SMALL["conv4"], 16).to(DEVICE) for _ in range(2)]
        what = r.objective()
        # SGD: cuDNN may add in another order, and Adam makes steps of a gradient that is nothing but rounding
        plain = trained(Vectorized(None), nets[0], what, given, torch.optim.SGD)
        recorded = trained(CUDAGraphEngine(Vectorized(None)), nets[1], what, given, torch.optim.SGD)
        for mine, theirs in zip(recorded, plain, strict=True):
            assert_same(mine, theirs)
        assert parity.farthest(nets[0].state_dict(), nets[1].state_dict(), algo) < NEAR


def test_a_step_that_looks_at_numbers_cannot_be_recorded():
    class Looking(Vectorized):
        def grad(self, objective, net, episodes, progress):
            progress.item()
            return super().grad(objective, net, episodes, progress)

    net, what = of("protonet")
    with pytest.raises(UserError, match=r"^engine\.graphs=true: this meta-step cannot be recorded as a CUDA graph \("):
        trained(CUDAGraphEngine(Looking(None)), net.to(DEVICE), what, [there(b) for b in batches(EAGER + 1)])


@pytest.mark.parametrize(("case", "precision"), [("protonet", "tf32"), ("protonet", "bf16"), ("maml", "tf32")])
def test_other_precisions_point_the_same_way(case, precision):
    """MAML in bfloat16 is refused; its net is tiny here and its images are noise, so TF32 shows at its worst."""
    (net, what), batch = of(case), there(tasks.episodes(torch.float32))
    net = net.float().to(DEVICE)
    gradients = []
    for engine in (Vectorized(None), Vectorized(None, precision)):
        _, found = tasks.gradient(engine, net, what, batch)
        gradients.append(torch.cat([g.flatten() for n, g in found.items() if ".0.bias" not in n]))
    assert torch.cosine_similarity(*gradients, dim=0) > 0.9


@pytest.mark.parametrize(
    "words",
    [("algo=maml",), ("algo=maml", "engine.graphs=true"), ("algo=protonet", "engine.precision=bf16")],
    ids=["plain", "graphs", "bf16"],
)
def test_metalab_train_runs_there_and_goes_on(words, small, tmp_path: Path):
    own = ("device=cuda", "train.meta_batch=4", "train.steps=8", *words)
    train.run(small(*own), tmp_path)
    assert checkpoint.load(tmp_path / "last.pt")["engine"]["_target_"] == "metalab.engines.Vectorized"
    train.run(small(*own, "train.steps=16", f"resume={tmp_path}"), tmp_path)
    assert checkpoint.load(tmp_path / "last.pt")["state"]["step"] == 16


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_a_checkpoint_is_evaluated_on_the_other_device(device, small, tmp_path: Path):
    own = ("algo=maml", "train.meta_batch=4", "algo.test_steps=1", "eval.episodes=40")
    train.run(small(*own, f"device={device}"), tmp_path / "run")
    records = []
    for where in ("cpu", "cuda"):
        evaluate.run([(tmp_path / "run", small(*own, f"device={where}", "data.absent=''"))], tmp_path / where)
        records.append(json.loads((tmp_path / where / "eval.json").read_text()))
    here, there = records
    assert there["accuracy"] == pytest.approx(here["accuracy"], abs=0.02)
    assert there["loss"] == pytest.approx(here["loss"], rel=1e-3)


@pytest.mark.parametrize("words", [(), ("engine.graphs=true",)], ids=["plain", "graphs"])
def test_a_resumed_training_is_the_training(words, small, tmp_path: Path):
    # SGD: cuDNN may add in another order, and Adam makes whole steps of gradients that are rounding alone
    own = (
        "algo=maml",
        "device=cuda",
        "train.meta_batch=4",
        "algo.test_steps=1",
        "train.val_every=4",
        "optim=sgd",
        *words,
    )
    train.run(small(*own, "train.steps=16"), tmp_path / "whole")
    train.run(small(*own, "train.steps=8"), tmp_path / "parts")
    train.run(small(*own, "train.steps=16", f"resume={tmp_path / 'parts'}"), tmp_path / "parts")
    whole, parts = (checkpoint.load(tmp_path / name / "last.pt")["net"] for name in ("whole", "parts"))
    assert tasks.farthest(parts, whole) < 1e-4


@pytest.mark.parametrize(
    "engine", [Learn2Learn(), Vectorized(None), CUDAGraphEngine(Vectorized(None))], ids=["loop", "whole", "graphs"]
)
def test_memory_stays_over_many_meta_steps(engine):
    (net, what), given = of("maml"), [there(b) for b in batches(2)]
    net = net.to(DEVICE)
    held, reserved = [], []
    for i in range(2000 if isinstance(engine, CUDAGraphEngine) else 200):
        net.zero_grad()
        engine.grad(what, net, given[i % 2], torch.zeros((), dtype=torch.float64, device=DEVICE))
        if i % 50 == 49:
            held.append(torch.cuda.memory_allocated())
            reserved.append(torch.cuda.memory_reserved())
    assert len(set(held)) == 1
    assert reserved[-1] == reserved[0]
