"""Print docs/reference/configuration.md: every group, option and key of conf/, with its default and its comment.

python scripts/reference.py > docs/reference/configuration.md
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

CONF = Path(__file__).resolve().parents[1] / "conf"
GROUPS = {  # in the order of the page
    "algo": "The meta-learning algorithm: one.",
    "data": "Where the images come from: one.",
    "backbone": "The body of the net: one.",
    "task": "Way, shot and query: one.",
    "engine": "How the tasks of a meta-batch run: one.",
    "optim": "The outer optimizer and its schedule: one.",
    "reg": "Regularizers: any number, as in `reg=[l2,dropout]`.",
    "attack": "What `metalab eval` attacks with: any number, as in `attack=[fgsm,pgd]`.",
    "experiment": "A paper's settings in one word: none, or one. What is typed beside it wins.",
    "search": "With `-m`: what Optuna varies of a method. A value or range that is typed for one of its keys wins.",
}
SHARED = ("schedule_and_clip", "search_base")  # in every option of optim, and of search
INTRODUCTION = """\
# Configuration

Made by `python scripts/reference.py > docs/reference/configuration.md` from the comments in `conf/`; a test holds the
page to them. An option of a group is chosen as `group=option`, a key is set as `key=value`:

```bash
metalab train algo=maml task=5way5shot algo.lr=0.1 train.steps=1000
```

`metalab train --help` prints the groups, their options and the values that are in force. `null` stands for "none" or
for what the comment says.
"""


@dataclass(frozen=True)
class Key:
    """One key of a YAML file: how it is typed, its value as it is written, what its comment says."""

    name: str
    value: str
    comment: str


@dataclass(frozen=True)
class Option:
    """One YAML file: what it is, what it takes from others, its own keys."""

    title: list[str]  # the comment at its top, a line each
    takes: list[str]  # its defaults list, as it would be typed
    inherits: list[str]  # options of its own group that it begins with
    keys: list[Key]


def read(path: Path) -> Option:
    """Return what a YAML file of conf/ says."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    root = yaml.compose(text, yaml.SafeLoader)
    package, top = "", []
    for line in lines:
        if not line.startswith("#"):
            break
        if found := re.match(r"# @package (\S+)", line):
            package = found[1]
        else:
            top.append(line.removeprefix("#").strip())
    group = path.parent.name if path.parent != CONF else "_global_"
    prefix = "" if (package or group) == "_global_" else f"{package or group}."
    if not isinstance(root, yaml.MappingNode):  # comments alone
        return Option(top, [], [], [])
    nodes = list(_leaves(root, prefix))
    keys = [Key(name, _written(text, value), _comment(lines, i, nodes)) for i, (name, _, value) in enumerate(nodes)]
    takes, inherits = _defaults(root, group)
    for shared in [
        name for name in inherits if name.startswith("/")
    ]:  # /name@_here_ is no option, but a part of several
        inherits.remove(shared)
        part = read(CONF / f"{shared.removeprefix('/').removesuffix('@_here_')}.yaml")
        keys += [replace(key, name=f"{prefix}{key.name}") for key in part.keys]
    return Option(top, takes, inherits, keys)


def _leaves(node: yaml.MappingNode, prefix: str) -> Iterator[tuple[str, yaml.Node, yaml.Node]]:
    """Give the dotted name, the key and the value of all that is set, defaults lists left out."""
    for key, value in node.value:
        if key.value == "defaults":
            continue
        if isinstance(value, yaml.MappingNode) and value.value:
            yield from _leaves(value, f"{prefix}{key.value}.")
        else:
            yield f"{prefix}{key.value}", key, value


def _written(text: str, value: yaml.Node) -> str:
    """Return a value as it stands in the file, on one line; of a text of several lines only that it is one."""
    if isinstance(value, yaml.ScalarNode) and value.style in ("|", ">"):
        return "(a text)"
    return " ".join(text[value.start_mark.index : value.end_mark.index].split())


def _comment(lines: list[str], i: int, nodes: list[tuple[str, yaml.Node, yaml.Node]]) -> str:
    """Return the comment of key i: what stands behind it and goes on below, else what stands above it."""
    _, key, value = nodes[i]
    behind = _behind(lines, key, value)
    if not behind:
        above = []
        for line in reversed(lines[: key.start_mark.line]):
            if not _is_comment(line):
                break
            above.append(line.strip().removeprefix("#").strip())
        return " ".join(reversed(above))
    parts, below = [behind], value.end_mark.line + 1
    while below < len(lines) and _is_comment(lines[below]):
        parts.append(lines[below].strip().removeprefix("#").strip())
        below += 1
    following = nodes[i + 1] if i + 1 < len(nodes) else None
    if following is not None and following[1].start_mark.line == below and len(parts) > 1:
        column = len(lines[below - 1]) - len(lines[below - 1].lstrip())
        if column <= following[1].start_mark.column and not _behind(lines, *following[1:]):
            return behind  # what stands between the two is the next key's
    return " ".join(parts)


def _behind(lines: list[str], key: yaml.Node, value: yaml.Node) -> str:
    """Return the comment on a key's own line; of a text or a list of several lines that is its first."""
    text = isinstance(value, yaml.ScalarNode) and value.style in ("|", ">")
    block = text or (isinstance(value, yaml.SequenceNode) and not value.flow_style)
    line = lines[key.start_mark.line if block else value.end_mark.line]
    rest = line[key.end_mark.column :] if block else line[value.end_mark.column :]
    found = re.search(r"(?:^|\s)#\s*(.*)", rest)
    return found[1].strip() if found else ""


def _is_comment(line: str) -> bool:
    return line.lstrip().startswith("#")


def _defaults(root: yaml.MappingNode, group: str) -> tuple[list[str], list[str]]:
    """Return what a defaults list chooses of other groups, as typed, and the options of its own that it begins with."""
    takes, inherits = [], []
    for key, value in root.value:
        if key.value != "defaults":
            continue
        for item in value.value:
            if isinstance(item, yaml.ScalarNode):
                inherits += [] if item.value == "_self_" else [item.value]
                continue
            [(name, chosen)] = item.value
            other = name.value.removeprefix("override ").removeprefix("/").partition("@")[0]
            many = isinstance(chosen, yaml.SequenceNode)
            typed = f"[{','.join(each.value for each in chosen.value)}]" if many else chosen.value
            takes.append(f"{other}={typed}")
    return takes, inherits


def escaped(text: str) -> str:
    """Return plain text as Markdown shows it in a table."""
    text = re.sub(r"([\\|*])", r"\\\1", text).replace("<", "&lt;")
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)


def table(keys: list[Key]) -> Iterator[str]:
    """Give the lines of a table of keys."""
    if not keys:
        return
    yield from ("", "| key | default | what |", "|---|---|---|")
    for key in keys:
        yield f"| `{key.name}` | `{key.value}` | {escaped(key.comment)} |"


def option_lines(group: str, path: Path) -> Iterator[str]:
    """Give the lines of one option."""
    option = read(path)
    yield from ("", f"### {group}={path.stem}", "", *map(escaped, option.title))
    if option.inherits:
        first = ", ".join(f"`{group}={name}`" for name in option.inherits)
        yield from ("", f"Begins with {first}; the keys that it sets anew:")
    if option.takes:
        yield from ("", f"Chooses {', '.join(f'`{word}`' for word in option.takes)}.")
    for key in option.keys:
        if key.name.endswith("_target_"):
            yield from ("", f"Builds `{key.value}`.")
    yield from table([key for key in option.keys if not key.name.endswith("_target_")])


def page() -> str:
    """Return the page."""
    lines = [INTRODUCTION.rstrip(), "", "## Groups", "", "| group | default | what | options |", "|---|---|---|---|"]
    root = read(CONF / "train.yaml")
    chosen = dict(word.split("=", 1) for word in root.takes)
    options = {group: sorted((CONF / group).glob("*.yaml")) for group in GROUPS}
    for group, what in GROUPS.items():
        names = " ".join(f"`{path.stem}`" for path in options[group])
        lines.append(f"| `{group}` | `{chosen[group]}` | {what} | {names} |")
    lines += ["", "## Settings of every run", "", "They are in `conf/train.yaml`, and no group's.", *table(root.keys)]
    for path in sorted(CONF.glob("*.yaml")):
        if path.stem not in ("train", *SHARED):
            own = read(path)
            lines += ["", f"## Settings of metalab {path.stem} alone", "", *map(escaped, own.title), *table(own.keys)]
    for group, what in GROUPS.items():
        lines += ["", f"## {group}", "", what]
        for path in options[group]:
            lines += option_lines(group, path)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
