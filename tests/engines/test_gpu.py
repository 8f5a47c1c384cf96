"""On a GPU: the numbers are the CPU's, by both engines and by CUDA graphs, and trainings go through."""

from pathlib import Path

import pytest
import torch

from metalab import checkpoint, train
from metalab.engines.graph import EAGER, Graphed
from metalab.engines.learn2learn import Learn2Learn
from metalab.engines.vectorised import Vectorised
from metalab.errors import UserError
from metalab.interfaces import Batch, Episode
from tests.engines import tasks
from tests.engines.tasks import farthest, of
from tests.engines.test_graph import batches, trained
from tests.engines.test_parity import ALGORITHMS, NEAR, SMALL, assert_same, episodes, gradient, net_of, recipes

DEVICE = torch.device("cuda")
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def there(batch: Episode) -> Episode:
    return Episode(*(Batch(*(t.to(DEVICE) for t in b)) for b in batch))


@pytest.mark.parametrize("engine", [Learn2Learn(), Vectorised(None), Vectorised(2)], ids=["loop", "whole", "chunks"])
@pytest.mark.parametrize("algo", ALGORITHMS)
def test_its_gradients_are_the_cpus(algo, engine, small):
    for r in recipes(small, algo, 16):
        here, net, batch = net_of(r, SMALL["conv4"], 16), net_of(r, SMALL["conv4"], 16).to(DEVICE), episodes(r)
        expected, theirs = gradient(Learn2Learn(), r, here, batch, 0.25)
        try:
            result, mine = gradient(engine, r, net, there(batch), 0.25)
        except UserError as error:
            pytest.skip(f"refused: {error}")
        parts = (result.loss.cpu(), result.correct.cpu(), {k: v.cpu() for k, v in result.scalars.items()})
        assert_same(result._replace(loss=parts[0], correct=parts[1], scalars=parts[2]), expected)
        assert farthest({n: g.cpu() for n, g in mine.items()}, theirs) < NEAR


@pytest.mark.parametrize("algo", [a for a in ALGORITHMS if a != "metaoptnet"])  # it solves on the CPU
def test_a_training_by_graphs_is_the_training(algo, small):
    for r in recipes(small, algo, 16):
        given = [there(episodes(r)) for _ in range(EAGER + 3)]
        nets = [net_of(r, SMALL["conv4"], 16).to(DEVICE) for _ in range(2)]
        what = r.objective()
        plain = trained(Vectorised(None), nets[0], what, given)
        for mine, theirs in zip(trained(Graphed(Vectorised(None)), nets[1], what, given), plain, strict=True):
            assert_same(mine, theirs)
        assert farthest(nets[0].state_dict(), nets[1].state_dict()) < NEAR


def test_a_step_that_looks_at_numbers_cannot_be_recorded():
    class Looking(Vectorised):
        def grad(self, objective, net, episodes, progress):
            progress.item()
            return super().grad(objective, net, episodes, progress)

    net, what = of("protonet")
    with pytest.raises(UserError, match=r"^engine\.graphs=true: this meta-step cannot be recorded as a CUDA graph \("):
        trained(Graphed(Looking(None)), net.to(DEVICE), what, [there(b) for b in batches(EAGER + 1)])


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
@pytest.mark.parametrize("case", tasks.ALGORITHMS)
def test_other_precisions_are_near_and_leave_no_trace(case, precision):
    (net, what), batch = of(case), there(tasks.episodes(torch.float32))
    net = net.float().to(DEVICE)
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    full, theirs = tasks.gradient(Vectorised(None), net, what, batch)
    near, mine = tasks.gradient(Vectorised(None, precision), net, what, batch)
    assert (near.loss - full.loss).abs().max() < 0.1
    assert farthest(mine, theirs) < 0.3 * max(g.abs().max().item() for g in theirs.values())
    assert before == (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32)


@pytest.mark.parametrize(
    "words", [(), ("engine.graphs=true",), ("engine.precision=bf16",)], ids=["plain", "graphs", "bf16"]
)
def test_metalab_train_runs_there_and_goes_on(words, small, tmp_path: Path):
    own = ("algo=maml", "device=cuda", "train.meta_batch=4", "train.steps=8", "algo.test_steps=1", *words)
    train.run(small(*own), tmp_path)
    assert checkpoint.load(tmp_path / "last.pt")["engine"]["_target_"] == "metalab.engines.vectorised.Vectorised"
    train.run(small(*own, "train.steps=16", f"resume={tmp_path}"), tmp_path)
    assert checkpoint.load(tmp_path / "last.pt")["state"]["step"] == 16
