"""README and docs/ are consistent: links work, the names that they mention exist, generated parts are up to date."""

from __future__ import annotations

import importlib
import re
from functools import reduce
from pathlib import Path
from urllib.parse import unquote

import pytest

from deephotlink.models import registry
from deephotlink.pipelines import cli
from deephotlink.pipelines.outputs.plain_words import ABSTAINED, SKIPPED
from deephotlink.pipelines.outputs.schema.dictionary import VIEW_ROWS
from deephotlink.transforms.failures import ERROR_CLASSES

from .make_tables import TABLES_MD, tables_md
from .pages import NOTEBOOKS, PAGES, ROOT, anchors_of, blocks_of, functions_of, links_of, pictures_of
from .picture import MOST_BYTES

DOCS = ROOT / "docs"
README = ROOT / "README.md"
LINKED = [*PAGES, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", ROOT / "tests/chaos/README.md"]
NAMING = [README, DOCS / "architecture.md"]


@pytest.mark.parametrize("page", LINKED, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in links_of(page):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = unquote(link).partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists() and there.is_relative_to(ROOT), f"{page.name}: {link}: no such file"
        if anchor:
            assert anchor in anchors_of(there), f"{page.name}: {link}: no such heading"


def test_pictures_are_there_and_small() -> None:
    found = [(page, text, path) for page in LINKED for text, path in pictures_of(page)]
    assert (README, "docs/report.png") in {(page, path) for page, _, path in found}
    for page, text, path in found:
        data = (page.parent / path).read_bytes()
        assert data.startswith(b"\x89PNG\r\n") and len(data) <= MOST_BYTES and len(text.split()) > 5, (
            f"{page.name}: {path}"
        )


def test_every_page_is_linked_from_the_readme() -> None:
    assert {page.name for page in (*DOCS.glob("*.md"), *NOTEBOOKS)} == {
        Path(link).name.partition("#")[0] for link in links_of(README) if link.startswith("docs/")
    }


def test_the_readme_is_short() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 180
    tables = re.findall(r"(?:^\|.*\n)+", text, re.M)
    assert tables and all(len(table.splitlines()) <= 2 + 6 for table in tables)


@pytest.mark.parametrize("page", NAMING, ids=lambda page: page.name)
def test_functions_that_are_named_exist(page: Path) -> None:
    named = functions_of(page)
    assert len(named) >= 5
    for path, name in named:
        assert (ROOT / path).is_file(), f"{page.name}: no file {path}"
        module = importlib.import_module("deephotlink." + path.removesuffix(".py").replace("/", "."))
        found = reduce(getattr, name.split("."), module)
        assert callable(found), f"{page.name}: {path}: {name}"
        assert found.__module__ == module.__name__, f"{page.name}: {name} is in {found.__module__}, not in {path}"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for path in re.findall(r"\b(?:pipelines|transforms|models|tests)/[\w./]*\w", text):
        if "SOURCE" not in path:
            assert (ROOT / path).exists(), f"{page.name}: {path}"


def test_the_tables_are_described_as_they_are() -> None:
    assert TABLES_MD.read_text(encoding="utf-8") == tables_md(), "run: python -m tests.docs.make_tables"


def test_words_of_the_tables_are_those_of_the_code() -> None:
    sources = [path.read_text(encoding="utf-8") for room in ("models", "transforms") for path in _modules(room)]
    abstained = {word for text in sources for word in re.findall(r'abstain(?:ed)?[=(]"(\w+)"', text)}
    skipped = {word for text in sources for word in re.findall(r'(?:skip(?:ped\(\w+, |=)|reason=)"(\w+)"', text)}
    assert len(abstained) > 8 and abstained <= set(ABSTAINED), abstained - set(ABSTAINED)
    assert len(skipped) > 5 and skipped <= set(SKIPPED), skipped - set(SKIPPED)
    for words in (ABSTAINED, SKIPPED):
        assert not (gone := {word for word in words if not any(f'"{word}"' in text for text in sources)}), gone


def _modules(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def test_the_fault_matrix_names_tests_that_are_there() -> None:
    chaos = ROOT / "tests/chaos"
    text = (chaos / "README.md").read_text(encoding="utf-8")
    files = set(re.findall(r"[\w./]*\w\.py\b", text))
    assert files and not [name for name in files if not (chaos / name).exists() and not (ROOT / name).exists()]
    tests = "\n".join(file.read_text(encoding="utf-8") for file in (ROOT / "tests").rglob("test_*.py"))
    assert not [name for name in re.findall(r"`(test_\w+)", text) if f"def {name}" not in tests]


def test_options_that_are_named_exist() -> None:
    ours = {option for parser in _parsers() for action in parser._actions for option in action.option_strings}
    others = {"--runner", "--flink_master", "--project", "--region", "--experiments", "--rm", "--port"}
    others |= {
        "--apart",
        "--entries",
        "--kinds",
        "--audit",
        "--autoencoder",
        "--cache",
        "--faces",
        "--files",
        "--logits",
        "--no-large",
        "--out",
        "--rounds",
        "--rows",
        "--scores",
    }  # of tests/bench
    for page in PAGES:
        text = re.sub(r"--(?=\w+[._])", "", page.read_text(encoding="utf-8"))
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z_-]+", text))
        assert not (unknown := named - ours - others), f"{page.name}: {sorted(unknown)}"


def test_all_commands_exit_codes_and_classes_are_told() -> None:
    text = (DOCS / "operate.md").read_text(encoding="utf-8")
    [commands] = [a.choices for a in cli.build_parser()._actions if isinstance(a.choices, dict)]
    assert not [name for name in commands if f"| `deephotlink {name} " not in text]
    codes = {cli.DONE, cli.BROKEN, cli.USAGE, cli.NOTHING, cli.MANY_FAILED, cli.UNFINISHED, cli.STUMBLED}
    codes |= {cli.AGAIN, cli.INTERRUPTED}
    table = text.partition("## Exit codes")[2].partition("##")[0]
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.M)} == codes
    for word in re.findall(r"--retry-failures=([\w,]+)", text):
        assert set(word.split(",")) <= set(ERROR_CLASSES)


def test_all_detectors_and_views_are_told() -> None:
    text = (DOCS / "detectors.md").read_text(encoding="utf-8")
    ours = [spec for spec in registry.installed().values() if spec.origin in ("embedded", "published")]
    assert len(ours) > 10 and not [spec.name for spec in ours if f"`{spec.name}`" not in text]
    assert all(f"`{view}`" in (DOCS / "operate.md").read_text(encoding="utf-8") for view in VIEW_ROWS)


def test_blocks_have_a_kind() -> None:
    for page in PAGES:
        for block in blocks_of(page):
            assert block.kind in ("console", "sh", "python", "toml", "csv", "yaml", ""), f"{page.name}: {block.kind}"


def _parsers() -> list:
    parsers, found = [cli.build_parser()], []
    while parsers:
        parser = parsers.pop()
        parser.format_help()  # a command's arguments are added when they are first needed
        found.append(parser)
        parsers += [p for a in parser._actions if isinstance(a.choices, dict) for p in a.choices.values()]
    return found
