"""README and docs/ as the tests see them: their code blocks, their links, the functions that they name."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
NOTEBOOKS = sorted((ROOT / "docs").glob("*.ipynb"))
_FENCE = re.compile(r"^(?P<named>`(?P<name>[\w.-]+)`\n)?```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_PICTURE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)")
_FUNCTION = re.compile(r"`([\w/]+\.py): ([\w.]+)`")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a page."""

    page: Path
    kind: str
    """`console`: commands with their output, which a test runs and compares. `sh`: commands whose options a test
    checks. `python`: a test runs it. Any other kind is only shown."""
    name: str | None
    """Of the file that it is: the line above the block, in backticks."""
    text: str
    start: int
    """Where the text begins in the page, in characters."""


@dataclass(frozen=True, slots=True)
class Example:
    command: str
    output: str
    """What the page says that it prints."""


def blocks_of(page: Path) -> list[Block]:
    found = _FENCE.finditer(page.read_text(encoding="utf-8"))
    return [Block(page, m["kind"], m["name"], m["text"], m.start("text")) for m in found]


def examples_of(block: Block) -> list[Example]:
    """The commands of a `console` block, each with what it prints. A command continues while a quote is open."""
    examples: list[Example] = []
    lines = block.text.splitlines()
    at = 0
    while at < len(lines):
        assert lines[at].startswith("$ "), (
            f"{block.page.name}: expected a line that begins with `$ `, got {lines[at]!r}"
        )
        command, at = lines[at][2:], at + 1
        while not _is_complete(command):
            command, at = f"{command}\n{lines[at]}", at + 1
        first = at
        while at < len(lines) and not lines[at].startswith("$ "):
            at += 1
        examples.append(Example(command, "\n".join(lines[first:at])))
    return examples


def python_of(page: Path) -> list[tuple[Block, Block]]:
    """Each `python` block that has its output right below it, with the block of that output."""
    text, blocks = page.read_text(encoding="utf-8"), blocks_of(page)
    pairs = pairwise(blocks)
    between = [(code, output, text[code.start + len(code.text) : output.start]) for code, output in pairs]
    return [(c, o) for c, o, gap in between if (c.kind, o.kind) == ("python", "") and gap.split() == ["```", "```"]]


def shown(examples: list[Example]) -> str:
    """The text of the block that `examples_of` reads."""
    return "".join(f"$ {e.command}\n{e.output}{chr(10) if e.output else ''}" for e in examples)


def commands_of(block: Block) -> list[list[str]]:
    """The words of each `deephotlink` command of a `sh` or `console` block."""
    if block.kind == "console":
        lines = [example.command for example in examples_of(block)]
    else:
        lines = block.text.replace("\\\n", " ").splitlines()
    words = [shlex.split(line.partition(" || ")[0], comments=True) for line in lines]
    return [line[1:] for line in words if line[:1] == ["deephotlink"]]


def links_of(page: Path) -> list[str]:
    """The targets of its links, except links inside code."""
    text = re.sub(r"`[^`\n]*`", "", _FENCE.sub("", page.read_text(encoding="utf-8")))
    return _LINK.findall(text)


def pictures_of(page: Path) -> list[tuple[str, str]]:
    """(what it says of itself, path) for each picture."""
    return _PICTURE.findall(_FENCE.sub("", page.read_text(encoding="utf-8")))


def anchors_of(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    heads = re.findall(r"^#{1,6} +(.+)$", _FENCE.sub("", page.read_text(encoding="utf-8")), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def functions_of(page: Path) -> list[tuple[str, str]]:
    """(path of the module, name in it) for each mention in the form `path.py: function`."""
    return _FUNCTION.findall(page.read_text(encoding="utf-8"))


def _is_complete(command: str) -> bool:
    try:
        shlex.split(command)
    except ValueError:
        return False
    return True
