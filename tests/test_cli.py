import logging
import os
import shutil
import subprocess
import sys
import time
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

import metalab
from metalab import cli
from metalab.errors import UserError

ROOT = Path(__file__).parents[1]
METALAB = [sys.executable, "-c", "from metalab.cli import main; main()"]


@dataclass
class Bench:
    """The command line in a folder of its own, with train.run and evaluate.run written down instead of done."""

    patch: pytest.MonkeyPatch
    capture: pytest.CaptureFixture[str]
    trained: list[tuple[DictConfig, Path]] = field(default_factory=list)
    evaluated: list[tuple[list[tuple[Path, DictConfig]], Path]] = field(default_factory=list)
    fail: Any = None  # raised by train.run where it returns an exception

    def __call__(self, *words: str) -> tuple[int, str, str]:
        self.patch.setattr(sys, "argv", ["metalab", *words])
        try:
            cli.main()
            code: Any = 0
        except SystemExit as end:
            code = end.code
        out, err = self.capture.readouterr()
        if isinstance(code, str):
            return 1, out, err + code
        return code or 0, out, err

    def train(self, cfg: DictConfig, out: Path) -> float:
        self.trained.append((cfg, out))
        error = self.fail and self.fail(cfg)
        if error:
            raise error
        OmegaConf.save(cfg, out / "config.yaml", resolve=True)
        for name in ("best.pt", "last.pt"):
            (out / name).touch()
        return 0.5

    def new_run(self, *words: str) -> Path:
        code, _, err = self("train", *words)
        assert (code, err) == (0, "")
        return self.trained[-1][1].relative_to(Path.cwd())


@pytest.fixture
def bench(monkeypatch, capsys, tmp_path):
    bench = Bench(monkeypatch, capsys)
    train, evaluate = types.ModuleType("train"), types.ModuleType("evaluate")
    train.run = bench.train  # type: ignore[attr-defined]
    evaluate.run = lambda runs, out: bench.evaluated.append((runs, out))  # type: ignore[attr-defined]
    monkeypatch.setattr(metalab, "train", train, raising=False)
    monkeypatch.setattr(metalab, "evaluate", evaluate, raising=False)
    monkeypatch.setattr(cli, "_failed", [])
    monkeypatch.setattr("metalab.matrix.write", lambda jobs: None)  # nothing was evaluated
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delenv("COMP_LINE", raising=False)
    monkeypatch.chdir(tmp_path)
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield bench
    root.handlers[:], root.level = handlers, level


def run(*words: str, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    command = [*METALAB, *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env={**os.environ, **env}, timeout=60)


# ---- the words that need no Hydra


def test_help_and_version(bench):
    for words in ([], ["--help"], ["-h"]):
        code, out, _ = bench(*words)
        assert code == 0
        assert out == cli.USAGE
    assert "metalab eval run=FOLDER" in cli.USAGE
    assert bench("--version") == (0, f"metalab {metalab.__version__}\n", "")


def test_unknown_command_shows_usage(bench):
    code, out, err = bench("tain", "algo=maml")
    assert (code, out) == (2, "")
    assert err.startswith("metalab: unknown command 'tain', expected train, eval or data\n\nusage: metalab train")


def test_help_is_quick_and_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['metalab', '--help']; from metalab.cli import main; main();"
        "print(sorted({'torch', 'hydra', 'omegaconf', 'numpy'} & set(sys.modules)))"
    )
    times = []
    for _ in range(5):
        began = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
        times.append(time.perf_counter() - began)
        assert done.stdout.splitlines()[-1] == "[]"
    assert min(times) < 0.2


def test_showing_the_config_does_not_import_torch():
    code = (
        "import sys; sys.argv = ['metalab', 'train', '--cfg', 'job']; from metalab.cli import main; main();"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.startswith("seed: 0\n")
    assert done.stdout.splitlines()[-1] == "False"


# ---- Hydra behind the command


def test_train_gets_a_folder_of_its_own_and_cwd_stays(bench, tmp_path):
    first, second = bench.new_run(), bench.new_run("train.steps=7", "+note=hello")
    assert first != second
    assert first.parts[:2] == ("outputs", "train")
    assert (first / ".hydra/overrides.yaml").is_file()
    assert (first / "train.log").is_file()
    assert Path.cwd() == tmp_path
    cfg = bench.trained[1][0]
    assert (cfg.train.steps, cfg.note, cfg.seed, cfg.device, cfg.resume) == (7, "hello", 0, "auto", None)
    assert "hydra" not in cfg


def test_job_sees_the_command_line_as_it_was_typed(bench):
    bench.fail = lambda cfg: UserError(" ".join(sys.argv))
    assert bench("train", "seed=3")[2] == "metalab: metalab train seed=3"


def test_log_lines_are_plain(bench):
    bench.fail = lambda cfg: logging.getLogger("metalab").info("a line")
    _, out, _ = bench("train")
    assert out == "a line\n"
    assert (bench.trained[0][1] / "train.log").read_text() == "a line\n"


@pytest.mark.parametrize("command", ["train", "eval"])
def test_help_lists_groups_options_and_settings(bench, command):
    code, out, _ = bench(command, "--help")
    assert code == 0
    assert out.startswith(f"metalab {command} [group=option ...]")
    assert "\ntask: 20way1shot, 20way5shot, 5way5shot, fixed, variable\n" in out
    assert "\noptim: adam, adam_clipped, adamw, cosine, reptile, sgd\n" in out
    assert "  val_every: 100\n" in out
    assert "  train_way: null\n" in out
    assert "${" not in out


def test_cfg_info_and_config_dir(bench, tmp_path):
    (tmp_path / "mine/task").mkdir(parents=True)
    (tmp_path / "mine/task/tiny.yaml").write_text("defaults: [fixed]\nway: 3\n")
    code, out, _ = bench("train", "--cfg", "job", "-p", "task", "--config-dir", "mine", "task=tiny", "task.shot=4")
    assert code == 0
    assert "way: 3\nshot: 4\nquery: 15\n" in out
    code, out, _ = bench("train", "--info", "defaults", "task=5way5shot")
    assert code == 0
    assert "task/5way5shot" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["algo=mamml"], "Could not find 'algo/mamml'\n\nAvailable options in 'algo':\n\tanil"),
        (["trian.steps=5"], "Could not override 'trian.steps'."),
        (["algos=maml"], "Could not override 'algos'."),
        (["seed=1,2"], "Ambiguous value for argument 'seed=1,2'"),
        (["train.steps=[5"], "no viable alternative at input '[5'"),
        (["--help", "algo=mamml"], "Available options in 'algo':\n\tanil"),
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


# ---- what goes wrong inside a job


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
    code, _, err = bench("train")
    assert code == 1
    assert "Traceback" in err
    assert "KeyError: 'a bug'" in err


def test_stopped_run_keeps_its_exit_code(bench):
    for error, code in [(SystemExit(143), 143), (SystemExit(130), 130), (KeyboardInterrupt(), 130)]:
        bench.fail = lambda cfg, error=error: error
        assert bench("train")[0] == code


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
    assert bench("train", "-m", "seed=1,2,3")[0] == 130
    assert len(bench.trained) == 1


def test_sweep_runs_every_combination(bench):
    code, _, err = bench("train", "-m", "seed=1,2", "algo=maml,protonet", "reg=l2,[l2,dropout]")
    assert (code, err) == (0, "")
    jobs = [(cfg.seed, cfg.algo.name, list(cfg.reg)) for cfg, _ in bench.trained]
    assert len(jobs) == 8
    assert jobs[1] == (1, "maml", ["l2", "dropout"])


# ---- eval: the run's configuration first, then the overrides


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
    for same in ("optim", "reg", "backbone", "data", "engine", "train", "eval", "extra"):
        assert cfg[same] == old[same]
    assert (cfg.algo.name, cfg.algo.lr, cfg.algo.test_steps) == ("maml", 0.25, 20)
    assert (cfg.task.way, cfg.task.shot, cfg.task.query) == (20, 2, 3)
    assert (cfg.seed, cfg.device, cfg.attack.eps, cfg.run, cfg.resume) == (0, "auto", 8, str(run), None)


def test_eval_takes_other_data_whole(bench, tmp_path):
    run = bench.new_run("data=glyphs")
    assert bench("eval", "run=latest", "data=folder", "data.root=/a/b", "reg=none", "seed=4")[0] == 0
    cfg = bench.evaluated[0][0][0][1]
    assert cfg.data._target_ != bench.trained[0][0].data._target_
    assert (cfg.data.root, cfg.seed, cfg.run) == ("/a/b", 4, str(run))


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
    assert "Could not override 'algo.test_steps'" in err
    assert "Traceback" not in err


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


def test_sweep_over_runs(bench):
    runs = [bench.new_run(f"algo={algo}") for algo in ("maml", "protonet", "anil")]
    code, _, err = bench("eval", "-m", f"run={runs[0]},[{runs[1]},{runs[2]}],latest", "task.shot=1,5")
    assert (code, err) == (0, "")
    rows = [([cfg.algo.name for _, cfg in pairs], pairs[0][1].task.shot) for pairs, _ in bench.evaluated]
    three = [["maml"], ["protonet", "anil"], ["anil"]]
    assert rows == [(names, shot) for names in three for shot in (1, 5)]


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


def test_folder_with_odd_letters(bench):
    run = bench.new_run("hydra.run.dir='outputs/train/odd, it\\'s a=b/x [1]'")
    assert run.name == "x [1]"
    code, _, err = bench("eval", "run='outputs/train/odd, it\\'s a=b/x [1]'")
    assert (code, err) == (0, "")
    assert bench.evaluated[0][0][0][0] == run
    assert bench("eval", "-m", "run=['outputs/train/odd, it\\'s a=b/x [1]',latest],latest")[0] == 0
    assert len(bench.evaluated) == 3


@pytest.mark.parametrize("words", [[], ["run=null"], ["run=[]"], ["run="]])
def test_eval_without_run(bench, words):
    assert bench("eval", *words) == (1, "", "metalab: which run? metalab eval run=outputs/train/..., or run=latest")


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


# ---- resume


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
    assert bench("train", f"resume={run}")[2].startswith(f"metalab: {run} holds no last.pt yet: a run saves it when")
    (run / "last.pt").touch()
    for words in (["-m", f"resume={run}", "seed=1,2"], [f"resume=[{run},{run}]"]):
        code, _, err = bench("train", *words)
        assert code == 1
        assert (
            err == "metalab: resume goes on with one run, in its own folder: leave out -m, and give one resume=FOLDER"
        )
    assert len(bench.trained) == 1


# ---- TAB completion


def completed(bench: Bench, line: str, shell: str = "bash") -> list[str]:
    bench.patch.setenv("COMP_LINE", line)
    code, out, err = bench("-sc", f"query={shell}")
    assert (code, err) == (0, "")
    return out.split()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("metalab ", ["train", "eval", "data"]),
        ("metalab e", ["eval"]),
        (".venv/bin/metalab train alg", ["algo.", "algo="]),
        ("metalab train task=5", ["task=5way5shot"]),
        ("metalab train algo=maml algo.le", []),
        ("metalab train algo=maml  algo.test_s", ["algo.test_steps="]),
        ("metalab eval eval.epis", ["eval.episodes="]),
        ("metalab train --mul", ["--multirun"]),
        ("metalab eval run=nowhere task.sh", ["task.shot="]),
        ("metalab nonsense alg", []),
    ],
)
def test_completion(bench, shell, line, expected):
    assert completed(bench, line, shell) == expected


def test_completion_knows_the_runs_settings(bench):
    run = bench.new_run("algo=maml")
    assert completed(bench, f"metalab eval run={run} algo.test_st") == ["algo.test_steps="]


def test_completion_is_installed(bench):
    for words in (["-sc", "install=bash"], ["train", "-sc", "install=bash"]):
        code, out, _ = bench(*words)
        assert code == 0
        assert "complete -o nospace -o default -F hydra_bash_completion metalab" in out
    assert "complete -c metalab -x -a '(hydra_fish_completion)'" in bench("-sc", "install=fish")[1]


SHELLS = {
    "zsh": """autoload -U compinit bashcompinit; compinit -u -D; bashcompinit; eval "$(metalab -sc install=bash)"
compadd() {{ print -l -- $matches }}
words=({line}); CURRENT=$#words; _bash_complete -o nospace -o default -F hydra_bash_completion""",
    "bash": """eval "$(metalab -sc install=bash)"
COMP_LINE="{line}"; COMP_WORDS=({line}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); COMP_POINT=${{#COMP_LINE}}
hydra_bash_completion; echo "${{COMPREPLY[@]}}" """,
    "fish": """metalab -sc install=fish | source
complete -C "{line}" """,
}


@pytest.mark.parametrize("shell", sorted(SHELLS))
def test_completion_in_a_shell(shell, tmp_path):
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} here")
    program = tmp_path / "bin/metalab"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\nfrom metalab.cli import main\nmain()\n")
    program.chmod(0o755)
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    for line, expected in [("metalab ev", "eval"), ("metalab train task=20way1", "task=20way1shot")]:
        script = SHELLS[shell].format(line=line)
        done = subprocess.run([shell, "-c", script], capture_output=True, text=True, env=env, cwd=tmp_path, timeout=60)
        assert set(done.stdout.split()) == {expected}, done.stderr


def test_whole_program_exits_with_the_codes(tmp_path):
    done = run("eval", cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "metalab: which run? metalab eval run=outputs/train/..., or run=latest\n"
    assert run("nope", cwd=tmp_path, PYTHONPATH=str(ROOT)).returncode == 2
    done = run("train", "algo=mamml", cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert done.returncode == 1
    assert "Available options in 'algo'" in done.stderr
