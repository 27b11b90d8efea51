"""A terminal, pipe or disk that refuses the output neither ends a finished job nor changes its exit code."""

from __future__ import annotations

import io
import json
import os
import shlex
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from deephotlink.pipelines import cli
from deephotlink.pipelines.outputs.query import unique
from deephotlink.pipelines.terminal.printing import finite
from deephotlink.transforms.storage.output_store import OutputStore
from tests.builders import make_video
from tests.committing import finish, make_run

CODE = "import sys; from deephotlink.pipelines.cli import main; sys.exit(main())"
NO_SPACE = "No space left on device"


@dataclass(frozen=True)
class Done:
    code: int
    out: bytes
    err: str


def run(*words: str, into: str | None = None, encoding: str = "utf-8") -> Done:
    """A command in this process whose stdout is a descriptor of its own: the file `into`, or `|` for a pipe that nobody
    reads, or a file that is read afterwards; in `encoding`, and strict."""
    kept = os.dup(1)
    heard = io.StringIO()
    sys.stdout.flush()
    with tempfile.TemporaryFile() as file:
        if into == "|":
            reading, target = os.pipe()
            os.close(reading)
        else:
            target = file.fileno() if into is None else os.open(into, os.O_WRONLY)
        os.dup2(target, 1)
        stream = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), encoding=encoding, errors="strict")
        try:
            with mock.patch.multiple(sys, stdout=stream, __stdout__=stream, stderr=heard):
                code = cli.main(list(words))
        finally:
            os.dup2(kept, 1)
            os.close(kept)
            if target != file.fileno():
                os.close(target)
        file.seek(0)
        return Done(code, file.read(), heard.getvalue())


def one_line(said: str) -> str:
    assert len(said.splitlines()) == 1 and "Traceback" not in said, said
    return said


def process(*words: str, shell: str = "", **kwargs: Any) -> subprocess.CompletedProcess[bytes]:
    """The same in a process of its own, with what a shell does to its streams."""
    command = shlex.join([sys.executable, "-c", CODE, *words])
    environment = {**os.environ, **kwargs.pop("environment", {})}
    return subprocess.run(["sh", "-c", f"{command} {shell}"], capture_output=True, env=environment, **kwargs)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An output of made-up rows."""
    store = OutputStore(str(tmp_path_factory.mktemp("out")))
    finish(store, make_run(store, 2, 6))
    return store.root


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The words of a command that has nothing left to do, and prints its closing tables."""
    root = tmp_path_factory.mktemp("audited")
    make_video(root / "films" / "Überführung 日本.mp4", seconds=1, size=(64, 48))
    broken = make_video(root / "b.mp4", seconds=1).read_bytes()[:200]
    (root / "films" / "broken\u2014film\u2026.mp4").write_bytes(broken)
    command = ["audit", str(root / "films"), "--output", str(root / "out"), "--detectors", "metadata"]
    assert cli.main([*command, "--quiet"]) == cli.DONE
    return command


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_a_terminal_that_lacks_characters_gets_all_there_is(audited, encoding):
    done = run(*audited, encoding=encoding)
    assert done.code == cli.DONE and done.err == ""
    text = done.out.decode(encoding)
    assert "What was found" in text and "deephotlink query" in text
    assert ("broken\\u2014film\\u2026" if encoding == "ascii" else "broken\u2014film\u2026") in text
    assert ("\u2501" in text) == (encoding == "utf-8")


def test_columns_stay_in_line_where_characters_are_spelt_out(out):
    done = run("query", out, "select 'é日' as a, 1 as b union all select 'x', 2", encoding="ascii")
    lines = [line for line in done.out.decode("ascii").splitlines() if "|" in line]
    assert "\\xe9\\u65e5" in done.out.decode() and len({line.rindex("|") for line in lines}) == 1


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("query", "OUT", "select * from evidence"), cli.AGAIN),
        (("query", "OUT", "select * from evidence", "--json"), cli.AGAIN),
        (("check", "OUT"), cli.AGAIN),
        (("quarantine", "OUT"), cli.AGAIN),
        (("detectors", "--json"), cli.AGAIN),
        (("--help",), cli.AGAIN),
        (("query", "OUT", "select nonsense"), cli.USAGE),
    ],
)
def test_a_full_disk_is_one_line_and_an_exit_code(out, words, code):
    done = run(*(out if word == "OUT" else word for word in words), into="/dev/full")
    assert done.code == code and (NO_SPACE in one_line(done.err)) == (code == cli.AGAIN)


def test_an_audit_is_done_although_its_tables_cannot_be_shown(audited):
    done = run(*audited, into="/dev/full")
    assert done.code == cli.DONE and NO_SPACE in one_line(done.err)
    done = run(*audited, "--json", into="/dev/full")
    assert done.code == cli.AGAIN and NO_SPACE in one_line(done.err)
    done = run(*audited, "--max-failure-rate", "0.1", into="/dev/full")
    assert done.code == cli.MANY_FAILED and NO_SPACE in done.err


def test_a_reader_that_has_seen_enough_is_no_fault(out, audited):
    for words in (["query", out, "select * from evidence", "--json"], audited, ["--help"]):
        assert run(*words, into="|") == Done(cli.DONE, b"", "")
    # It hides no other end either.
    assert run(*audited, "--max-failure-rate", "0.1", into="|").code == cli.MANY_FAILED


@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-", "2> /dev/full"])
def test_streams_that_are_closed_or_full_take_nothing_from_the_job(tmp_path, closed):
    """In a process of its own: the next file that it opens would get the number of a closed stream."""
    film, out = make_video(tmp_path / "a.mp4", seconds=1, size=(64, 48)), str(tmp_path / "out")
    words = ("audit", str(film), "--output", out, "--detectors", "metadata")
    done = process(*words, shell=closed, environment={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"})
    assert done.returncode == cli.DONE, done.stderr
    assert cli.main(["check", out]) == cli.DONE


def test_json_is_json(out):
    sql = """select 'nan'::double as a, [1.5, '-inf'::double] as b, {'x': 'inf'::float} as c,
             map {'k': 'nan'::double} as d, 'a\\xFF'::blob as e, 1.50::decimal(9, 2) as f, 7::hugeint as g,
             date '2026-11-29' as h, time '12:30' as i, timestamptz '2026-11-29 12:00+00' as j, null as k, 1 as a"""
    done = run("query", out, sql, "--json")
    told = json.loads(done.out, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    numbers = {"a": None, "b": [1.5, None], "c": {"x": None}, "d": [["k", None]], "e": "a\\xFF", "f": 1.5, "g": 7}
    times = {"h": "2026-11-29", "i": "12:30:00", "j": "2026-11-29T12:00:00+00:00"}
    assert told == {**numbers, **times, "k": None, "a_1": 1}


def test_numbers_that_json_lacks_are_null_wherever_they_stand():
    nan, inf = float("nan"), float("inf")
    told = finite({"a": nan, "b": [inf, {"c": (-inf, 1)}], 3: "nan"})
    assert told == {"a": None, "b": [None, {"c": [None, 1]}], "3": "nan"}
    assert json.loads(json.dumps(told, allow_nan=False)) == told


def test_columns_of_one_name_hide_none(out):
    assert unique(["a", "a_1", "a", "a"]) == ["a", "a_1", "a_2", "a_3"]
    done = run("query", out, "select 1 as a, 2 as a", encoding="ascii")
    assert done.out.split() == b"a | a_1 ---+----- 1 | 2".split()


def test_what_we_did_wrong_has_an_exit_code_of_its_own(monkeypatch, capsys, tmp_path):
    def stumble(*_: object) -> int:
        raise LookupError("https://host/x?sig=SECRETS and \x1b[31m")

    monkeypatch.setitem(cli._COMMANDS, "check", stumble)
    assert cli.main(["check", str(tmp_path)]) == cli.STUMBLED == 70
    said = capsys.readouterr().err
    assert "LookupError: https://host/x and \\x1b[31m" in said and "report it" in said.splitlines()[-1]
    assert "?sig=SECRETS and" not in said and "\x1b" not in said


@pytest.mark.parametrize("name", [b"my scores", b'it\'s "$HOME"', b"-out", b"caf\xc3\xa9", b"\xff\xfe"])
def test_a_suggested_command_can_be_pasted(tmp_path, monkeypatch, name):
    """OUT with spaces, quotes, a dash in front and bytes that are no UTF-8: a shell gives it back."""
    film = make_video(tmp_path / "a.mp4", seconds=1, size=(64, 48))
    monkeypatch.chdir(tmp_path)
    output = f"--output={os.fsdecode(name)}"
    done = run("audit", str(film), "--detectors", "metadata", output, encoding="ascii")
    assert done.code == cli.DONE and Path(tmp_path, os.fsdecode(name), "report.html").is_file()
    (ask,) = [line for line in done.out.decode("ascii").splitlines() if "Ask the tables: " in line]
    words = ask.partition("Ask the tables: deephotlink ")[2]
    told = subprocess.run(["sh", "-c", f"printf '%s\\n' {words}"], capture_output=True).stdout.splitlines()
    found = run(*map(os.fsdecode, told))
    assert found.code == cli.DONE and b"not_assessed" in found.out, (told, found)
    assert run("check", os.fsdecode(told[1])).code == cli.DONE


def test_sql_that_is_no_text_is_one_line(out, capsys):
    assert cli.main(["query", out, "select '\udcff'"]) == cli.USAGE
    assert "UTF-8" in one_line(capsys.readouterr().err)


def test_a_long_query_draws_nothing_among_its_rows(out):
    """DuckDB draws a bar on stdout where a query takes more than two seconds, unless it is told not to."""
    done = run("query", out, "select current_setting('enable_progress_bar') as on", "--json")
    assert json.loads(done.out) == {"on": False}
