"""What the command line shows, and how quickly; what it hands to a training."""

import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import metalab
from metalab.cli import app
from metalab.cli.help import COMMANDS
from metalab.core.errors import UserError
from tests.cli.bench import ROOT, run


def test_help_and_version(bench):
    for words in ([], ["--help"], ["-h"]):
        code, out, _ = bench(*words)
        assert code == 0
        assert out == app.USAGE
    assert "metalab eval run=FOLDER" in app.USAGE
    assert bench("--version") == (0, f"metalab {metalab.__version__}\n", "")


def test_unknown_command_shows_usage(bench):
    code, out, err = bench("tain", "algo=maml")
    assert (code, out) == (2, "")
    known = f"{', '.join((*COMMANDS, 'runs'))} or data"
    assert err.startswith(f"metalab: unknown command 'tain', expected {known}\n\nusage: metalab train")


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


@pytest.mark.parametrize("command", ["train", "eval", "demo"])
def test_help_lists_groups_options_and_settings(bench, command):
    code, out, _ = bench(command, "--help")
    assert code == 0
    assert out.startswith(f"metalab {command} [group=option ...]")
    assert "\ntask: 20way1shot, 20way5shot, 5way5shot, all_way, fixed, variable\n" in out
    optims = sorted(path.stem for path in (ROOT / "conf" / "optim").glob("*.yaml"))
    assert f"\noptim: {', '.join(optims)}\n" in out
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


def test_whole_program_exits_with_the_codes(tmp_path):
    done = run("eval", cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("metalab: which run? metalab eval run=outputs/train/..., or run=latest; run=null")
    assert done.stderr.count("\n") == 1
    assert run("nope", cwd=tmp_path, PYTHONPATH=str(ROOT)).returncode == 2
    done = run("train", "algo=mamml", cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert done.returncode == 1
    assert done.stderr == "metalab: algo=mamml: there is no such option. Did you mean maml?\n"


def test_python_m_is_the_same_and_a_closed_pipe_is_no_error(tmp_path):
    words = [sys.executable, "-m", "metalab"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*words, "--version"], capture_output=True, text=True, env=env, cwd=tmp_path)
    assert done.stdout.startswith("metalab ")
    with subprocess.Popen(
        [*words, "train", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, cwd=tmp_path
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
