import math
import signal

import pytest

from metalab.core.errors import UserError
from metalab.tracking.training_state import State
from metalab.training.loop import Plan, stop_reason
from tests.loops import Bench


def test_validates_and_saves_every_n_steps_and_at_the_last():
    bench = Bench(accuracies=[0.3, 0.5, 0.4])
    state = bench()
    assert bench.logged("val/accuracy") == [(4, 0.3), (8, 0.5), (10, 0.4)]
    assert bench.saved == [("best", 4), ("last", 4), ("best", 8), ("last", 8), ("last", 10)]
    assert (state.step, state.best, state.best_accuracy, state.stale) == (10, 0.5, 0.5, 1)
    assert bench.said == ["finished 10 steps"]


def test_logs_the_mean_of_the_steps_since_the_last_line():
    bench = Bench()
    bench(steps=7, val_every=7)
    losses = bench.logged("train/loss")
    assert [step for step, _ in losses] == [5, 7]
    assert losses[0][1] == pytest.approx(sum(1 / i for i in range(1, 6)) / 5, abs=1e-6)
    assert losses[1][1] == pytest.approx((1 / 6 + 1 / 7) / 2, abs=1e-6)
    tags = {"train/loss", "train/accuracy", "train/grad_norm", "train/lr", "time/step_ms"}
    assert set(bench.lines[0][1]) == tags
    assert bench.logged("train/accuracy") == [(5, 0.5), (7, 0.5)]
    assert bench.logged("train/grad_norm")[0][1] == pytest.approx(math.sqrt(2), abs=1e-6)
    assert bench.logged("train/lr") == [(5, 0.1), (7, 0.1)]
    assert bench.progress == pytest.approx([i / 7 for i in range(7)])


def test_logs_the_zero_gradients_of_a_training_attack_beside_the_loss():
    bench = Bench(zeros={step: step / 100 for step in range(1, 8)})
    bench(steps=7, val_every=7)
    assert bench.logged("train/zero_gradients") == [(5, pytest.approx(0.03)), (7, pytest.approx(0.065))]
    assert bench.logged("train/loss")[0][1] == pytest.approx(sum(1 / i for i in range(1, 6)) / 5, abs=1e-6)


def test_monitor_loss_keeps_the_lowest_and_nan_is_the_worst():
    bench = Bench(accuracies=[0.1, 0.2, 0.3, 0.4, 0.5], val_loss=[math.nan, 2.0, math.nan, 3.0, 1.0])
    state = bench(val_every=2, monitor="loss")
    assert [s for s in bench.saved if s[0] == "best"] == [("best", 2), ("best", 4), ("best", 10)]
    assert (state.best, state.best_accuracy) == (1.0, 0.5)


def test_patience_ends_early_and_says_so():
    bench = Bench(accuracies=[0.5, 0.4, 0.5])  # equal is not better
    state = bench(steps=100, val_every=3, patience=2)
    assert state.step == 9
    assert bench.said == ["no better validation accuracy for train.patience=2 validations; ends at step 9 of 100"]
    assert bench.saved[-1] == ("last", 9)


def test_minutes_end_early_say_so_and_still_validate_and_save():
    bench = Bench()
    assert bench(steps=100, minutes=1e-9).step == 1
    assert bench.said == ["train.minutes=1e-09 are over after step 1 of 100"]
    assert bench.saved == [("best", 1), ("last", 1)]
    assert len(bench.logged("train/loss")) == len(bench.logged("val/accuracy")) == 1


def test_minutes_count_what_was_worked_before_a_resume():
    bench = Bench()
    bench.state = State(seconds=120.5)
    assert bench(steps=100, minutes=2).step == 1
    assert bench.state.seconds > 120.5
    plan = Plan(100, 2, 10, 10, "accuracy", None)
    assert stop_reason(plan, State(seconds=119.9)) is None
    assert stop_reason(plan, State(seconds=120.0)) == "train.minutes=2 are over after step 0 of 100"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_names_the_step_and_saves_nothing(bad):
    bench = Bench(losses={7: bad})
    with pytest.raises(UserError, match=rf"^step 7: the loss is {bad} and the norm .*not finite. The checkpoints from"):
        bench(val_every=2)
    assert bench.saved[-1] == ("last", 6)
    assert all(map(math.isfinite, bench.weights))


def test_a_gradient_that_is_not_finite_stops():
    bench = Bench(explode=3)  # its norm overflows
    with pytest.raises(UserError, match=r"^step 3: the loss is 0.333.* and the norm of its gradient inf"):
        bench(val_every=100)
    assert bench.saved == []


@pytest.mark.parametrize("signals", [{}, {1: [signal.SIGTERM]}])
def test_weights_that_are_not_finite_are_never_saved(signals):
    bench = Bench(lr=3e38, signals=signals)
    bench.net.weight.data.fill_(-2e38)  # the loss and its gradient are fine
    with pytest.raises(UserError, match=r"^step 1: it made weight of the net not finite. The checkpoints from before"):
        bench(val_every=100 if signals else 1)
    assert bench.saved == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_step_saves_and_leaves_with_its_code(number, code):
    bench = Bench(signals={7: [number]})
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as stop:
        bench()
    assert stop.value.code == code
    assert bench.saved[-1] == ("last", 7)
    assert len(bench.kept.window) == 2  # steps 6 and 7, not logged yet
    assert bench.said == [f"stopped by {number.name} after step 7; last.pt is saved, resume goes on"]
    assert signal.getsignal(number) is before


def test_a_window_saved_before_zero_gradients_were_measured_is_gone_on_with():
    bench = Bench(zeros=dict.fromkeys(range(1, 11), 0.25), signals={7: [signal.SIGTERM]})
    with pytest.raises(SystemExit):
        bench()
    bench.state = State(**{**vars(bench.kept), "window": [row[:4] for row in bench.kept.window]})
    bench.signals = {}
    bench()
    line = next(values for step, values in bench.lines if step == 10 and "train/loss" in values)
    assert line["train/zero_gradients"] == 0.25
    assert line["train/loss"] == pytest.approx(sum(1 / step for step in range(6, 11)) / 5)


def test_a_signal_in_the_last_step_lets_it_finish():
    bench = Bench(signals={10: [signal.SIGTERM]})
    bench()
    assert bench.said == ["finished 10 steps"]


def test_a_second_ctrl_c_interrupts_at_once():
    bench = Bench(signals={7: [signal.SIGINT, signal.SIGINT]})
    with pytest.raises(KeyboardInterrupt):
        bench()
    assert bench.saved[-1] == ("last", 4)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
def test_a_clusters_warning_saves_and_the_training_goes_on(number):
    """Slurm's --signal=USR1@120 ended the process, and nothing was saved."""
    whole, bench = Bench(), Bench(signals={7: [number, number]})
    whole()
    bench()
    assert bench.saved == [("best", 4), ("last", 4), ("last", 7), ("last", 8), ("last", 10)]
    assert bench.said == [f"{number.name} after step 7: last.pt is saved, the training goes on", "finished 10 steps"]
    assert bench.logged("train/loss") == whole.logged("train/loss")


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
def test_a_clusters_warning_saves_and_leaves_where_that_is_asked(number):
    bench = Bench(signals={7: [number]})
    with pytest.raises(SystemExit) as stop:
        bench(on_warning="leave")
    assert stop.value.code == 128 + number
    assert bench.saved[-1] == ("last", 7)
    assert bench.said == [f"stopped by {number.name} after step 7; last.pt is saved, resume goes on"]


def test_a_warning_and_a_stop_in_one_step_save_once_and_stop():
    bench = Bench(signals={7: [signal.SIGUSR1, signal.SIGTERM]})
    with pytest.raises(SystemExit) as stop:
        bench()
    assert (stop.value.code, bench.saved[-1]) == (143, ("last", 7))
    assert bench.saved.count(("last", 7)) == 1


def test_a_signal_does_not_save_what_is_not_finite():
    bench = Bench(signals={7: [signal.SIGTERM]}, losses={6: math.nan})
    with pytest.raises(UserError, match=r"^step 6: "):
        bench()
    assert bench.saved[-1] == ("last", 4)


@pytest.mark.parametrize("stop", range(1, 12))
def test_stopped_anywhere_and_gone_on_with_logs_the_same(stop):
    whole = Bench()
    whole(steps=12)
    first = Bench(signals={stop: [signal.SIGTERM]})
    with pytest.raises(SystemExit):
        first(steps=12)
    second = Bench()
    second.state = State(**first.kept.saved())
    second(steps=12)
    for tag in ("train/loss", "train/grad_norm", "train/accuracy"):
        assert first.logged(tag) + second.logged(tag) == whole.logged(tag)
    assert [s for s, _ in first.logged("val/accuracy") + second.logged("val/accuracy")] == [4, 8, 12]
