"""Runs the commands that README and docs/ show, in the folder where a reader would run them: beside `archive` and
`scores`.

`python -m tests.docs.refresh` writes what they print now into the pages.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from deephotlink.pipelines import cli
from deephotlink.pipelines.outputs.schema.script import script
from deephotlink.pipelines.outputs.views import SPARK
from deephotlink.pipelines.samples import archive as sample

from .pages import Block, Example, blocks_of, examples_of

COLUMNS = "120"
MORE = "..."
"""A last line of this in a page stands for the rest of what is printed."""
_NUMBER = re.compile(r"[-+]?\d*\.\d+")
_SIZE = re.compile(r"\d{1,3}(?:,\d{3})+")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ|\d{8}T\d{6}Z-[0-9a-f]{8}|\d{4}-\d\d-\d\d")


class Desk:
    """A folder with the sample `archive` and its audit `scores`, as `make audit` leaves them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.audited = ""
        """What `make audit` printed, from the audit on."""

    def audit(self, archive: Path | None = None) -> None:
        """`archive`: a sample archive to copy; if none is given, one is made."""
        if archive is None:
            sample.make_sample(self.folder / "archive")
        else:
            shutil.copytree(archive, self.folder / "archive", symlinks=True)
        self.audited = self.run("deephotlink audit archive --output scores", with_errors=False)
        shutil.copytree(self.folder / "scores", self.folder / ".scores")

    def clear(self) -> None:
        """Restores the folder to its state after the audit: each page begins there."""
        for path in self.folder.iterdir():
            if path.name not in ("archive", ".scores"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(self.folder / ".scores", self.folder / "scores")

    def run(self, command: str, with_errors: bool = True) -> str:
        """What the command prints. A trailing ` || echo "exit code $?"` is understood."""
        command, _, told = command.partition(" || ")
        words = shlex.split(command)
        if words == ["make", "audit"]:
            return self.audited
        assert words[0] == "deephotlink", f"a test can run only deephotlink: {command}"
        assert told in ("", 'echo "exit code $?"'), told
        printed = io.StringIO()
        errors = printed if with_errors else io.StringIO()
        with self.at_work(), contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors):
            code = cli.main(words[1:])
        if told and code:
            printed.write(f"exit code {code}\n")
        else:
            assert code == 0, f"{command}: exit code {code}\n{printed.getvalue()}{errors.getvalue()}"
        return self.as_shown(printed.getvalue())

    def run_python(self, code: str, name: str) -> str:
        """What the code prints. It may need other packages than the tests have: raises ImportError."""
        printed = io.StringIO()
        with self.at_work(), contextlib.redirect_stdout(printed):
            # What a reader makes by `deephotlink schema --sql spark scores > views-spark.sql`.
            Path("views-spark.sql").write_text(script(SPARK, "scores"), encoding="utf-8")
            exec(compile(code, name, "exec"), {"__name__": "__main__"})
        return self.as_shown(printed.getvalue())

    def run_block(self, block: Block) -> list[Example]:
        examples = examples_of(block)
        return [Example(e.command, cut_like(e.output, self.run(e.command))) for e in examples]

    def write_files(self, page: Path) -> None:
        """The files that the page shows."""
        for block in blocks_of(page):
            if block.name is not None:
                (self.folder / block.name).write_text(block.text, encoding="utf-8")

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        # What somebody has pulled on this machine would run in every audit.
        clean = {"COLUMNS": COLUMNS, "DEEPHOTLINK_WEIGHTS": str(self.folder / "no weights")}
        with contextlib.chdir(self.folder), mock.patch.dict(os.environ, clean):
            yield

    def as_shown(self, printed: str) -> str:
        lines = printed.replace(str(self.folder), "…").splitlines()
        return "\n".join(line.rstrip() for line in lines).strip("\n")


def alike(shown: str, printed: str) -> bool:
    """Whether a page shows what was printed, word for word. Allowed to differ: times, one unit in the last digit of a
    number with decimals (another processor rounds a network's sums differently), and one in a hundred of sizes like
    5,067,669 (the signatures of the sample are made anew)."""
    lines = shown.splitlines()
    if lines[-1:] == [MORE]:
        return alike("\n".join(lines[:-1]), "\n".join(printed.splitlines()[: len(lines) - 1]))
    left, right = (_TIME.sub("<time>", text) for text in (shown, printed))
    if _masked(left) != _masked(right):
        return False
    pairs = zip(_NUMBER.findall(left), _NUMBER.findall(right), strict=True)
    sizes = zip(_SIZE.findall(left), _SIZE.findall(right), strict=True)
    return all(abs(float(a) - float(b)) <= 1.01 * 10.0 ** -len(a.partition(".")[2]) for a, b in pairs) and all(
        abs(_bytes(a) - _bytes(b)) <= _bytes(a) / 100 for a, b in sizes
    )


def cut_like(shown: str, printed: str) -> str:
    """`printed`, cut off where the page cuts it."""
    lines = shown.splitlines()
    return "\n".join([*printed.splitlines()[: len(lines) - 1], MORE]) if lines[-1:] == [MORE] else printed


def _masked(text: str) -> str:
    return _NUMBER.sub("<n>", _SIZE.sub("<size>", text))


def _bytes(text: str) -> int:
    return int(text.replace(",", ""))
