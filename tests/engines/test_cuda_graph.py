"""engine.graphs: a recorded meta-step gives what the step itself gives, and goes on doing so while the net changes.

Where there is no GPU torch's tracer records: the operations of a step, on the tensors that it had, and no Python.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_unflatten

from metalab.core.errors import UserError
from metalab.core.interfaces import Batch, Engine, Episode, TaskResult
from metalab.engines import cuda_graph
from metalab.engines.cuda_graph import EAGER, CUDAGraphEngine
from metalab.engines.learn2learn import Learn2Learn
from metalab.engines.vectorized import Vectorized
from metalab.models.meta_net import Net
from metalab.tracking import checkpoint
from metalab.training import train
from tests.configs import training_setup
from tests.engines.tasks import ALGORITHMS, TASKS, episodes, farthest, objective, of
from tests.engines.tasks import net_of as net_for
from tests.engines.test_parity import ALGORITHMS as EVERY
from tests.engines.test_parity import NEAR, SMALL, assert_same, net_of, recipes
from tests.engines.test_parity import episodes as drawn
from tests.quick import among, quick


class Recorder:
    """What record() does on a GPU, without one: torch's tracer keeps the operations; a replay runs them, no Python."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0
        self.nets: list[Net] = []  # whose buffers a recording leaves alone, as on a GPU, where it only records

    def record(self, run: Callable[[], Any], device: torch.device) -> tuple[Callable[[], None], Any]:
        seen: list[Any] = []

        def flat() -> list[Any]:
            seen[:] = tree_flatten(run())
            return seen[0]

        before = [{n: b.clone() for n, b in net.named_buffers()} for net in self.nets]
        played = make_fx(flat)()
        for net, buffers in zip(self.nets, before, strict=True):
            net.load_state_dict(buffers, strict=False)
        leaves, spec = seen
        results = [None if leaf is None else torch.empty_like(leaf, requires_grad=False) for leaf in leaves]
        self.recorded += 1

        def replay() -> None:
            self.replayed += 1
            with torch.no_grad():
                for mine, new in zip(results, played(), strict=True):
                    if mine is not None:
                        mine.copy_(new)

        return replay, tree_unflatten(results, spec)


@pytest.fixture
def recorder(monkeypatch) -> Recorder:
    made = Recorder()
    monkeypatch.setattr(cuda_graph, "record", made.record)
    monkeypatch.setattr(cuda_graph, "beside", lambda run, device: run())
    return made


def batches(count: int) -> list[Episode]:
    """Return meta-batches of one shape and other images."""
    generator = torch.Generator().manual_seed(1)

    def other(b: Batch) -> Batch:
        return b._replace(x=torch.rand(b.x.shape, generator=generator, dtype=b.x.dtype))

    return [Episode(*map(other, episodes())) for _ in range(count)]


def trained(
    engine: Engine, net: Net, what: Any, given: list[Episode], optimizer: type[torch.optim.Optimizer] = torch.optim.Adam
) -> list[TaskResult]:
    """Return the results of meta-steps with each of the meta-batches; the net is trained by them."""
    outer = optimizer(net.parameters(), lr=0.01)  # type: ignore[call-arg]
    results = []
    for i, batch in enumerate(given):
        outer.zero_grad()
        progress = torch.full((), i / len(given), dtype=torch.float64, device=batch.query.x.device)
        results.append(engine.grad(what, net, batch, progress))
        outer.step()
    return results


ENGINES = {"whole": Vectorized(None), "chunks": Vectorized(2), "loop": Learn2Learn()}
RECORDED = [(case, engine) for case in ALGORITHMS for engine in ENGINES]


@pytest.mark.slow
@pytest.mark.parametrize(("case", "engine"), quick(RECORDED, lambda both: "protonet" in both or both[1] == "whole"))
def test_a_training_by_recorded_steps_is_the_training(case, engine, recorder):
    engine = ENGINES[engine]
    given = batches(EAGER + 4)
    (net, what), (other, same) = of(case), of(case)
    expected, results = trained(engine, other, same, given), trained(CUDAGraphEngine(engine), net, what, given)
    assert (recorder.recorded, recorder.replayed) == (1, 4)
    for mine, theirs in zip(results, expected, strict=True):
        assert torch.equal(mine.loss, theirs.loss)
        assert torch.equal(mine.correct, theirs.correct)
        assert torch.equal(mine.scalars["loss"], theirs.scalars["loss"])
    assert len({r.loss.sum().item() for r in results}) == len(results)  # a later replay leaves earlier results alone
    assert farthest(net.state_dict(), other.state_dict()) == 0


GRAPHED = [a for a in EVERY if a != "metaoptnet"]  # it solves on the CPU


@pytest.mark.slow
@pytest.mark.parametrize("algo", quick(GRAPHED, among("maml", "mamlpp", "protonet", "r2d2", "mann")))
def test_every_algorithms_step_is_the_same_program_from_first_to_last(algo, small, recorder):
    """What changes with the training's progress (MAML++) has to be an operation, as a replay runs no Python."""
    for r in recipes(small, algo, 16):
        nets, what = [net_of(r, SMALL["conv4"], 16) for _ in range(2)], r.objective()
        given = [drawn(r)] * (EAGER + 3)
        recorder.nets = nets[1:]
        try:
            plain = trained(Vectorized(None), nets[0], what, given)
        except UserError as error:
            pytest.skip(f"engine=vectorized refuses {algo}: {error}")
        for mine, theirs in zip(trained(CUDAGraphEngine(Vectorized(None)), nets[1], what, given), plain, strict=True):
            assert_same(mine, theirs)
        assert farthest(nets[0].state_dict(), nets[1].state_dict()) < NEAR
    assert recorder.replayed


@pytest.mark.slow
def test_a_gradient_that_is_there_is_added_to(recorder):
    (net, what), batch = of("maml"), batches(1)[0]
    engine = CUDAGraphEngine(Vectorized(None))
    for steps in range(1, EAGER + 3):
        engine.grad(what, net, batch, torch.zeros(()))
        total = {n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None}
        one = total if steps == 1 else one  # noqa: F821
        assert farthest(total, {n: steps * g for n, g in one.items()}) < 1e-12


@pytest.mark.slow
def test_each_shape_and_mode_has_a_recording_of_its_own(recorder):
    (net, what), batch = of("maml"), batches(1)[0]
    engine = CUDAGraphEngine(Vectorized(None))
    fewer = Episode(*(Batch(*(t[: TASKS - 1] for t in b)) for b in batch))
    for given in (batch, fewer, batch, fewer):
        for _ in range(EAGER + 1):
            assert len(engine.grad(what, net, given, torch.zeros(())).loss) == len(given.query.y)
    engine.grad(what, net.eval(), batch, torch.zeros(()))
    assert recorder.recorded == 2
    engine.grad(objective(*ALGORITHMS["protonet"]), net_for(ALGORITHMS["protonet"][0]), batch, torch.zeros(()))
    assert recorder.recorded == 2


@pytest.mark.slow
def test_metalab_train_takes_it(small, tmp_path, recorder, monkeypatch):
    words = ("algo=maml", "engine=vectorized", "train.meta_batch=2", "train.steps=6", "algo.test_steps=1")
    train.run(small(*words), tmp_path / "plain")
    monkeypatch.setattr(
        "metalab.training.setup.takes_graphs", lambda engine, *_: bool(engine.graphs)
    )  # there is no GPU
    train.run(small(*words, "engine.graphs=true"), tmp_path / "graphs")
    assert (recorder.recorded, recorder.replayed) == (1, 3)
    plain, mine = (torch.load(tmp_path / name / "last.pt", weights_only=True)["net"] for name in ("plain", "graphs"))
    assert farthest(mine, plain) == 0


@pytest.mark.slow
def test_a_run_goes_on_without_them(small, tmp_path, recorder):
    words = ("algo=maml", "engine=vectorized", "train.meta_batch=2", "algo.test_steps=1")
    with pytest.MonkeyPatch.context() as there:
        there.setattr("metalab.training.setup.takes_graphs", lambda engine, *_: bool(engine.graphs))  # there is no GPU
        train.run(small(*words, "engine.graphs=true"), tmp_path)
    train.run(small(*words, "train.steps=8", f"resume={tmp_path}"), tmp_path)
    assert recorder.recorded == 1
    assert checkpoint.load(tmp_path / "last.pt")["engine"]["graphs"] is False
    assert checkpoint.load(tmp_path / "last.pt")["state"]["step"] == 8


@pytest.mark.parametrize("engine", ["auto", "vectorized"])
def test_it_is_refused_without_a_gpu(engine, small, tmp_path):
    with pytest.raises(
        UserError, match=r"^engine\.graphs=true needs a CUDA device, this is cpu: type engine\.graphs=f"
    ):
        train.run(small(f"engine={engine}", "engine.graphs=true"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_episodes_of_many_sizes_are_refused(small, tmp_path, monkeypatch):
    monkeypatch.setattr("metalab.training.setup.own_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr("metalab.training.setup.on_device", lambda split, _: split)
    words = ("task=variable", "algo=protonet", "engine=vectorized", "engine.graphs=true")
    with pytest.raises(UserError, match=r"^engine\.graphs=true: a graph has one shape, and with task=variable each"):
        train.run(small(*words), tmp_path)


def test_what_cannot_be_recorded_goes_on_as_it_is_where_nobody_asked_for_graphs(recorder, monkeypatch, caplog):
    def refused(run: Callable[[], Any], device: torch.device) -> Any:
        raise UserError("engine.graphs=true: this meta-step cannot be recorded")

    monkeypatch.setattr(cuda_graph, "record", refused)
    given = batches(EAGER + 3)
    (net, what), (other, same) = of("maml"), of("maml")
    with caplog.at_level("INFO", "metalab"):
        results = trained(CUDAGraphEngine(Vectorized(None), strict=False), net, what, given)
    assert caplog.text.count("it goes on without") == 1
    for mine, theirs in zip(results, trained(Vectorized(None), other, same, given), strict=True):
        assert torch.equal(mine.loss, theirs.loss)
    with pytest.raises(UserError, match="cannot be recorded"):
        trained(CUDAGraphEngine(Vectorized(None)), net, what, given)


def test_out_of_memory_while_a_graph_is_recorded_gives_nothing_back(monkeypatch):
    class Full(Vectorized):
        def _run(self, objective, net, episodes, progress):
            raise torch.cuda.OutOfMemoryError("full")

    monkeypatch.setattr("metalab.engines.vectorized.capturing", lambda _: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: pytest.fail("not while a graph is recorded"))
    net, what = of("maml")
    with pytest.raises(torch.cuda.OutOfMemoryError):
        Full(None).grad(what, net, batches(1)[0], torch.zeros(()))


@pytest.mark.parametrize(
    ("words", "taken"),
    [
        (("algo=maml",), True),
        (("algo=maml", "engine=learn2learn"), False),
        (("algo=maml", "engine=vectorized"), True),
        (("algo=maml", "engine.graphs=false"), False),
        (("algo=protonet", "task=variable"), False),
        (("algo=baseline", "task.train_way=null"), True),
        (("algo=metaoptnet",), False),
    ],
)
def test_on_a_gpu_they_are_taken_wherever_they_can_be(words, taken, small, monkeypatch):
    monkeypatch.setattr("metalab.training.setup.own_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr("metalab.training.setup.on_device", lambda split, _: split)
    assert isinstance(training_setup(small(*words)).stepping, CUDAGraphEngine) == taken


def test_they_are_refused_where_a_meta_step_leaves_the_device(small, monkeypatch):
    monkeypatch.setattr("metalab.training.setup.own_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr("metalab.training.setup.on_device", lambda split, _: split)
    with pytest.raises(UserError, match=r"^engine\.graphs=true: algo=metaoptnet solves on the processor"):
        training_setup(small("algo=metaoptnet", "engine.graphs=true"))
