"""What the README and the site's pages say works: every command in them is run, long trainings cut to one step."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))]
MEASURED = ("results.md", "robustness.md", "performance.md")  # their commands want real data, and hours
MADE = "docs/reference/configuration.md"  # of conf/, whose comments name files of papers' codes
WRITTEN = [*(page for page in PAGES if page != MADE), "CONTRIBUTING.md", "CHANGELOG.md"]
SHORT = {
    "train": "device=cpu train.steps=1 train.meta_batch=1 train.val_episodes=2 task.query=2 eval.batch=2",
    "eval": "device=cpu eval.episodes=2 eval.batch=2",
    "compare": "device=cpu eval.episodes=2 eval.batch=2",
    "predict": "device=cpu",
    "demo": "device=cpu --cfg job",  # it would wait for Ctrl-C
    "export": "device=cpu",
}
EMBEDDED = ("glyphs", "folder", "gratings")  # what needs no real data; the last one is a page's own


def text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def commands(page: str) -> list[str]:
    """Return the lines of a page's bash blocks that call metalab, a line that goes on below as one."""
    return [
        line.partition("  #")[0].strip()
        for block in re.findall(r"```bash\n(.*?)```", text(page), re.S)
        for line in block.replace("\\\n", " ").splitlines()
        if line.startswith("metalab ")
    ]


WITH_COMMANDS = [page for page in PAGES if not page.endswith(MEASURED) and commands(page)]


@pytest.fixture
def images(tmp_path) -> Path:
    """A user's folder: 32 classes of five coloured pictures."""
    draw = np.random.default_rng(0)
    for k in range(32):
        (tmp_path / "images" / f"class{k}").mkdir(parents=True)
        for i in range(5):
            pixels = draw.integers(0, 255, (30, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / f"class{k}" / f"{i}.png")
    return tmp_path / "images"


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """Where the embedded data is drawn once for all pages."""
    return tmp_path_factory.mktemp("cache")


def named(words: list[str], group: str) -> str | None:
    return next((word.partition("=")[2] for word in words if word.startswith(f"{group}=")), None)


def shortened(command: str, images: Path, resumed: int) -> list[str] | None:
    """Return a page's command, cut to a step; where its data may not be there, it is composed alone.

    None: it cannot be composed, as it prepares real data or sweeps over it; the data sets that it names are there.
    """
    _, kind, *words = shlex.split(re.sub("/path/to/(images|classes)", str(images), command))
    real = words[1:2] if kind == "data" else (named(words, "data") or "").split(",")
    real = [name for name in real if (ROOT / f"conf/data/{name}.yaml").exists() and name not in EMBEDDED]
    if (kind == "data" and real) or (len(real) > 1 and "-m" in words):
        return None
    words = ["run=elsewhere" if word == "run=RUN" else word for word in words]
    words = [re.sub(r"steps: \d+", "steps: 1", word) if word.startswith("train.phases=") else word for word in words]
    if kind in ("data", "runs") or "--help" in words or "--cfg" in words or "--info" in words:
        return [kind, *words]
    words += SHORT[kind].split()
    if named(words, "experiment") or named(words, "compare.data") or real:
        words += ["--cfg", "job"]
    if named(words, "data") == "folder" and kind == "train":
        words += ["data.size=16", *(() if "data.protocol=images" in words else ("task.train_way=5",))]
    if cycles := named(words, "train.snapshots"):
        words += [f"train.steps={cycles}"]
    if named(words, "train.keep_best"):
        words += ["train.steps=2", "train.val_every=1"]
    if named(words, "resume"):
        words += [f"train.steps={1 + resumed}", "task.query=2"]
    return [kind, *words]


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_every_command_runs(page, tmp_path, images, cache, command_line, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METALAB_CACHE", str(cache))
    python, yaml = (re.findall(rf"```{kind}\n# (\S+)\n(.*?)```", text(page), re.S) for kind in ("python", "yaml"))
    for name, content in (*python, *yaml):  # the part that the page adds
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"# {name}\n{content}" if name.endswith(".py") else content)
    if not commands(page)[0].startswith("metalab train"):
        assert command_line("train", *SHORT["train"].split())[0] == 0  # the run that the page takes for granted
    if "run=RUN" in text(page):  # a run on the embedded data
        assert command_line("train", *SHORT["train"].split(), "hydra.run.dir=elsewhere")[0] == 0
    resumed = 0
    for command in commands(page):
        resumed += " resume=" in command
        if words := shortened(command, images, resumed):
            code, said = command_line(*words)
            assert code == 0, f"{command}\n{said}"


def test_the_pages_have_the_commands_that_the_readme_had():
    assert len({command for page in WITH_COMMANDS for command in commands(page)}) > 50
    assert len(commands("README.md")) > 2


@pytest.mark.parametrize("page", ["configuration", "command-line"])
def test_every_option_there_is_stands_in_the_reference(page):
    for group in ("algo", "data", "backbone", "task", "reg", "attack", "optim", "experiment", "search"):
        lines = text(f"docs/reference/{page}.md").splitlines()
        row = next(line for line in lines if line.startswith(f"| `{group}`"))
        for option in (ROOT / "conf" / group).glob("*.yaml"):
            assert f"`{option.stem}`" in row, f"{group}={option.stem}"


@pytest.mark.parametrize("page", WRITTEN)
def test_every_file_that_is_named_is_there(page):
    named = re.findall(r"\b(?:metalab|scripts|tests|conf|docs)/[\w/.-]*\w", text(page))
    own = re.findall(r"^# (\S+/\S+)$", text(page), re.M)  # what the page itself writes
    missing = [name for name in named if not (ROOT / name).exists() and not any(name in each for each in own)]
    assert missing == []


def test_every_page_is_in_the_sites_navigation():
    navigation = text("mkdocs.yml").partition("\nnav:\n")[2]
    assert sorted(re.findall(r": (\S+\.md)$", navigation, re.M)) == sorted(p.removeprefix("docs/") for p in PAGES[1:])


@pytest.mark.parametrize("name", PAGES)
def test_no_number_is_still_to_come(name):
    assert re.findall(r"^[A-Z]{3,}$|being measured|TODO", text(name), re.M) == []
