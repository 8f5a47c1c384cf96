"""engine=auto goes by the table that ships, says what it took, and takes it again; precisions are refused by name."""

import logging
from dataclasses import replace

import pytest

from metalab.core.errors import UserError
from metalab.engines import auto
from metalab.engines.auto import AutoEngine, Measurement, Workload, conv4_filters, table
from metalab.engines.build import select_engine
from metalab.engines.learn2learn import Learn2Learn
from metalab.engines.vectorized import Vectorized
from metalab.tracking import checkpoint
from metalab.training import train
from tests.config.test_conf import composed
from tests.configs import backbone as made_backbone

WORK = Workload("cpu", "maml", 28, 32, 10, 1, 64)
ROWS = [
    Measurement(WORK, 4, 130.0, 100.0),
    Measurement(replace(WORK, algo="anil"), None, 119.0, 100.0),
    Measurement(replace(WORK, algo="protonet", steps=0), None, 130.0, 100.0),
    Measurement(replace(WORK, size=84), None, 50.0, 100.0),
]


@pytest.fixture
def rows(monkeypatch):
    monkeypatch.setattr(auto, "table", lambda: ROWS)


@pytest.mark.parametrize(
    ("work", "engine"),
    [
        (WORK, Vectorized(4)),
        (replace(WORK, tasks=16, images=20), Vectorized(4)),
        (replace(WORK, algo="anil"), Learn2Learn()),
        (replace(WORK, algo="mine"), Learn2Learn()),  # not all rows near agree
        (replace(WORK, algo="matching", steps=0), Vectorized(None)),
        (replace(WORK, algo=None), Learn2Learn()),  # an evaluation
        (replace(WORK, algo=None, features=True), Vectorized(None)),
        (replace(WORK, size=84), Learn2Learn()),
        (replace(WORK, images=100), Learn2Learn()),  # nothing near
        (replace(WORK, tasks=1), Learn2Learn()),
        (replace(WORK, steps=3), Vectorized(4)),
        (replace(WORK, steps=5), Learn2Learn()),
        (replace(WORK, filters=32), Learn2Learn()),
        (replace(WORK, filters=None), Learn2Learn()),  # another backbone
        (replace(WORK, filters=None, device="cuda"), Vectorized(None)),
        (replace(WORK, device="cuda", size=84), Vectorized(None)),
    ],
)
def test_it_takes_what_was_faster_where_it_was_measured(work, engine, rows):
    assert AutoEngine("float32").choose(work) == engine


def test_it_says_what_it_took_and_why(rows, caplog):
    caplog.set_level(logging.INFO, "metalab")
    for work in (WORK, replace(WORK, size=84), replace(WORK, tasks=1), replace(WORK, device="cuda")):
        AutoEngine("float32").choose(work)
    assert caplog.messages == [
        "engine=auto takes vectorized, 4 tasks at once: 1.30 times learn2learn's speed",
        "engine=auto takes learn2learn: vectorized was measured at 0.50 times its speed",
        "engine=auto takes learn2learn: nothing near was measured",
        "engine=auto takes vectorized: on a GPU one task after another is bound by the launches of its kernels "
        "(docs/performance.md)",
    ]


def test_what_the_shipped_table_is_read_for_is_near_what_was_measured():
    taken = {row.work: AutoEngine("float32").choose(row.work) for row in table()}
    assert {work for work, engine in taken.items() if engine != Learn2Learn()} == {
        Workload("cpu", algo, 28, 32, 10, int(algo != "protonet"), 64)
        for algo in ("maml", "fomaml", "anil", "protonet")
    }
    assert not any(row.near(other.work) for row in table() for other in table() if row.work.size != other.work.size)


@pytest.mark.parametrize(
    ("backbone", "expected"),
    [("conv4", 64), ("conv4_32", 32), ("conv4_strided", 64), ("resnet12", None), ("fc", None), ("pixels", None)],
)
def test_another_backbone_is_none_that_was_measured(backbone, expected):
    assert conv4_filters(made_backbone(composed(f"backbone={backbone}").backbone)) == expected


def test_a_named_engine_is_left_alone():
    assert select_engine(Learn2Learn(), WORK) == Learn2Learn()


@pytest.mark.slow
def test_a_run_and_its_resumption_take_the_same(small, tmp_path, monkeypatch, caplog):
    words = ("algo=maml", "train.meta_batch=2", "algo.test_steps=1")
    work = Workload("cpu", "maml", 16, 2, 5 * (1 + 3), 1, 4)
    monkeypatch.setattr(auto, "table", lambda: [Measurement(work, 2, 2.0, 1.0)])
    caplog.set_level(logging.INFO, "metalab")
    train.run(small(*words), tmp_path)
    assert caplog.text.count("engine=auto takes vectorized, 2 tasks at once") == 1
    taken = {"_target_": "metalab.engines.Vectorized", "chunk": 2, "precision": "float32", "graphs": False}
    assert checkpoint.load(tmp_path / "last.pt")["engine"] == taken
    monkeypatch.setattr(auto, "table", lambda: [])  # another version's table
    train.run(small(*words, "train.steps=6", f"resume={tmp_path}"), tmp_path)
    assert checkpoint.load(tmp_path / "last.pt")["engine"] == taken


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
@pytest.mark.parametrize("engine", ["auto", "learn2learn", "vectorized"])
def test_a_precision_that_needs_a_gpu_is_refused_without_one(engine, precision, small, tmp_path):
    expected = rf"^engine\.precision={precision} needs a CUDA device, this is cpu: type float32$"
    with pytest.raises(UserError, match=expected):
        train.run(small(f"engine={engine}", f"engine.precision={precision}"), tmp_path)
    assert not list(tmp_path.iterdir())
