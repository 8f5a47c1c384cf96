"""metalab compare on the command line: which runs a word names, and what each is composed with."""

import types
from pathlib import Path

import pytest

import metalab.evaluation
from metalab.cli.quoting import quote_override
from metalab.cli.run_sets import expand_runs


@pytest.fixture
def compared(bench, monkeypatch):
    """The command line, with what compare.run is called with written down."""
    calls: list[tuple] = []
    module = types.ModuleType("compare")
    module.run = lambda by_data, out: calls.append((by_data, out))  # type: ignore[attr-defined]
    monkeypatch.setattr(metalab.evaluation, "compare", module, raising=False)

    def run(*words: str):
        code, out, err = bench("compare", *words)
        by_data = calls.pop()[0] if code == 0 else {}
        return code, out + err, {name: [str(folder) for folder, _ in pairs] for name, pairs in by_data.items()}, by_data

    return run


def made(bench, *names: str) -> None:
    for name in names:
        bench.new_run(f"hydra.run.dir='{name}'")


@pytest.mark.slow
def test_lists_patterns_and_sweeps_name_their_runs(bench, compared):
    made(bench, "runs/a/0", "runs/a/1", "runs/a/10", "runs/a/2", "runs/b", "other")
    sweep = ["runs/a/0", "runs/a/1", "runs/a/2", "runs/a/10"]
    for word, expected in (
        ("run=[runs/b,other]", ["runs/b", "other"]),
        ("run=runs/a/*", sweep),
        ("run='runs/a/*'", sweep),
        ("run=runs/*", [*sweep, "runs/b"]),  # a pattern may match the folder of a sweep
        ("run=runs/a", sweep),
        ("run=runs/a/[01]", sweep[:2]),
        ("run=[other,runs/a/?]", ["other", *sweep[:3]]),
        ("run=[runs/a/1,runs/a/*]", ["runs/a/1", "runs/a/0", "runs/a/2", "runs/a/10"]),  # each once
    ):
        code, said, found, _ = compared(word)
        assert (code, found) == (0, {"": expected}), (word, said)


def test_a_folder_with_the_letters_of_a_pattern_is_that_folder(bench, compared):
    made(bench, "runs/x [1]", "runs/x 1", "runs/<b>x&\"\\'")
    odd = "runs/<b>x&\"'"
    assert compared(f"run=[runs/x [1],{odd}]")[2] == {"": ["runs/x [1]", odd]}
    assert quote_override("run=runs/*", False) == "run=runs/*"


MISTAKES = [
    ((), "which runs?: metalab compare takes two or more, as run=[A,B]"),
    (("run=runs/one",), "runs/one is one run: metalab compare takes two or more"),
    (("run=nowhere/*",), "run=nowhere/*: no run matches the pattern in"),
    (("run=nowhere",), "there is no folder nowhere in"),
    (("run=[runs/one,runs/two]", "compare.data=glyphs"), "compare.data=glyphs: expected a list of data sets"),
    (("run=[runs/one,runs/two]", "compare.data=[glyphs,glyphs]"), "each once"),
    (("run=[runs/one,runs/two]", "compare.data=[glyphs]", "data=folder"), "leave out data="),
    (("run=[runs/one,runs/two]", "compare.data=[nonsense]"), "nonsense"),
    (("run=[runs/one,runs/two]", "compare.alfa=1"), "compare.alfa"),
    (("run=[runs/one,runs/two]", "train.steps=1"), "metalab compare trains nothing"),
]


@pytest.mark.slow
def test_mistakes_are_told_in_a_line(bench, compared):
    made(bench, "runs/one", "runs/two")
    for words, said in MISTAKES:
        code, text, _, _ = compared(*words)
        assert code == 1, words
        assert said in text, words
        assert "Traceback" not in text, words


@pytest.mark.slow
def test_each_run_is_composed_alone_and_on_each_data_set(bench, compared):
    first, second = bench.new_run("algo=maml", "task.shot=5"), bench.new_run("algo=protonet")
    names = f"run=[{first},{second}]"
    code, said, _, by_data = compared(names, "compare.data=[glyphs,folder]", "seed=3", "eval.episodes=7")
    assert code == 0, said
    assert list(by_data) == ["glyphs", "folder"]
    for name, pairs in by_data.items():
        assert [cfg.algo.name for _, cfg in pairs] == ["maml", "protonet"]
        assert [cfg.task.shot for _, cfg in pairs] == [5, 1]
        assert {(cfg.seed, cfg.eval.episodes) for _, cfg in pairs} == {(3, 7)}
        assert {cfg.data["_target_"].rpartition(".")[2].lower() for _, cfg in pairs} == {name}
        assert [cfg.compare.alpha for _, cfg in pairs] == [0.05, 0.05]
    _, _, _, by_data = compared(names, "task.shot=2")
    assert [cfg.task.shot for _, cfg in by_data[""]] == [2, 2]
    assert Path(by_data[""][0][0]) == first


def test_of_phases_and_generations_the_last_is_compared(tmp_path):
    """As metalab eval, metalab predict and train.init take them: the earlier ones are no methods of their own."""
    for name in ("sweep/born/generation0", "sweep/born/generation1", "sweep/two/phase0", "sweep/two/phase1", "sweep/a"):
        (tmp_path / name).mkdir(parents=True)
        for folder in (tmp_path / name, (tmp_path / name).parent):
            (folder / "config.yaml").touch()
        (tmp_path / name / "best.pt").touch()
    last = [str(tmp_path / "sweep" / name) for name in ("a", "born/generation1", "two/phase1")]
    assert expand_runs([str(tmp_path / "sweep/born"), str(tmp_path / "sweep/two")]) == last[1:]
    assert expand_runs([str(tmp_path / "sweep")]) == last
    assert expand_runs([f"{tmp_path}/sweep/*"]) == last
    first = str(tmp_path / "sweep/born/generation0")
    assert expand_runs([first]) == [first]  # which was named
