"""The files that a run writes while it happens."""

import json
import math
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.metadata import parse_session_start_info_plugin_data

from metalab.core.errors import UserError
from metalab.tracking.run_logger import Log


def lines(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def scalars(out, tag):
    return [(event.step, round(event.value, 4)) for event in EventAccumulator(str(out)).Reload().Scalars(tag)]


def test_metrics_and_scalars_are_the_same(tmp_path):
    with Log(tmp_path / "run", steps=20) as log:
        log.log({"train/loss": 1.5, "train/accuracy": 0.25}, 10)
        log.log({"train/loss": 0.5, "train/accuracy": 0.75}, 20)
    assert lines(tmp_path / "run")[1] == {"step": 20, "train/loss": 0.5, "train/accuracy": 0.75}
    assert scalars(tmp_path / "run", "train/loss") == [(10, 1.5), (20, 0.5)]
    assert scalars(tmp_path / "run", "train/accuracy") == [(10, 0.25), (20, 0.75)]


def test_what_is_logged_is_on_disk_at_once(tmp_path):
    log = Log(tmp_path, steps=20)  # never closed: the process could be killed here
    log.log({"train/loss": 1.5}, 10)
    assert lines(tmp_path) == [{"step": 10, "train/loss": 1.5}]
    assert scalars(tmp_path, "train/loss") == [(10, 1.5)]
    log.close()


def test_a_number_that_is_not_finite_is_null(tmp_path):
    with Log(tmp_path, steps=1) as log:
        log.log({"train/loss": math.nan, "train/grad_norm": math.inf, "val/accuracy": math.nan}, 1)
    assert lines(tmp_path) == [{"step": 1, "train/loss": None, "train/grad_norm": None, "val/accuracy": None}]


@pytest.mark.parametrize("start", [0, 10, 20, 35])
def test_resuming_cuts_back_to_the_step(tmp_path, start):
    with Log(tmp_path, steps=40) as log:
        log.text("config", "seed: 1", 0)
        for step in (10, 20, 30, 40):
            log.log({"train/loss": step / 10}, step)
        log.log({"val/accuracy": 0.9}, 40)  # not logged again below, so no newer value can hide it
        log.figure("episode", Figure(figsize=(1, 1)), 40)
    kept = [step for step in (10, 20, 30, 40) if step <= start]
    with Log(tmp_path, steps=40, start=start) as log:
        log.log({"train/loss": 99.0}, start + 1)
    assert [line["step"] for line in lines(tmp_path)] == [*kept, start + 1]
    assert scalars(tmp_path, "train/loss") == [*((step, step / 10) for step in kept), (start + 1, 99.0)]
    # TensorBoard itself draws events that are only marked as purged, so they must not be in the files at all.
    seen = EventAccumulator(str(tmp_path), purge_orphaned_data=False).Reload()
    assert max(event.step for event in seen.Scalars("train/loss")) == start + 1
    assert seen.Tags()["scalars"] == ["train/loss"]
    assert seen.Tags()["images"] == []
    assert seen.Tags()["tensors"] == ["config/text_summary"]
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_events_stay_in_order_where_file_names_are_not(tmp_path):
    for start in (0, 1, 2):
        with Log(tmp_path, steps=4, start=start) as log:
            log.log({"train/loss": start}, start + 1)
            log.log({"train/loss": -1.0}, start + 2)
        for path in tmp_path.glob("events.out.tfevents.1*"):  # the clock of that machine ran ahead
            path.rename(tmp_path / f"events.out.tfevents.{9999999999 - start}.elsewhere.1.0")
    assert scalars(tmp_path, "train/loss") == [(1, 0), (2, 1), (3, 2), (4, -1.0)]


def test_resuming_after_a_kill_in_the_middle_of_a_write(tmp_path):
    with Log(tmp_path, steps=40) as log:
        log.log({"train/loss": 1.0}, 10)
        log.log({"train/loss": 2.0}, 20)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 20, "val/acc')
    (events,) = tmp_path.glob("events.out.tfevents.*")
    events.write_bytes(events.read_bytes()[:-5])
    with Log(tmp_path, steps=40, start=20) as log:
        log.log({"train/loss": 3.0}, 30)
    assert [line["step"] for line in lines(tmp_path)] == [10, 20, 30]
    assert scalars(tmp_path, "train/loss") == [(10, 1.0), (30, 3.0)]


def test_a_broken_line_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 10}\nnot json\n{"step": 20}\n')
    with pytest.raises(UserError, match=r"metrics.jsonl, line 2: expected one JSON object a line, found 'not json'"):
        Log(tmp_path, steps=40, start=20)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


def test_text_and_figures(tmp_path):
    figure = Figure(figsize=(2, 1), dpi=50)
    figure.add_subplot().plot([0, 1])
    with Log(tmp_path, steps=1) as log:
        log.text("config", "way: **5**")
        log.figure("episode", figure, 7)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert events.Tensors("config/text_summary")[0].tensor_proto.string_val == [b"way: **5**"]
    (image,) = events.Images("episode")
    assert (image.step, image.width, image.height) == (7, 100, 50)


def test_hparams_are_in_the_runs_own_folder(tmp_path):
    params = {"algo": "maml", "algo.lr": 0.5, "algo.steps": 5, "algo.first_order": False}
    with Log(tmp_path, steps=9) as log:
        log.hparams(params, {}, 0)
        log.log({"val/accuracy": 0.5}, 9)
        log.hparams(params, {"best/val_accuracy": 0.75}, 9)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 1
    events = EventAccumulator(str(tmp_path)).Reload()
    content = events.PluginTagToContent("hparams")
    assert list(content) == ["_hparams_/session_start_info"]  # a list of columns would hide other runs' parameters
    info = parse_session_start_info_plugin_data(content["_hparams_/session_start_info"])
    assert info.hparams["algo"].string_value == "maml"
    assert info.hparams["algo.lr"].number_value == 0.5
    assert info.hparams["algo.first_order"].WhichOneof("kind") == "bool_value"
    assert info.group_name == ""  # rows of equal parameters are not averaged
    assert scalars(tmp_path, "best/val_accuracy") == [(9, 0.75)]
    assert lines(tmp_path)[-1] == {"step": 9, "best/val_accuracy": 0.75}


def test_closing_twice_is_harmless(tmp_path):
    with Log(tmp_path, steps=1) as log:
        log.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
def test_a_full_disk_is_one_message_and_comes_once(tmp_path):
    with Log(tmp_path, steps=9) as log:
        log.log({"train/loss": 1.0}, 1)
        log._lines = Path("/dev/full").open("wb", buffering=0)  # noqa: SIM115
        with pytest.raises(UserError, match=r"metrics\.jsonl cannot be written \(No space left on device\)\. What was"):
            log.log({"train/loss": 1.0}, 2)  # and closing the log writes nothing again
    assert [line["step"] for line in lines(tmp_path)] == [1]
