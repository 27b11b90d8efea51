"""A file's content or name cannot make us fetch anything: strace records every opened file, connection and program."""

from __future__ import annotations

import codecs
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.builders import make_video
from tests.chaos.launching import REPOSITORY
from tests.chaos.readers import MARKER
from tests.chaos.tricks import contents, names
from tests.numbered import ffmpeg


def _strace_works() -> bool:
    """Some containers have the program but forbid what it does."""
    try:
        return subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, timeout=60).returncode == 0
    except OSError:
        return False


pytestmark = pytest.mark.skipif(
    not _strace_works(), reason="strace is not installed (apt-get install strace), or may not trace here"
)
CALLS = "open,openat,openat2,creat,connect,sendto,execve,execveat"
FOREIGN = "foreign-canary"


@dataclass
class Listener:
    """Somebody else's server: counts the connections."""

    calls: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._answer, daemon=True).start()

    def _answer(self) -> None:
        while True:
            try:
                caller, _ = self._socket.accept()
            except OSError:
                return
            with caller:
                caller.settimeout(2)
                try:
                    self.calls.append(caller.recv(200))
                    caller.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                except OSError:
                    self.calls.append(b"")

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener()
    yield made
    made.close()


@pytest.fixture
def archive(tmp_path: Path, listener: Listener) -> Path:
    """Every trick, each in its own folder with a good file that it could fetch, and a shard with all of them."""
    foreign = tmp_path / FOREIGN / "film.mp4"
    foreign.parent.mkdir()
    make_video(foreign, seconds=1, fps=8, size=(64, 48), audio="tone")
    movie = tmp_path / "plain.mov"
    ffmpeg("-i", foreign, "-c", "copy", movie)
    film = foreign.read_bytes()
    folder = tmp_path / "archive"
    folder.mkdir()
    ffmpeg("-i", foreign, "-c", "copy", folder / "sibling.ts")
    for name, content in contents(film, movie.read_bytes(), foreign, listener.url).items():
        (folder / name).write_bytes(content)
    for number, name in enumerate(names(listener.url, foreign)):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(film + b"\0\0\0\x0cfree" + number.to_bytes(4, "big"))
    packed = tmp_path / "shard.tar"
    with tarfile.open(packed, "w") as shard:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            shard.add(path, str(path.relative_to(folder)))
    packed.rename(folder / "shard.tar")
    return folder


def traced(log: Path, cwd: Path, *arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    """Runs the command under strace, which follows children and threads."""
    strace = ["strace", "-f", "-qq", "--seccomp-bpf", "-s", "4096", "-e", f"trace={CALLS}", "-e", "signal=none"]
    code = f"import os, runpy, sys; os.chdir({str(cwd)!r}); sys.path[0] = {str(REPOSITORY)!r}; "
    code += "sys.argv = sys.argv[1:]; runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
    command = [*strace, "-o", str(log), sys.executable, "-c", code, *map(str, arguments)]
    # cv2, imported in this process by other tests, leaves a path that has the loader look in the working directory too.
    environment = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
    return subprocess.run(command, capture_output=True, timeout=600, env=environment)


def internet(lines: list[str]) -> list[str]:
    return [line for line in lines if "AF_INET" in line]


def opened(line: str) -> Path | None:
    """The path that the call in this line of the log tried to open, whether or not it succeeded."""
    match = re.search(r'(?:open\w*|creat)\((?:\w+, )?"((?:[^"\\]|\\.)*)"', line)
    return Path(os.fsdecode(codecs.escape_decode(match[1])[0])) if match else None  # type: ignore[attr-defined]


def foreign_to(lines: list[str], folder: Path) -> dict[str, list[Path]]:
    """Trick → the files opened while it was read that are not its own: others in the folder (the working directory),
    and the foreign one."""
    found: dict[str, list[Path]] = {}
    now = ""
    for line in lines:
        if (path := opened(line)) is None:
            continue
        if path.is_relative_to(MARKER):
            now = str(path.relative_to(MARKER))
        elif now and now != "end":
            path = folder / path
            if path not in (folder, folder / now) and (path.is_relative_to(folder) or FOREIGN in path.parts):
                found.setdefault(now, []).append(path)
    return found


def test_the_watch_sees_a_careless_program(archive: Path, tmp_path: Path, listener: Listener) -> None:
    """Without our allow-list the tricks work, so the other tests would notice them."""
    log = tmp_path / "log"
    done = traced(log, archive, "tests.chaos.readers", archive, "--naked")
    assert done.returncode == 0, done.stderr
    lines = log.read_text(errors="replace").splitlines()
    fetched = foreign_to(lines, archive)
    print(f"{len(fetched)} tricks work on a careless program: {sorted(fetched)}; {len(listener.calls)} calls")
    assert {"playlist.m3u8", "concat.ffconcat", "concat-as.avi", "alias.mov", "alias-relative.mov"} <= set(fetched)
    assert {"concat:a.mp4|sibling.ts", "subfile,,start,0,end,9,,:sibling.ts", "frame%03d.png"} <= set(fetched)
    assert internet(lines) and listener.calls


def test_no_reader_fetches_anything(archive: Path, tmp_path: Path, listener: Listener) -> None:
    """Each reader on each file, whatever the probe would have decided, without a sandbox."""
    log = tmp_path / "log"
    done = traced(log, archive, "tests.chaos.readers", archive)
    assert done.returncode == 0, done.stderr
    lines = log.read_text(errors="replace").splitlines()
    assert sum(MARKER in line for line in lines) == 1 + sum(path.is_file() for path in archive.rglob("*"))
    assert foreign_to(lines, archive) == {}
    assert internet(lines) == [] and listener.calls == []
    assert sum("execve" in line for line in lines) == 1


@pytest.mark.parametrize("sandbox", ["auto", "off"])
def test_a_whole_audit_fetches_nothing(archive: Path, tmp_path: Path, listener: Listener, sandbox: str) -> None:
    log, out = tmp_path / "log", tmp_path / "out"
    options = ("--detectors", "metadata,chaos_look,chaos_listen", "--quiet", f"--sandbox={sandbox}")
    done = traced(log, archive, "tests.chaos.job", "audit", ".", "--output", out, *options)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    lines = log.read_text(errors="replace").splitlines()
    assert len(lines) > 1_000 and any("sibling.ts" in line for line in lines)
    assert [path for path in map(opened, lines) if path is not None and FOREIGN in path.parts] == []
    assert internet(lines) == [] and listener.calls == []
    programs = {match[1] for line in lines if (match := re.search(r'execve\("([^"]*)"', line))}
    # Python's platform asks uname, ctypes asks ldconfig where a library is.
    assert {Path(program).name for program in programs} <= {"python", Path(sys.executable).name, "uname", "ldconfig"}
    assert list(tmp_path.rglob("touched-*")) == []
    assert shutil.which("touch")
