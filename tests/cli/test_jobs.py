"""Mistakes, choices, and what becomes of jobs that fail or are stopped."""

import pytest

from metalab.core.errors import UserError


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["algo=mamml"], "metalab: algo=mamml: there is no such option. Did you mean maml?"),
        (["algo=null"], "metalab: Config group override must be a string or a list. Got NoneType"),
        (["trian.steps=5"], "metalab: trian.steps: there is no such setting. Did you mean train?"),
        (["train.step=5"], "metalab: train.step: there is no such setting. Did you mean train.steps?"),
        (["train.step=5", "alog=maml"], "metalab: train.step: there is no such setting."),
        (["reg.l2.weight=1"], "reg.l2.weight: there is no such setting. l2 is not chosen: type reg=l2 as well"),
        (["algos=maml"], "metalab: algos: there is no such setting. Did you mean algo?"),
        (["hydra.run.dir=/dev/null/x"], "metalab: [Errno 20] Not a directory: '/dev/null/x'"),
        (["seed=1,2"], "Ambiguous value for argument 'seed=1,2'"),
        (["train.steps=[5"], "no viable alternative at input '[5'"),
        (["--help", "algo=mamml"], "algo=mamml: there is no such option. Did you mean maml?"),
        (["--cfg", "job", "-m"], "Only one of --run, --multirun, --cfg, --info and --shell_completion"),
        (["data=[glyphs,omniglot]"], "metalab: data=[glyphs,omniglot]: expected one option, as in data=glyphs;"),
        (["algo=[maml]", "--cfg", "job"], "metalab: algo=[maml]: expected one option, as in algo=maml;"),
        (["-m", "task=[fixed,5way5shot],fixed"], "task=[fixed,5way5shot]: expected one option, as in task=fixed;"),
    ],
)
def test_mistake_is_told_without_traceback(bench, words, message):
    code, _, err = bench("train", *words)
    assert code == 1
    assert message in err
    assert "Traceback" not in err
    assert bench.trained == []


def test_unknown_flag(bench):
    code, _, err = bench("train", "--nope")
    assert code == 2
    assert "unrecognized arguments: --nope" in err


@pytest.mark.parametrize(
    ("choice", "expected"),
    [("none", []), ("l2", ["l2"]), ("dropout", ["dropout"]), ("[l2,dropout]", ["l2", "dropout"]), ("[none]", [])],
)
def test_reg_takes_one_none_or_several(bench, choice, expected):
    bench.new_run(f"reg={choice}")
    assert list(bench.trained[0][0].reg) == expected


def test_user_error_is_one_message(bench):
    bench.fail = lambda cfg: UserError("way=70, but there are 60 classes")
    assert bench("train") == (1, "", "metalab: way=70, but there are 60 classes")


def test_missing_value_is_one_message(bench):
    bench.fail = lambda cfg: cfg.algo.depth
    code, _, err = bench("train", "+algo.depth=???")
    assert code == 1
    assert err == "metalab: Missing mandatory value: algo.depth\n    full_key: algo.depth\n    object_type=dict"


def test_bug_shows_its_traceback(bench):
    bench.fail = lambda cfg: KeyError("a bug")
    with pytest.raises(KeyError, match="a bug"):  # which Python shows
        bench("train")
    bench.fail = lambda cfg: ValueError("another")
    with pytest.raises(ValueError, match="another"):
        bench("train")


def test_stopped_run_keeps_its_exit_code(bench):
    for error, code in [(SystemExit(143), 143), (SystemExit(130), 130), (KeyboardInterrupt(), 130)]:
        bench.fail = lambda cfg, error=error: error
        assert bench("train")[0] == code


@pytest.mark.slow
def test_failed_jobs_of_a_sweep_are_named_and_the_rest_go_on(bench):
    bench.fail = lambda cfg: {1: UserError("no luck"), 2: ZeroDivisionError("a bug")}.get(cfg.seed)
    code, out, err = bench("train", "-m", "seed=0,1,2,3", "task=5way5shot")
    assert code == 1
    assert [cfg.seed for cfg, _ in bench.trained] == [0, 1, 2, 3]
    folders = [path for _, path in bench.trained]
    assert [path.name for path in folders] == ["0", "1", "2", "3"]
    assert len({path.parent for path in folders}) == 1
    assert "job #1 seed=1 task=5way5shot failed: no luck\n" in out
    assert (folders[1] / "train.log").read_text() == "job #1 seed=1 task=5way5shot failed: no luck\n"
    assert "ZeroDivisionError: a bug" in out  # its traceback, in place
    assert err.count("Traceback") == 0
    assert err.endswith(
        "metalab: 2 of the sweep's jobs failed:\n"
        "  #1 seed=1 task=5way5shot: no luck\n"
        "  #2 seed=2 task=5way5shot: ZeroDivisionError: a bug\n"
    )


def test_ctrl_c_stops_a_sweep(bench):
    bench.fail = lambda cfg: SystemExit(130)
    code, _, err = bench("train", "-m", "seed=1,2,3", "hydra.sweep.dir=swept")
    assert code == 130
    assert len(bench.trained) == 1
    assert err == (
        "metalab: 3 of the sweep's jobs came to no end:\n"
        "  #0 seed=1: stopped by SIGINT\n"
        "  #1 seed=2: never began\n"
        "  #2 seed=3: never began\n"
        "metalab: metalab train resume=swept goes on with what is not finished\n"
    )


@pytest.mark.slow
def test_sweep_runs_every_combination(bench):
    code, _, err = bench("train", "-m", "seed=1,2", "algo=maml,protonet", "reg=l2,[l2,dropout]")
    assert (code, err) == (0, "")
    jobs = [(cfg.seed, cfg.algo.name, list(cfg.reg)) for cfg, _ in bench.trained]
    assert len(jobs) == 8
    assert jobs[1] == (1, "maml", ["l2", "dropout"])
