"""The sandbox from the inside: a confined process tries what an intruder would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from deephotlink.transforms.media.children.sandbox import available, landlock_abi, system_paths
from tests.builders import make_gif, make_video
from tests.numbered import ffmpeg

INTRUDER = r"""
import json, os, socket, sys, threading
path, other, layers = sys.argv[1], sys.argv[2], sys.argv[3].split("+")
from deephotlink.transforms.media.protocol import Limits
from deephotlink.transforms.media.children.sandbox import confine, limit_resources
import fcntl, signal
parent = os.getppid()
limit_resources(Limits(memory_bytes=2 << 30))
confine(path, layers)

def exec_():
    os.execv("/bin/true", ["true"])

def connect():
    with socket.socket() as sock:
        sock.settimeout(1)
        sock.connect(("127.0.0.1", 9))

def thread():
    done = []
    worker = threading.Thread(target=done.append, args=(1,))
    worker.start(); worker.join()
    assert done

def owner():
    read, _ = os.pipe()
    fcntl.fcntl(read, fcntl.F_SETOWN, parent)

tries = {
    "read_own": lambda: open(path, "rb").read(1),
    "read_other": lambda: open(other, "rb").read(1),
    "list_folder": lambda: os.listdir(os.path.dirname(other)),
    "read_environ": lambda: open("/proc/self/environ", "rb").read(1),
    "read_passwd": lambda: open("/etc/passwd", "rb").read(1),
    "import_late": lambda: __import__("wave"),
    "write_own": lambda: open(path, "ab"),
    "create": lambda: open(path + ".new", "wb"),
    "delete": lambda: os.unlink(path),
    "socket": lambda: socket.socket(),
    "unix_socket": lambda: socket.socket(socket.AF_UNIX),
    "connect": connect,
    "fork": lambda: os._exit(0) if os.fork() == 0 else None,
    "signal_parent": lambda: os.kill(parent, 0),
    "owner": owner,
    "memfd": lambda: os.memfd_create("x"),
    "thread": thread,
    "memory": lambda: bytearray(3 << 30),
    "limits": lambda: __import__("resource").setrlimit(7, (4096, 4096)),
    "exec": exec_,
}
result = {}
for name, attempt in tries.items():
    try:
        attempt()
        result[name] = "done"
    except (OSError, MemoryError, ValueError) as error:
        result[name] = type(error).__name__
print(json.dumps(result))
"""


WORKER = r"""
import json, os, sys
from deephotlink.transforms.media.children import worker
from deephotlink.transforms.media.children.sandbox import available, confine, prepare
worker.preload()
prepare(available())
for path in sys.argv[1:]:
    if os.fork() == 0:
        confine(path, available())
        before = set(sys.modules)
        from deephotlink.transforms.media.probe_file import probe
        from deephotlink.transforms.media.containers.credentials import read_credentials
        from deephotlink.transforms.media.decoders.decode_file import ItemDecoder
        from deephotlink.transforms.media.protocol import ClipRequest, DecodeRequest, Limits, WindowRequest
        facts, items = probe(path, Limits()), 0
        read_credentials(path, os.path.splitext(path)[1])
        clips, windows = (ClipRequest(0, 0.0, 1.0, (0.0, 0.5)),), (WindowRequest(0, 0, 8000, "a"),)
        for decoder in {facts["decoder"], "pyav"}:
            request = DecodeRequest(path, decoder, 96, 64, 0, clips, True, windows if facts["primary_audio"] else ())
            with ItemDecoder(request, Limits()) as decoding:
                given = decoding.items(request.clips, request.windows)
                items += sum(not hasattr(item, "error_class") for item in given)
        told = {"name": os.path.basename(path), "items": items, "late": sorted(set(sys.modules) - before)}
        print(json.dumps(told), flush=True)
        os._exit(0)
    assert os.wait()[1] == 0
"""


def test_nothing_is_imported_behind_the_lock(tmp_path: Path) -> None:
    film = make_video(tmp_path / "a.mp4", seconds=1, fps=10, audio=True)
    (tmp_path / "a.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nwords\n")
    ffmpeg("-i", film, "-i", tmp_path / "a.srt", "-c", "copy", "-c:s", "srt", tmp_path / "b.mkv")
    make_gif(tmp_path / "c.gif")
    ffmpeg("-i", film, "-c", "copy", "-attach", tmp_path / "a.srt", "-metadata:s:t", "mimetype=a/b", tmp_path / "d.mkv")
    paths = [str(film), *(str(tmp_path / name) for name in ("b.mkv", "c.gif", "d.mkv"))]
    done = subprocess.run([sys.executable, "-c", WORKER, *paths], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert {one["name"]: one["late"] for one in told} == {os.path.basename(path): [] for path in paths}
    assert all(one["items"] for one in told)


def intrude(tmp_path: Path, layers: str) -> Mapping[str, str]:
    missing = [layer for layer in layers.split("+") if layer not in available()]
    if missing:
        pytest.skip(f"this host has no {' and no '.join(missing)}: nothing can be shown about it here")
    own, other = tmp_path / "own" / "a.mp4", tmp_path / "others" / "secret.mp4"
    for path in (own, other):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    done = subprocess.run(
        [sys.executable, "-c", INTRUDER, str(own), str(other), layers], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert own.exists() and not own.with_name("a.mp4.new").exists()
    return json.loads(done.stdout)


def test_landlock_leaves_one_file_and_the_libraries(tmp_path: Path) -> None:
    got = intrude(tmp_path, "landlock")
    assert got["read_own"] == got["import_late"] == got["thread"] == "done"
    refused = ["read_other", "list_folder", "read_environ", "read_passwd", "write_own", "create", "delete", "exec"]
    assert {name: got[name] for name in refused} == dict.fromkeys(refused, "PermissionError")
    if landlock_abi() >= 6:
        assert got["signal_parent"] == "PermissionError"


def test_seccomp_leaves_no_network_and_no_programs(tmp_path: Path) -> None:
    got = intrude(tmp_path, "seccomp")
    assert got["read_own"] == got["import_late"] == got["thread"] == "done"
    refused = ["socket", "unix_socket", "connect", "exec", "fork", "signal_parent", "memfd", "write_own", "create"]
    assert {name: got[name] for name in refused} == dict.fromkeys(refused, "PermissionError")
    assert got["delete"] == "PermissionError" and got["owner"] == "OSError"


def test_both_layers_and_the_limits(tmp_path: Path) -> None:
    got = intrude(tmp_path, "landlock+seccomp")
    allowed = {"read_own", "import_late", "thread"}
    assert {name for name, outcome in got.items() if outcome == "done"} == allowed
    assert got["memory"] == "MemoryError"


def test_system_paths_hold_nobodys_files(tmp_path: Path) -> None:
    for path in system_paths():
        assert path not in ("/", "/etc", "/home", "/root", "/tmp", "/usr")
        assert not str(tmp_path).startswith(path)
        assert not str(Path.home()).startswith(path)
