"""The command that makes the tables of docs/results.md and docs/robustness.md."""

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from torchvision import models

ROOT = Path(__file__).parents[2]
NAMES = ("reproduce", "reproduce_curves", "reproduce_queue", "reproduce_record", "reproduce_rows", "reproduce_run")
COMMAND = "metalab train experiment=omniglot_maml data.root='/a b' train.minutes=2 optim.lr=0.1 train.steps=60 seed=1"
RESUMED = "metalab train --config-dir mine resume=outputs/x train.steps=70"
MADE = {"steps": 70, "seconds": 120.0, "command": COMMAND, "resumes": [{"command": RESUMED}]}
PLACE = {"started": "2026-01-02T03:04:05+00:00", "gpu": None, "processor": "a CPU", "versions": {}, "git": None}


@pytest.fixture
def scripts(monkeypatch):
    """The modules of the script by their names without reproduce_; reproduce.py itself is .main."""
    monkeypatch.syspath_prepend(ROOT / "scripts")
    loaded = {name.removeprefix("reproduce_"): __import__(name) for name in (*NAMES, "reproduce_tables")}
    return SimpleNamespace(main=loaded.pop("reproduce"), **loaded)


@pytest.fixture
def handlers():
    """Signal handlers are this process's again after the test."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)
    old = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in old.items():
        signal.signal(number, handler)


def row_of(scripts, **more):
    """A row of MAML with its two numbers."""
    numbers = (
        scripts.rows.Number(eval=("task.query=1",), published="98.7 ± 0.4", source="its table 1"),
        scripts.rows.Number(method="MAML, 15 queries", bar=None),
    )
    return scripts.rows.Row("omniglot", "maml", "MAML", ("experiment=omniglot_maml",), numbers, seeds=3, **more)


def run_of(scripts, out: Path, row, seed: int = 0, steps: int = 70, planned: int = 100, **accuracies: float) -> Path:
    """Write what a run and its evaluations leave; accuracies: one=, of the evaluation with 1 query, fifteen=."""
    folder = scripts.record.folder_of(out, row, seed)
    folder.mkdir(parents=True, exist_ok=True)
    resumes = [{**PLACE, "command": RESUMED, "gpu": "a GPU"}]
    made = {**MADE, **PLACE, "steps": steps, "threads": 1, "parameters": 5, "resumes": resumes}
    (folder / "run.json").write_text(json.dumps(made))
    (folder / "config.yaml").write_text(yaml.safe_dump({"train": {"steps": planned, "generations": 1}}))
    shared = {"way": 5, "shot": 1, "bn": "batch", "transductive": True, "step": 60, "ci95": 0.01, "run": str(folder)}
    for key, query, name in (("task.query=1", 1, "one"), ("", 15, "fifteen")):
        if name in accuracies:
            evaluated = scripts.record.eval_folder(folder, key)
            evaluated.mkdir(exist_ok=True)
            found = {**shared, "query": query, "accuracy": accuracies[name]}
            (evaluated / "eval.json").write_text(json.dumps(found))
    return folder


def test_of_born_again_nets_the_last_one_is_collected(scripts, tmp_path):
    """A row of train.generations was said to have trained nothing."""
    row = row_of(scripts)
    folder = run_of(scripts, tmp_path, row, planned=70)
    for name, seconds in (("generation0", 100.0), ("generation1", 50.0)):
        (folder / name).mkdir()
        made = json.loads((folder / "run.json").read_text()) | {"seconds": seconds, "steps": int(seconds)}
        (folder / name / "run.json").write_text(json.dumps(made))
        shutil.copy(folder / "config.yaml", folder / name)
        (folder / name / "best.pt").touch()
    (folder / "run.json").unlink()
    for generations, steps in ((3, 0), (2, 50)):  # a teacher's steps are not its student's
        (folder / "config.yaml").write_text(yaml.safe_dump({"train": {"steps": 70, "generations": generations}}))
        assert scripts.record.collected(row, 0, folder)["steps"] == steps
    found = scripts.record.collected(row, 0, folder)
    assert (found["steps"], found["seconds"], found["planned"]) == (50, 150.0, 70)
    assert scripts.run.newest(folder, "best.pt") == folder / "generation1"
    assert scripts.run.newest(tmp_path, "best.pt") == tmp_path


def documents(scripts, folder: Path, tables: dict) -> Path:
    """Write documents with the marks of the tables, words before and behind."""
    folder.mkdir(exist_ok=True)
    for name in {table["document"] for table in tables.values()}:
        marks = ["\n".join(scripts.tables.marks(own)) for own, t in tables.items() if t["document"] == name]
        (folder / name).write_text("\n".join(["before", *marks, "after"]) + "\n")
    return folder


def test_no_experiment_is_left_out(scripts):
    there = {path.stem for path in (ROOT / "conf" / "experiment").glob("omniglot_*.yaml")}
    _, rows = scripts.rows.load()
    words = {word for row in rows for word in row.train}
    assert {f"experiment={name}" for name in [*there, "miniimagenet_maml", "aq"]} <= words


@pytest.mark.slow
def test_every_row_composes(scripts, command_line):
    seen = set()
    for row in scripts.rows.load()[1]:
        words = scripts.rows.train_words(row, 0, None, smoke=False)
        if tuple(words) not in seen:
            code, said = command_line("train", *words, "--cfg", "job")
            assert code == 0, f"{row.full}: {said}"
        seen.add(tuple(words))


def test_the_documents_hold_what_their_jsons_say(scripts, tmp_path):
    docs = tmp_path / "docs"
    shutil.copytree(ROOT / "docs", docs)
    tables, rows = scripts.rows.load()
    scripts.tables.write(tables, rows, docs / "results", docs)
    for name in ("results.md", "robustness.md"):
        assert (docs / name).read_text() == (ROOT / "docs" / name).read_text()


def test_every_json_is_of_a_row(scripts):
    rows = {row.full for row in scripts.rows.load()[1]}
    paths = list((ROOT / "docs" / "results").rglob("*.json"))
    assert len(paths) > 40
    for path in paths:
        held = json.loads(path.read_text(encoding="utf-8"))
        assert held["row"] in rows
        assert path.relative_to(ROOT / "docs" / "results").as_posix().startswith(f"{held['row']}.")
        assert "/home" not in path.read_text(encoding="utf-8")


def test_a_row_has_what_was_measured_and_what_was_published(scripts, tmp_path):
    row = row_of(scripts)
    folder = run_of(scripts, tmp_path / "out", row, one=0.9, fifteen=0.8)
    record = scripts.record.collected(row, 0, folder, "1234567890")
    assert record["settings"] == ["experiment=omniglot_maml", "optim.lr=0.1", "train.steps=70"]
    assert record["commands"][0].startswith("metalab train experiment=omniglot_maml 'data.root=DATA/a b'")
    assert scripts.record.write(scripts.record.path_of(tmp_path, row, 0), record)
    tables = {"omniglot": {"document": "results.md", "kind": "numbers"}}
    other = scripts.rows.Row("omniglot", "boil", "BOIL", ("experiment=omniglot_boil",), (scripts.rows.Number(),))
    docs = documents(scripts, tmp_path / "docs", tables)
    scripts.tables.write(tables, [row, other], tmp_path, docs)
    lines = (docs / "results.md").read_text().splitlines()
    assert (lines[0], lines[-1]) == ("before", "after")
    with_one = next(line for line in lines if line.startswith("| MAML |"))
    assert "| 5-way 1-shot | batch, transductive | 1 | **90.00 ± 1.00** |  | 98.7 ± 0.4 (its table 1)" in with_one
    assert "| -8.7 | 97.2, not met | 60 of 70, 100 planned | 2 min, a CPU, a GPU, 2026-01-02, 1234567 |" in with_one
    assert with_one.endswith("| `experiment=omniglot_maml optim.lr=0.1 train.steps=70`; eval `task.query=1` |")
    assert "| 15 | **80.00 ± 1.00** |  | none |  |  | 60 of 70," in next(line for line in lines if "15 queries" in line)
    assert "| BOIL |  | | | not run yet | | none | | 90 | | | `experiment=omniglot_boil` |" in lines
    scripts.tables.write(tables, [row, other], tmp_path, docs)
    assert (docs / "results.md").read_text().splitlines() == lines  # the same again


def test_code_that_differs_from_its_commit_is_said_to(scripts):
    assert scripts.tables.short("0123456789abcdef") == "0123456"
    assert scripts.tables.short("0123456789abcdef, with changes") == "0123456 with changes"


def test_a_resumes_settings_come_last(scripts):
    assert scripts.record.further(MADE) == ["optim.lr=0.1", "train.steps=70", "seed=1"]


def test_the_bar_is_the_published_number_less_a_point_and_a_half_or_ninety(scripts):
    number = scripts.rows.Number
    assert number(published="95.39 ± 0.09").least == pytest.approx(93.89)
    assert number().least == 90.0
    assert number(bar=None).least is None


@pytest.mark.parametrize(("accuracy", "said"), [(0.9389, "93.89, met"), (0.9388, "93.89, not met")])
def test_a_bar_is_met_from_its_very_number_on(scripts, tmp_path, accuracy, said):
    row = row_of(scripts)
    number = scripts.rows.Number(eval=("task.query=1",), published="95.39 ± 0.09", source="")
    record = scripts.record.collected(row, 0, run_of(scripts, tmp_path, row, one=accuracy))
    assert f"| {said} |" in scripts.tables.line(row, number, [record], error=False)


def test_several_seeds_have_students_interval_over_their_means(scripts, tmp_path):
    row, records = row_of(scripts), []
    for seed, accuracy in enumerate((0.90, 0.92, 0.97)):
        folder = run_of(scripts, tmp_path, row, seed, steps=100, one=accuracy)
        records.append(scripts.record.collected(row, seed, folder))
    line = scripts.tables.line(row, row.numbers[0], records, error=False)
    # mean 93, sd sqrt((9 + 1 + 16) / 2) = 3.606; 4.303 x 3.606 / sqrt(3) = 8.957
    assert "| **93.00 ± 1.00** | 3 seeds: sd 3.61, t ± 8.96 |" in line
    assert "2 min each" in line


def test_no_mean_is_taken_over_a_whole_training_and_one_that_was_cut(scripts, tmp_path):
    row, records = row_of(scripts), []
    for seed, (steps, accuracy) in enumerate(((100, 0.9), (70, 0.5))):
        folder = run_of(scripts, tmp_path, row, seed, steps=steps, one=accuracy)
        records.append(scripts.record.collected(row, seed, folder))
    assert "**90.00 ± 1.00** |  |" in scripts.tables.line(row, row.numbers[0], records, error=False)
    assert "**50.00 ± 1.00** |  |" in scripts.tables.line(row, row.numbers[0], records[1:], error=False)


def test_what_was_measured_takes_the_place_of_what_a_document_had(scripts, tmp_path):
    row = row_of(scripts)
    old = {"accuracy": 0.7, "ci95": 0.02, "way": 5, "shot": 1, "query": 1, "bn": "batch", "transductive": True}
    evaluations = {"task.query=1": old | {"step": 5}, "": old | {"step": 5}}
    facts = {"device": ["an old CPU"], "date": None, "commit": [], "minutes": 9, "steps": 5, "planned": None}
    document = {"origin": "document", "settings": ["x=1"], "evaluations": evaluations, **facts}
    assert "**70.00 ± 2.00**" in scripts.tables.line(row, row.numbers[0], [document], error=False)
    record = scripts.record.collected(row, 0, run_of(scripts, tmp_path, row, one=0.9))
    first, second = (scripts.tables.line(row, n, [record, document], error=False) for n in row.numbers)
    assert "**90.00 ± 1.00**" in first
    assert "**70.00 ± 2.00**" in second  # not evaluated anew
    assert "9 min, an old CPU" in second


def test_a_json_of_a_longer_training_is_kept(scripts, tmp_path):
    row = row_of(scripts)
    path = scripts.record.path_of(tmp_path, row, 0)
    for steps, written, kept in ((50, True, 50), (70, True, 70), (60, False, 70)):
        record = scripts.record.collected(row, 0, run_of(scripts, tmp_path / "out", row, steps=steps))
        assert scripts.record.write(path, record) is written
        assert json.loads(path.read_text())["steps"] == kept


def test_a_row_is_finished_with_its_last_step_and_its_last_evaluation(scripts, tmp_path):
    row = row_of(scripts)

    def finished(**given) -> bool:
        return scripts.record.finished(scripts.record.collected(row, 0, run_of(scripts, tmp_path, row, **given)), row)

    assert not scripts.record.finished(None, row)
    assert not finished(steps=100, one=0.9)
    assert not finished(steps=99, one=0.9, fifteen=0.8)
    assert finished(steps=100, one=0.9, fifteen=0.8)


def test_what_cannot_be_done_is_said_at_once(scripts, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("METALAB_SHARED_DATA", raising=False)
    with pytest.raises(SystemExit, match="--only nothing: no such row; there are glyphs/protonet, "):
        scripts.main.main(["--only", "nothing"])
    with pytest.raises(SystemExit, match="--table nothing: there are glyphs, omniglot"):
        scripts.main.main(["--table", "nothing"])
    with pytest.raises(SystemExit, match=r"no folder .*away/omniglot: --root names the folder that holds omniglot"):
        scripts.main.main(["--only", "siamese", "--root", str(tmp_path / "away"), "--out", str(tmp_path)])
    for path in ("results.md", "robustness.md"):
        (tmp_path / path).touch()
    with pytest.raises(SystemExit, match=r"has no lines <!-- begin scripts/reproduce\.py glyphs -->"):
        scripts.main.main(["--tables", "--docs", str(tmp_path)])
    for words in (["--jobs", "0"], ["--minutes", "0"], ["--smoke", "--results", str(ROOT / "docs/results")]):
        with pytest.raises(SystemExit, match="2"):
            scripts.main.main(words)
    (tmp_path / "rows.yaml").write_text(
        "{tables: {a: {}}, rows: [{table: a, name: b, method: c, train: [], mintues: 1}]}"
    )
    with pytest.raises(SystemExit, match="row a/b: no such key: mintues"):
        scripts.main.main(["--rows", str(tmp_path / "rows.yaml")])


def test_the_data_are_found_below_one_folder_or_each_by_name(scripts, tmp_path, monkeypatch):
    for name in ("all/omniglot", "mini"):
        (tmp_path / name).mkdir(parents=True)
    given = [str(tmp_path / "all"), f"miniimagenet={tmp_path / 'mini'}"]
    assert scripts.rows.data_root(given, "omniglot") == str(tmp_path / "all/omniglot")
    assert scripts.rows.data_root(given, "miniimagenet") == str(tmp_path / "mini")
    assert scripts.rows.data_root(given, None) is None
    monkeypatch.setenv("METALAB_SHARED_DATA", str(tmp_path / "all"))
    assert scripts.rows.data_root(None, "omniglot") == str(tmp_path / "all/omniglot")
    monkeypatch.delenv("METALAB_SHARED_DATA")
    assert scripts.rows.data_root(None, "omniglot") is None  # metalab downloads it


def test_a_smoke_keeps_a_rows_choices_and_cuts_its_lengths(scripts):
    row = scripts.rows.Row("t", "n", "m", ("experiment=x", "data=omniglot", "train.steps=9", "reg=l2"), ())
    words = scripts.rows.train_words(row, 3, None, smoke=True)
    assert words[:2] == ["experiment=x", "reg=l2"]
    assert {"data=glyphs", "train.steps=2", "seed=3"} <= set(words)
    assert {"task.train_way=null", "task.train_query=null"} <= set(words)  # a training on mini-batches refuses others
    assert sum(word.startswith("train.steps=") for word in words) == 1
    assert scripts.rows.prepare_words(row, "omniglot", None, smoke=True) == ["glyphs"]
    assert scripts.rows.prepare_words(row, "omniglot", "/d", smoke=True) == ["omniglot", "data.root=/d"]
    number = scripts.rows.Number(eval=("data=omniglot_challenge", "attack=auto", "attack.auto.queries=5000"))
    cut = ["attack=auto", "eval.episodes=2", "attack.auto.steps=2", "attack.auto.queries=2"]
    assert scripts.rows.eval_words(row, number, None, smoke=True) == cut
    assert scripts.rows.eval_words(row, number, "/d", smoke=True) == ["data=omniglot_challenge", *cut, "data.root=/d"]
    without = scripts.rows.Row("t", "n", "m", ("backbone=timm",), (), untrained=True)
    assert scripts.rows.eval_words(without, number, "/d", smoke=False)[:2] == ["backbone=timm", number.eval[0]]


def tiny_rows(folder: Path) -> Path:
    """Three rows of a table of robustness on tiny data; two go on from the first."""
    shared = "data=tiny data.absent='' algo=protonet backbone.filters=4 train.bn=support eval.bn=support device=cpu"
    short = "task.query=3 task.train_query=3 task.train_way=5 train.steps=2 train.val_every=1 train.val_episodes=2"
    curve = {"eval": ["attack=pgd attack.pgd.steps=2", "eval.eps=[0,51]", "eval.episodes=2 eval.batch=2"], "bar": None}
    rows = [
        {"table": "robustness", "name": f"protonet_{name}", "method": "protonet", "numbers": [curve], **more}
        for name, more in (
            ("natural", {"train": [shared, short]}),
            ("aq", {"train": [shared, short, "reg=adv_pgd reg.adv_pgd.eps=51"], "init": "protonet_natural"}),
            ("l2", {"train": [shared, short, "reg=l2"]}),
        )
    ]
    tables = {"robustness": {"document": "robustness.md", "kind": "curve", "data": "tiny", "root": None}}
    path = folder / "rows.yaml"
    path.write_text(yaml.safe_dump({"tables": tables, "rows": rows}))
    return path


@pytest.fixture
def made(tiny_dir, command_line, monkeypatch, scripts, handlers):
    """Let the queue work in this process; the commands that were run, one after another."""
    made: list[str] = []

    def metalab(*words: str) -> int:
        if words[0] == "data":
            return 0  # nothing is to be prepared
        made.append(words[0])
        code, said = command_line(words[0], "--config-dir", str(tiny_dir), *words[1:])
        assert code == 0, said
        return code

    def run(queue) -> None:
        for job in [job for slot in queue.slots for job in slot]:
            assert job.ready()
            monkeypatch.setattr(sys, "argv", ["reproduce_run.py", str(job.spec(None))])
            with pytest.raises(SystemExit) as end:
                scripts.run.main()
            job.code, job.said = end.value.code, job.ended()
            print(job.said)

    monkeypatch.setattr(scripts.run, "metalab", metalab)
    monkeypatch.setattr(scripts.main.Queue, "run", run)
    return made


@pytest.mark.slow
def test_what_needs_no_training_is_evaluated_once_and_shown_as_such(tmp_path, made, scripts, capsys):
    torch.manual_seed(3)  # not that of the command, whose random weights would be these
    torch.save(models.mobilenet_v3_small(weights=None).state_dict(), tmp_path / "net.pth")
    net = f"backbone=torchvision backbone.name=mobilenet_v3_small backbone.weights={tmp_path / 'net.pth'}"
    words = (
        f"{net} backbone.classes=none data=tiny data.absent='' algo=simpleshot task.query=3 eval.episodes=4 device=cpu"
    )
    numbers = [{"bar": None}, {"method": "the same, 2-shot", "eval": "task.shot=2", "bar": None}]
    row = {"table": "own", "name": "nearest", "method": "nearest mean", "train": words, "numbers": numbers}
    table = {"own": {"document": "own.md", "kind": "numbers", "data": "tiny", "root": None}}
    path = tmp_path / "rows.yaml"
    path.write_text(yaml.safe_dump({"tables": table, "rows": [row | {"untrained": True}]}))
    docs, out, results = documents(scripts, tmp_path / "docs", table), tmp_path / "out", tmp_path / "results"
    words = ["--rows", str(path), "--out", str(out), "--results", str(results), "--docs", str(docs)]
    assert scripts.main.main([*words, "--tables"]) == 0
    assert (docs / "own.md").read_text().count("not run yet") == 2
    assert "`run=null backbone=torchvision" in (docs / "own.md").read_text()
    for _ in range(2):
        assert scripts.main.main(words) == 0
        assert made == ["eval", "eval"]
    shutil.rmtree(next((out / "own/nearest/seed0").glob("eval_*2*")))  # as if the time had been over
    (results / "own/nearest.seed0.json").unlink()
    assert scripts.main.main(words) == 0
    assert made == ["eval"] * 3
    record = json.loads((results / "own/nearest.seed0.json").read_text())
    assert len(record["commands"]) == 3
    assert (record["steps"], record["planned"], len(record["evaluations"])) == (0, 0, 2)
    assert record["seconds"] > 0
    assert scripts.main.main([*words, "--tables"]) == 0
    for line in (docs / "own.md").read_text().splitlines()[4:6]:
        cells = line.split(" | ")
        assert cells[9] == "none"
        assert re.fullmatch(r"\*\*\d+\.\d\d ± \d+\.\d\d\*\*", cells[4])
    assert scripts.main.main([*words, "--smoke", "--results", str(tmp_path / "small")]) == 0
    assert "own/nearest is left out of a smoke" in capsys.readouterr().out
    assert len(made) == 3


@pytest.mark.slow
def test_rows_are_made_once_and_the_table_says_what_is_there(tmp_path, made, monkeypatch, scripts):
    monkeypatch.setattr(scripts.curves, "CURVE", (0, 51))
    out, results = tmp_path / "out", tmp_path / "results"
    rows = tiny_rows(tmp_path)
    docs = documents(scripts, tmp_path / "docs", yaml.safe_load(rows.read_text())["tables"])
    words = ["--rows", str(rows), "--out", str(out), "--results", str(results), "--docs", str(docs)]
    assert scripts.main.main([*words, "--only", "protonet_aq"]) == 0  # natural, which it goes on from, comes first
    assert made == ["train", "eval"] * 2
    assert scripts.main.main([*words, "--only", "protonet_aq", "protonet_natural"]) == 0
    assert len(made) == 4  # nothing is left to do
    shutil.rmtree(out)
    assert scripts.main.main([*words, "--only", "protonet_aq", "protonet_natural"]) == 0
    assert len(made) == 4  # nor where only the jsons are
    assert scripts.main.main([*words, "--tables"]) == 0
    table = (docs / "robustness.md").read_text()
    assert table.startswith("before\n<!-- begin scripts/reproduce.py robustness -->")
    assert table.endswith("<!-- end scripts/reproduce.py robustness -->\nafter\n")
    assert re.findall(r"\| protonet \| (\w+) \| \d \| support \|", table) == ["natural", "aq"]
    assert table.count("train.init=RUNS/robustness/protonet_natural/seed0") == 1  # adversarial goes on from natural
    assert "Not run: protonet/l2" in table
    assert (docs / "robustness_protonet.png").stat().st_size > 5000
    record = json.loads((results / "robustness/protonet_aq.seed0.json").read_text())
    [evaluation] = record["evaluations"].values()
    assert [a["eps"] for a in evaluation["attacks"]] == [0, 51]
    assert str(tmp_path) not in json.dumps(record)


def test_when_the_minutes_are_over_nothing_is_begun(tmp_path, scripts, capsys):
    words = ["--rows", str(tiny_rows(tmp_path)), "--out", str(tmp_path), "--results", str(tmp_path)]
    assert scripts.main.main([*words, "--minutes", "0.001"]) == 0
    said = capsys.readouterr().out
    assert "not begun, as no time was left" in said
    assert "robustness/protonet_natural seed 0, robustness/protonet_aq seed 0" in said
    assert "the same command goes on" in said
    assert list(tmp_path.rglob("*.json")) == []


def test_the_three_aims_are_judged(scripts):
    def row(clean: float, attacked: float) -> tuple[dict, dict]:
        return {"accuracy": clean}, {51: {"accuracy": attacked}}

    [said] = scripts.curves.aims({"protonet/natural": row(0.9, 0.2), "protonet/aq": row(0.86, 0.6)})
    assert "natural 20.0 % (at most 30 %); AQ +40.0 points (at least 30)" in said
    assert "AQ's clean accuracy -4.0 points (within 5 below natural)" in said
    [said] = scripts.curves.aims({"protonet/natural": row(0.9, 0.4), "protonet/aq": row(0.8, 0.6)})
    assert "above 30 %); AQ +20.0 points (less than 30); AQ's clean accuracy -10.0 points (more than 5" in said


@pytest.mark.slow
def test_a_smoke_of_the_whole_path_in_processes_of_its_own(tmp_path):
    words = ["--smoke", "--device", "cpu", "--out", str(tmp_path), "--only", "glyphs/maml", "glyphs/protonet"]
    command = [sys.executable, str(ROOT / "scripts/reproduce.py"), *words, "--jobs", "2"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "glyphs/maml seed 0: 2 of 2 steps" in done.stdout
    assert len(re.findall(r"\| [12] of 2 \|", (tmp_path / "docs/results.md").read_text())) == 2
