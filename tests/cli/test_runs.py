"""What eval and resume take from a run's folder."""

import os
import shutil
from pathlib import Path

import pytest
from omegaconf import OmegaConf


def test_eval_inherits_the_run_but_not_how_it_ran(bench):
    run = bench.new_run(
        "algo=maml", "algo.lr=0.25", "optim=sgd", "reg=[l2,dropout]", "task=20way5shot", "task.query=3", "seed=9",
        "device=cpu", "eval.episodes=50", "train.steps=7", "attack.eps=6", "+extra.key=1",
    )  # fmt: skip
    code, _, err = bench("eval", f"run={run}", "task.shot=2", "algo.test_steps=20")
    assert (code, err) == (0, "")
    [([(folder, cfg)], out)] = bench.evaluated
    assert folder == run
    assert out.relative_to(Path.cwd()).parts[:2] == ("outputs", "eval")
    assert (out / "eval.log").is_file()
    old = bench.trained[0][0]
    for same in ("optim", "reg", "backbone", "data", "engine", "train", "eval"):
        assert cfg[same] == old[same]
    assert "extra" not in cfg  # no setting of metalab's
    assert (cfg.algo.name, cfg.algo.lr, cfg.algo.test_steps) == ("maml", 0.25, 20)
    assert (cfg.task.way, cfg.task.shot, cfg.task.query) == (20, 2, 3)
    assert (cfg.seed, cfg.device, cfg.attack.eps, cfg.run, cfg.resume) == (0, "auto", 8, str(run), None)


def test_eval_takes_other_data_whole(bench, tmp_path):
    run = bench.new_run("data=glyphs")
    assert bench("eval", "run=latest", "data=folder", "data.root=/a/b", "reg=none", "seed=4")[0] == 0
    cfg = bench.evaluated[0][0][0][1]
    assert cfg.data._target_ != bench.trained[0][0].data._target_
    assert (cfg.data.root, cfg.seed, cfg.run) == ("/a/b", 4, str(run))


@pytest.mark.slow
def test_eval_cfg_shows_the_runs_settings(bench):
    run = bench.new_run("algo=maml", "algo.lr=0.25")
    code, out, _ = bench("eval", f"run={run}", "--cfg", "job", "-p", "algo")
    assert code == 0
    assert "lr: 0.25" in out
    assert bench("eval", "--help", f"run={run}")[0] == 0
    assert bench.evaluated == []


def test_eval_refuses_a_key_that_the_run_lacks(bench):
    run = bench.new_run("algo=protonet")
    code, _, err = bench("eval", f"run={run}", "algo.test_steps=20")
    assert code == 1
    assert "algo.test_steps: there is no such setting. There is: " in err
    assert "Traceback" not in err


@pytest.mark.slow
def test_several_runs_of_different_algorithms(bench):
    runs = [bench.new_run(f"algo={algo}", f"seed={i}") for i, algo in enumerate(["maml", "protonet"])]
    code, _, err = bench("eval", f"run=[{runs[0]},{runs[1]}]", "task.shot=3")
    assert (code, err) == (0, "")
    [(pairs, _)] = bench.evaluated
    assert [folder for folder, _ in pairs] == runs
    assert [cfg.algo.name for _, cfg in pairs] == ["maml", "protonet"]
    assert "lr" not in pairs[1][1].algo  # each is composed alone
    assert [cfg.run for _, cfg in pairs] == [str(run) for run in runs]
    assert {cfg.task.shot for _, cfg in pairs} == {3}


@pytest.mark.slow
def test_sweep_over_runs(bench):
    runs = [bench.new_run(f"algo={algo}") for algo in ("maml", "protonet", "anil")]
    code, _, err = bench("eval", "-m", f"run={runs[0]},[{runs[1]},{runs[2]}],latest", "task.shot=1,5")
    assert (code, err) == (0, "")
    rows = [([cfg.algo.name for _, cfg in pairs], pairs[0][1].task.shot) for pairs, _ in bench.evaluated]
    three = [["maml"], ["protonet", "anil"], ["anil"]]
    assert rows == [(names, shot) for names in three for shot in (1, 5)]


@pytest.mark.slow
def test_key_of_one_run_only_fails_for_the_other_alone(bench):
    runs = [bench.new_run(f"algo={algo}") for algo in ("maml", "protonet")]
    code, _, err = bench("eval", "-m", f"run={runs[0]},{runs[1]}", "algo.test_steps=4")
    assert code == 1
    assert [pairs[0][1].algo.test_steps for pairs, _ in bench.evaluated] == [4]
    assert f"  #1 run='{runs[1]}' algo.test_steps=4: ConfigCompositionException: Could not override" in err
    assert "Traceback" not in err


def test_latest_is_the_run_that_saved_last_and_is_written_down(bench):
    runs = [bench.new_run(), bench.new_run()]
    os.utime(runs[1] / "best.pt", (1, 1))
    assert bench("eval", "run=latest")[0] == 0
    [([(folder, _)], out)] = bench.evaluated
    assert folder == runs[0]
    assert OmegaConf.load(out / ".hydra/overrides.yaml") == [f"run='{runs[0]}'"]


def test_warm_start_of_a_sweep_is_looked_up_once(bench):
    run = bench.new_run()
    assert bench("train", "-m", "train.init=latest,null", "seed=1,2")[0] == 0
    assert [cfg.train.init for cfg, _ in bench.trained[1:]] == [str(run), str(run), None, None]
    assert "there is no folder nope" in bench("train", "train.init=nope")[2]


@pytest.mark.slow
def test_folder_with_odd_letters(bench):
    run = bench.new_run("hydra.run.dir='outputs/train/odd, it\\'s a=b/x [1]'")
    assert run.name == "x [1]"
    code, _, err = bench("eval", "run='outputs/train/odd, it\\'s a=b/x [1]'")
    assert (code, err) == (0, "")
    assert bench.evaluated[0][0][0][0] == run
    code, _, err = bench("eval", "run=['outputs/train/odd, it\\'s a=b/x [1]',latest]")
    assert (code, "x [1] is given twice, and a mean over runs counts each once" in err) == (1, True)
    bench.new_run()
    assert bench("eval", "-m", "run=['outputs/train/odd, it\\'s a=b/x [1]',latest],latest")[0] == 0
    assert len(bench.evaluated) == 3


@pytest.mark.parametrize("words", [[], ["run=null"], ["run=[]"], ["run="]])
def test_eval_without_run(bench, words):
    code, out, err = bench("eval", *words)
    assert (code, out) == (1, "")
    assert err.startswith("metalab: which run? metalab eval run=outputs/train/..., or run=latest; run=null backbone=")


def test_eval_of_no_run(bench, tmp_path):
    assert bench("eval", "run=latest")[2] == f"metalab: no run in {tmp_path}/outputs/train holds best.pt; " + (
        "train one: metalab train"
    )
    assert bench("eval", "run=nope")[2] == f"metalab: there is no folder nope in {tmp_path}\ntrain one: metalab train"
    run = bench.new_run()
    (tmp_path / "alien").mkdir()
    (tmp_path / "alien/best.pt").touch()
    assert "alien holds no config.yaml" in bench("eval", "run=alien")[2]
    assert bench("eval", "run=[nope]")[2].endswith(f"\nruns with best.pt, newest first:\n  {run}")
    assert bench.evaluated == []
    assert not (tmp_path / "outputs/eval").exists()


def test_resume_goes_on_in_the_same_folder(bench):
    run = bench.new_run("algo=maml", "algo.lr=0.25", "seed=9", "device=cpu", "train.steps=7", "attack.eps=6")
    before = {path.name: path.read_bytes() for path in (run / ".hydra").iterdir()}
    shutil.move(run, "elsewhere")
    code, _, err = bench("train", "resume=elsewhere", "train.steps=12")
    assert (code, err) == (0, "")
    cfg, out = bench.trained[1]
    assert out == Path.cwd() / "elsewhere"
    assert cfg.resume == str(out)
    expected = OmegaConf.merge(bench.trained[0][0], {"train": {"steps": 12}, "resume": str(out)})
    assert cfg == expected
    assert {path.name: path.read_bytes() for path in (out / ".hydra").iterdir()} == before
    assert bench("train", "resume=elsewhere")[0] == 0  # and once more, from the config.yaml of a resumed run
    assert bench.trained[2][0] == expected
    assert not list(Path("outputs").rglob("train.log"))


def test_resume_refusals(bench):
    run = bench.new_run()
    (run / "last.pt").unlink()
    (run / "best.pt").unlink()
    assert bench("train", f"resume={run}")[2].startswith(f"metalab: {run} holds no last.pt yet: a run saves it when")
    (run / "last.pt").touch()
    for words in (["-m", f"resume={run}", "seed=1,2"], [f"resume=[{run},{run}]"]):
        code, _, err = bench("train", *words)
        assert code == 1
        assert (
            err == "metalab: resume goes on with one run, in its own folder: leave out -m, and give one resume=FOLDER"
        )
    assert len(bench.trained) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [\n", "config.yaml cannot be read: "),
        ("", "config.yaml is cut short or not a run's: algo, data, backbone, task"),
    ],
)
def test_a_damaged_config_is_told(bench, text, said):
    run = bench.new_run()
    (run / "config.yaml").write_text(text)
    code, _, err = bench("eval", f"run={run}")
    assert (code, said in err, "Traceback" in err) == (1, True, False), err


@pytest.mark.parametrize("word", ["train.bn=support", "optim=sgd", "optim.lr=1", "resume=latest", "train.init=latest"])
def test_eval_refuses_what_it_would_not_read(bench, word):
    run = bench.new_run()
    code, _, err = bench("eval", f"run={run}", word)
    assert (code, err) == (1, f"metalab: {word}: metalab eval trains nothing, and would not read it: leave it out")
