"""Completion of words by TAB, in the shells."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.cli.bench import ROOT, Bench


def completed(bench: Bench, line: str, shell: str = "bash") -> list[str]:
    bench.patch.setenv("COMP_LINE", line)
    code, out, err = bench("-sc", f"query={shell}")
    assert (code, err) == (0, "")
    return out.split()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("metalab ", ["train", "eval", "compare", "predict", "export", "demo", "runs", "data"]),
        ("metalab e", ["eval", "export"]),
        (".venv/bin/metalab train alg", ["algo.", "algo="]),
        ("metalab train task=5", ["task=5way5shot"]),
        ("metalab train algo=maml algo.le", []),
        ("metalab train algo=maml  algo.test_s", ["algo.test_steps="]),
        ("metalab eval eval.epis", ["eval.episodes="]),
        ("metalab train --mul", ["--multirun"]),
        ("metalab eval run=nowhere task.sh", ["task.shot=", "task.shots="]),
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
