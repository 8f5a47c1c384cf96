"""Malformed words: one message each, before any work."""

import pytest

LONG = "9" * 5000


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data=union", "data.members=5"], "data.members=5: expected a group of settings, as +data@data.members.om"),
        (["data=union", "data.members=x"], "data.members=x: expected a group of settings"),
        (["data=union", "+data.members.a=1"], "data.members.a=1: expected a group of settings"),
        (["data=union", "data.members={a:1}"], "data.members.a: there is no such setting. To append to your config"),
        (["+data.members=5"], "data.members=5: expected a group of settings"),
        (["reg=[[l2]]"], "reg=[[l2]]: expected names of options, as reg=[l2,dropout]; metalab train --help lists"),
        (["reg=[null]"], "reg=[null]: expected names of options, as reg=[l2,dropout]"),
        (["attack=[5]"], "attack=[5]: expected names of options, as attack=[fgsm,pgd]"),
        (["algo={a:1}"], "algo={a:1}: expected names of options, as algo=NAME"),
        (["+="], "+=: there is no key; type key=value, as seed=1, or +key=value for one that is new"),
        (["~"], "~: there is no key; type key=value"),
        (["seed=glob(*)"], "Sweep parameters 'seed=glob(*)' requires --multirun"),
        ([f"seed={LONG}"], "holds a number of more than 1000 digits, and none is so large: type fewer"),
        ([f"optim.lr=1e{LONG}"], "holds a number of more than 1000 digits"),
        ([f"seed={'[' * 500}{']' * 500}"], "is nested more than 20 deep, and no setting is: type it flatter"),
        ([f"seed={'{a:' * 300}1{'}' * 300}"], "is nested more than 20 deep"),
        ([f"+x{'.a' * 2000}=1"], "is nested more than 20 deep"),
        ([f"data.root={'b' * 5000}"], "is longer than a path may be, 255 bytes a name and 4095 in all"),
        ([f"train.init={'a/' * 3000}"], "is longer than a path may be"),
        ([f"resume={'é' * 200}"], "is longer than a path may be"),
        (["data.cache=a\0b"], "'data.cache=a\\x00b' holds a null byte, which no value and no path may: type it again"),
        (["resume="], "resume=: which run? Type resume=FOLDER or resume=latest, or leave it out for a new run"),
        (["resume=''"], "resume='': which run? Type resume=FOLDER"),
        (["train.init="], "train.init=: which run? Type train.init=FOLDER or train.init=latest"),
        (["resume=[[a]]"], "resume=[[a]]: expected a folder, or a list of folders, as run=[a,b]"),
    ],
    ids=lambda each: "",
)
def test_one_message_and_no_work(command_line, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    code, told = command_line("train", *words)
    assert (code, said in told, "Traceback" in told) == (1, True, False), told
    assert not list(tmp_path.rglob("*.pt"))


def test_a_sweep_over_all_options_of_a_group_is_hydras(bench):
    assert bench("train", "-m", "task=glob(5way*)")[0] == 0
    assert [cfg.task.shot for cfg, _ in bench.trained] == [5]


def test_runs_in_lists_in_lists(bench):
    run = bench.new_run()
    expected = f"metalab: run=[[{run}]]: expected a folder, or a list of folders, as run=[a,b]"
    assert bench("eval", f"run=[[{run}]]")[2] == expected


def test_no_run_is_looked_for_all_over_the_disk(bench, tmp_path, monkeypatch):
    deep = tmp_path.joinpath(*"abcdefgh")
    deep.mkdir(parents=True)
    (deep / "best.pt").touch()
    monkeypatch.setattr("metalab.tracking.run_folder.MOST", 3)
    (tmp_path / "a/best.pt").touch()
    code, _, err = bench("eval", f"run={tmp_path}")
    assert (code, err) == (
        1,
        f"metalab: {tmp_path} is not a run: it holds no best.pt\nruns with best.pt, newest first:\n  {tmp_path / 'a'}",
    )


@pytest.mark.parametrize("words", [["query=bash"], [], ["x"]])
def test_the_shells_own_word_typed_by_hand(bench, words):
    code, _, err = bench("-sc", *words)
    assert (code, err) == (
        1,
        "metalab: -sc query=... is the shell's, which says what is typed; you type metalab -sc install=bash",
    )


@pytest.mark.parametrize("verb", ["check", "show"])
def test_a_null_byte_in_a_file_to_write(command_line, verb):
    code, said = command_line("data", verb, "glyphs", "out=a\0b")
    assert (code, "'out=a\\x00b' holds a null byte" in said) == (1, True)
