"""`audit --recommended --real`: pull, audit, calibrate and rescore in one command, from any interruption on."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from deephotlink.pipelines import cli, field_grade
from deephotlink.pipelines.accuracy import rescore
from deephotlink.pipelines.outputs.check import check_output
from deephotlink.pipelines.outputs.query import run_query
from deephotlink.transforms.storage import downloads, retries
from deephotlink.transforms.storage.output_names import CALIBRATION
from tests.builders import make_face_video, make_video
from tests.stand_ins import Mirror, install, make_mirror

REAL = 12
LEAN = ("metadata", "commfor_384", "audio")
"""Detectors of most tests: one that is pulled, one that comes with the package, and no search for faces."""


@pytest.fixture(scope="module")
def mirror(tmp_path_factory) -> Mirror:
    return make_mirror(tmp_path_factory.mktemp("mirror"))


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    """`archive`: three films and a text; `real`: twelve films. No two are the same."""
    folder = tmp_path_factory.mktemp("films")
    (folder / "archive").mkdir()
    (folder / "real").mkdir()
    for number in range(REAL + 3):
        name = f"real/{number:02d}.mp4" if number < REAL else f"archive/{number:02d}.mp4"
        look = {"vf": f"hue=h={23 * number}:s={1 + number / 5},boxblur={1 + number % 4}"}
        make_video(folder / name, seconds=1, fps=8, size=(192, 144), options=look)
    (folder / "archive/notes.txt").write_text("not a film")
    return folder


@pytest.fixture
def lean(mirror, monkeypatch, tmp_path) -> Mirror:
    """The stand-ins on record, and an empty cache."""
    monkeypatch.setenv("DEEPHOTLINK_WEIGHTS", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(retries, "BACKOFF_SECONDS", 0.001)
    monkeypatch.setattr(downloads, "BACKOFF_SECONDS", 0.001)
    install(monkeypatch, mirror, LEAN)
    return mirror


def audit(out: Path, *arguments: object) -> int:
    return cli.main(["audit", *map(str, arguments), "--output", str(out)])


def whole(films: Path, mirror: Mirror) -> list[object]:
    return [films / "archive", "--recommended", "--yes", "--weights-from", mirror.folder, "--real", films / "real"]


def rows(out: Path, sql: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = run_query(str(out), sql).to_pylist()
    return found


def kinds(out: Path) -> list[str]:
    """The kinds of the output's runs, in order."""
    records = [json.loads(path.read_text()) for path in sorted(out.glob("_runs/*/run.json"))]
    return [record["kind"] for record in records]


def test_one_command_does_what_four_do(films, lean, tmp_path, capsys):
    out = tmp_path / "out"
    assert audit(out, *whole(films, lean)) == cli.DONE
    said = capsys.readouterr()
    assert said.err.index("What is recommended") < said.err.index("sha256") < said.err.index("2 of 4: audit")
    assert "3 of 4: calibrate" in said.err and "4 of 4: rescore" in said.err and "59" in said.err
    # The archive's answer: its three films and its text. The twelve are told apart.
    assert "Not counted here: 12 files given as real" in said.out and "not in (select uri from known_real)" in said.out
    assert {line.split("│")[1].strip() for line in said.out.splitlines() if line.strip().startswith("all ")} == {"4"}
    words = " ".join(said.out.split())
    assert "Calibrated on 12 real files (12 groups)" in words and "Held out, 0.0% of the groups" in words
    assert "cannot prove 5.0%; that takes 59" in words and "proves 22.1%" in words and "47 more real files" in words
    assert kinds(out) == ["audit", "rescore"] and check_output(str(out)) == []
    made = json.loads((out / CALIBRATION).read_text())
    assert made["mode"] == "real_only" and made["detectors"]["commfor_384"]["weight"] == 1.0
    latest = rows(out, "select uri, authenticity, verdict, calibration_id from latest order by uri")
    assert len(latest) == 15 and {row["calibration_id"] for row in latest} == {made["calibration_id"]}
    assert [row["uri"] for row in rows(out, "select uri from known_real order by uri")] == [
        str(films / f"real/{number:02d}.mp4") for number in range(REAL)
    ]

    four = tmp_path / "four"
    assert cli.main(["weights", "pull", "--recommended"]) == cli.DONE
    names = ["--detectors", ",".join(LEAN)]
    assert audit(four, films / "archive", films / "real", *names, "--quiet") == cli.DONE
    file = tmp_path / "mine.json"
    command = ["calibrate", str(four), "--real-only", str(films / "real"), "--output", str(file)]
    assert cli.main(command) == cli.DONE
    assert cli.main(["rescore", str(four), "--calibration", str(file), "--quiet"]) == cli.DONE
    same = rows(four, "select uri, authenticity, verdict, calibration_id from latest order by uri")
    assert [{**row, "calibration_id": ""} for row in same] == [{**row, "calibration_id": ""} for row in latest]

    capsys.readouterr()
    assert audit(out, *whole(films, lean)) == cli.DONE  # nothing is left to do, and nothing is done
    said = capsys.readouterr()
    assert "Nothing is left to do" in said.out and "Calibrated on 12 real" in said.out and "sha256" not in said.err
    assert kinds(out) == ["audit", "rescore"]
    assert json.loads((out / CALIBRATION).read_text()) == made


class Cut:
    """Lets the first calls of a function through, and interrupts at the next one, before or after its work."""

    def __init__(self, patch: pytest.MonkeyPatch, module: Any, name: str, through: int = 0, after: bool = False):
        self.real, self.left, self.after = getattr(module, name), through, after
        patch.setattr(module, name, self)

    def __call__(self, *given: Any, **more: Any) -> Any:
        self.left -= 1
        if self.left >= 0:
            return self.real(*given, **more)
        if self.after:
            self.real(*given, **more)
        raise KeyboardInterrupt


CUTS = [
    (field_grade, "pull_for_audit", True),  # pulled, and nothing planned
    (field_grade, "audit_config", False),
    (field_grade, "audit_archive", False),
    (field_grade, "find_real", False),  # audited
    (field_grade, "mark", True),  # marked
    (field_grade, "settled", False),  # calibrated, and not stored
    (field_grade, "settled", True),  # stored
    (rescore, "finish_rescoring", False),  # planned, and nothing rescored
    (field_grade, "rescore_output", True),  # rescored, and nothing printed
]


def test_the_same_command_continues_between_any_two_stages_and_does_nothing_twice(films, lean, tmp_path, capsys):
    out, pulls = tmp_path / "out", []
    before: dict[str, bytes] = {}
    for module, name, after in CUTS:
        with pytest.MonkeyPatch.context() as patch:
            Cut(patch, module, name, after=after)
            assert audit(out, *whole(films, lean)) == cli.INTERRUPTED, name
        said = capsys.readouterr()
        pulls.append(said.err.count("sha256"))
        assert "the same command continues" in said.err and "What was found" not in said.out
        committed = {str(path): path.read_bytes() for path in out.glob("_runs/*/units/*.parquet")}
        assert before.items() <= committed.items(), "what was committed before was done again"
        before = committed
    assert pulls == [1, *[0] * (len(CUTS) - 1)]
    assert audit(out, *whole(films, lean)) == cli.DONE
    assert kinds(out) == ["audit", "rescore"] and check_output(str(out)) == []
    assert "Not counted here: 12 files" in capsys.readouterr().out


def test_a_server_that_is_away_ends_in_75_before_anything_is_planned(films, lean, tmp_path, capsys):
    out = tmp_path / "out"
    given = [films / "archive", "--recommended", "--yes", "--real", films / "real"]
    assert audit(out, *given) == cli.AGAIN
    said = capsys.readouterr().err
    assert "commfor_384" in said and "--weights-from URL" in said and "the same command continues" in said
    assert kinds(out) == []
    assert audit(out, films / "archive", "--recommended", "--real", films / "real") == cli.USAGE  # nobody agreed
    assert "--yes" in capsys.readouterr().err and kinds(out) == []
    wrong = tmp_path / "wrong"
    shutil.copytree(lean.folder, wrong)
    file = wrong / "commfor_384/model.safetensors"
    file.write_bytes(b"\0" * file.stat().st_size)
    assert audit(out, *given, "--weights-from", wrong) == cli.USAGE
    assert "expected sha256" in capsys.readouterr().err and kinds(out) == [] and not list(tmp_path.glob("cache/*/*"))


def test_once_they_are_here_nobody_on_the_network_is_asked(films, lean, monkeypatch, tmp_path):
    shutil.copytree(lean.folder, tmp_path / "cache")
    real, tried = socket.socket.connect, []

    def connect(self, address):
        if self.family == socket.AF_UNIX:
            return real(self, address)
        tried.append(address)
        raise OSError("no network")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *asked, **more: tried.append(asked))
    assert audit(tmp_path / "out", films / "archive/12.mp4", "--recommended", "--quiet") == cli.DONE
    assert tried == [] and rows(tmp_path / "out", "select distinct detector from evidence where logit is not null")


def test_a_copy_of_the_users_own_is_not_pulled(films, lean, tmp_path):
    given = ["--recommended", "--weights", f"commfor_384={lean.file('commfor_384')}", "--quiet"]
    assert audit(tmp_path / "out", films / "archive/12.mp4", *given) == cli.DONE
    assert not (tmp_path / "cache").exists()


def test_real_files_inside_the_source_are_audited_once(films, lean, tmp_path, capsys):
    out = tmp_path / "out"
    given = ["--detectors", "commfor_384", "--real", films / "real"]
    shutil.copytree(lean.folder, tmp_path / "cache")
    assert audit(out, films, *given) == cli.DONE
    said = capsys.readouterr()
    assert "listed more than once, audited once: 12" in said.err and "Not counted here: 12 files" in said.out
    assert "1 of 3: audit" in said.err and "What is recommended" not in said.err
    assert rows(out, "select count(*) as n from latest") == [{"n": 15}] and kinds(out) == ["audit", "rescore"]
    # A file that comes later is audited and rescored; nothing else is.
    make_video(films / "archive/late.mp4", seconds=1, fps=8, pattern="bars")
    try:
        assert audit(out, films, *given, "--quiet") == cli.DONE
    finally:
        (films / "archive/late.mp4").unlink()
    assert kinds(out) == ["audit", "rescore", "audit", "rescore"]
    assert rows(out, "select calibration_id, count(*) as n from latest group by 1")[0]["n"] == 16
    last = max(out.glob("_runs/*/run.json"))
    assert json.loads(last.read_text())["planned"] == 1


def test_too_few_real_files_are_told_before_the_work(films, lean, tmp_path, capsys):
    out, empty, few = tmp_path / "out", tmp_path / "empty", tmp_path / "few"
    empty.mkdir()
    few.mkdir()
    assert audit(out, films / "archive", "--recommended", "--yes", "--real", empty) == cli.NOTHING
    for number in range(3):
        shutil.copy(films / f"real/0{number}.mp4", few)
    capsys.readouterr()
    assert audit(out, films / "archive", "--recommended", "--yes", "--real", few) == cli.USAGE
    said = capsys.readouterr().err
    assert "holds 3 files" in said and "at least 10" in said and "59" in said and kinds(out) == []
    assert audit(out, films / "archive", "--real", tmp_path / "none") == cli.USAGE
    assert kinds(out) == [] and not (tmp_path / "cache").exists()


def test_real_files_that_cannot_be_read_leave_the_audit_as_it_is(films, lean, tmp_path, capsys):
    out, broken = tmp_path / "out", tmp_path / "broken"
    broken.mkdir()
    shutil.copytree(lean.folder, tmp_path / "cache")
    data = (films / "real/00.mp4").read_bytes()
    for number in range(REAL):
        (broken / f"{number}.mp4").write_bytes(data[: 200 + number])
    command = [films / "archive", "--detectors", "commfor_384", "--real", broken]
    assert audit(out, *command) == cli.USAGE
    said = capsys.readouterr()
    assert "no file of" in said.err and "12 could not be read" in said.err and "at least 10" in said.err
    assert "What was found" in said.out and kinds(out) == ["audit"] and not (out / CALIBRATION).exists()


def test_copies_of_one_file_prove_no_more_than_it_does(films, lean, tmp_path, capsys):
    out, copies = tmp_path / "out", tmp_path / "copies"
    shutil.copytree(lean.folder, tmp_path / "cache")
    shutil.copytree(films / "real", copies)
    for number in range(4):
        shutil.copy(films / "real/00.mp4", copies / f"copy-{number}.mp4")
    assert audit(out, films / "archive", "--detectors", "commfor_384", "--real", copies, "--json") == cli.DONE
    told = json.loads(capsys.readouterr().out)
    assert told["calibration"]["false_positives"]["groups"] == REAL and told["calibration"]["rescored"] == REAL + 7
    assert not told["calibration"]["false_positives"]["proven"] and sum(told["known_real"].values()) == REAL + 4


def test_another_folder_replaces_the_first_and_leaves_no_run_unfinished(films, lean, tmp_path, capsys):
    out, other = tmp_path / "out", films / "real/*[1-9].mp4"
    shutil.copytree(lean.folder, tmp_path / "cache")
    given = [films / "archive", "--detectors", "commfor_384", "--quiet"]
    with pytest.MonkeyPatch.context() as patch:
        Cut(patch, rescore, "finish_rescoring")
        assert audit(out, *given, "--real", films / "real") == cli.INTERRUPTED
    assert audit(out, *given, "--real", other) == cli.DONE
    assert rows(out, "select count(*) as n from known_real") == [{"n": 10}]
    assert rows(out, "select count(distinct calibration_id) as n from latest") == [{"n": 1}]
    assert cli.main(["check", str(out)]) == cli.DONE, capsys.readouterr().out


def test_calibrate_takes_the_files_of_a_source_as_real(films, lean, tmp_path, capsys):
    out, file = tmp_path / "out", tmp_path / "mine.json"
    shutil.copytree(lean.folder, tmp_path / "cache")
    assert audit(out, films, "--detectors", "commfor_384", "--quiet") == cli.DONE

    def calibrate(*arguments: object) -> tuple[int, str]:
        code = cli.main(["calibrate", *map(str, arguments), "--output", str(file)])
        said = capsys.readouterr()
        return code, " ".join((said.out + said.err).split())

    def groups() -> int:
        found: int = json.loads(file.read_text())["labels"]["media"]["real"]["groups"]
        return found

    code, said = calibrate(out, "--real-only", films / "real")
    assert code == cli.DONE and groups() == REAL and f"the files of {films / 'real'} taken as real" in said
    assert calibrate("--real-only", films / "real", out)[0] == cli.DONE and groups() == REAL
    listing = tmp_path / "listing.csv"
    listing.write_text("uri\n" + "".join(f"{films}/real/{number:02d}.mp4\n" for number in range(REAL - 1)))
    assert calibrate(out, "--real-only", listing)[0] == cli.DONE and groups() == REAL - 1
    twice = ["--real-only", films / "real/0*.mp4", "--real-only", films / "real/1*.mp4"]
    assert calibrate(out, *twice)[0] == cli.DONE and groups() == REAL
    # Without a source it takes all files, wherever OUT stands.
    for bare in ([out, "--real-only"], ["--real-only", out]):
        assert calibrate(*bare)[0] == cli.DONE and groups() == REAL + 3
    # Labels name groups, and must not contradict.
    labels = tmp_path / "groups.csv"
    labels.write_text("uri,label,group\nreal/00.mp4,real,one\nreal/01.mp4,real,one\narchive/12.mp4,real,\n")
    assert calibrate(out, "--real-only", films / "real", "--labels", labels)[0] == cli.DONE and groups() == REAL
    labels.write_text("uri,label\nreal/03.mp4,fake\n")
    code, said = calibrate(out, "--real-only", films / "real", "--labels", labels)
    assert code == cli.USAGE and "line 2" in said and "fake" in said
    assert calibrate(out, "--real-only", "--labels", labels)[0] == cli.USAGE
    # Files that are not in OUT are named, with what to do.
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(films / "real", elsewhere)
    code, said = calibrate(out, "--real-only", elsewhere)
    assert code == cli.USAGE and "12 files" in said and f"deephotlink audit {elsewhere} --output {out}" in said
    assert calibrate("--labels", labels)[0] == cli.USAGE and calibrate(out)[0] == cli.USAGE
    (tmp_path / "nothing").mkdir()
    assert calibrate(out, "--real-only", tmp_path / "nothing")[0] == cli.NOTHING


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--recommended", "--detectors", "audio"], "not both"),
        (["--yes"], "goes with --recommended"),
        (["--weights-from", "/m"], "goes with --recommended"),
        (["--real", "{films}/real", "--limit", "2"], "--limit"),
    ],
)
def test_options_that_contradict_each_other(given, says, films, lean, tmp_path, capsys):
    command = [text.format(films=films) for text in given]
    assert audit(tmp_path / "out", films / "archive", *command) == cli.USAGE
    assert says in capsys.readouterr().err and not (tmp_path / "out/_runs").exists()


def test_a_dry_run_pulls_and_writes_nothing(films, lean, tmp_path, capsys):
    out = tmp_path / "out"
    assert audit(out, *whole(films, lean), "--dry-run") == cli.DONE
    said = capsys.readouterr()
    assert "What is recommended" in said.err and "to pull first: commfor_384" in said.err
    assert "files: video" in said.out and "15" in said.out and not out.exists() and not (tmp_path / "cache").exists()


def test_with_all_detectors_the_recommended_ones_and_the_embedded_ones_give_evidence(
    mirror, monkeypatch, tmp_path, capsys
):
    monkeypatch.setenv("DEEPHOTLINK_WEIGHTS", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    specs = install(monkeypatch, mirror)
    film = make_face_video(tmp_path / "face.mp4", seconds=3)
    given = ["--recommended", "--yes", "--weights-from", mirror.folder, "--quiet"]
    assert audit(tmp_path / "out", film, *given) == cli.DONE
    found = {
        row["detector"]: row for row in rows(tmp_path / "out", "select detector, logit, weights_sha256 from evidence")
    }
    embedded = {name for name, spec in specs.items() if spec.origin == "embedded"}
    assert found.keys() == embedded | {"gend_clip_l14", "commfor_384"}
    for name in ("gend_clip_l14", "commfor_384"):
        assert found[name]["logit"] is not None and found[name]["weights_sha256"] == specs[name].weights_sha256
    assert "What is recommended" in capsys.readouterr().err  # also with --quiet: it has to be agreed to
