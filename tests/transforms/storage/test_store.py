import asyncio
import errno
import fcntl
import multiprocessing
import os
import pickle
import shutil
import subprocess
import threading
import uuid

import pytest
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry

from deephotlink.transforms.failures import UsageError, WorldError
from deephotlink.transforms.storage import output_store as store_module
from deephotlink.transforms.storage import requests, retries
from deephotlink.transforms.storage.output_store import TEMPORARY, OutputStore, open_store


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path):
    return OutputStore(str(tmp_path / "out") if request.param == "local" else f"memory://{uuid.uuid4().hex}")


def test_the_first_put_stands(store):
    assert store.put_new("a/b/x.parquet", b"first")
    assert not store.put_new("a/b/x.parquet", b"second")
    assert store.read("a/b/x.parquet") == b"first"
    assert store.exists("a/b/x.parquet") and not store.exists("a/b/y.parquet")
    assert store.put_new("a/c/d/z.json", b"")
    assert store.list("a") == ["a/b/x.parquet", "a/c/d/z.json"] and store.list("a/b") == ["a/b/x.parquet"]
    assert store.folders("a") == ["b", "c"] and store.folders("none") == [] and store.list("none") == []
    with pytest.raises(FileNotFoundError):
        store.read("a/none")
    assert pickle.loads(pickle.dumps(store)) == store


def test_of_many_at_once_one_wins(store):
    wins = []
    threads = [
        threading.Thread(target=lambda n=n: wins.append(n) if store.put_new("x", b"%d" % n) else None) for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wins) == 1 and store.read("x") == b"%d" % wins[0]


def test_stores_that_keep_the_promise_pass_the_canary(store):
    opened, warning = open_store(store.root)
    assert opened == store and warning is None and store.list("_runs") == []


class LyingFileSystem(MemoryFileSystem):
    """Takes every put, as `rclone serve s3` does."""

    protocol = "s3"
    store: dict = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012

    def pipe_file(self, path, value, mode="overwrite", **kwargs):
        super().pipe_file(path, value)

    @classmethod
    def _strip_protocol(cls, path):
        return "/" + path.removeprefix("s3://").strip("/")


def test_a_store_that_lets_the_second_put_through_is_found_out(monkeypatch):
    monkeypatch.setitem(_registry, "s3", LyingFileSystem)
    opened, warning = open_store("s3://bucket/out")
    assert opened.single_committer and "run only one at a time" in warning
    assert opened.put_new("x", b"1") and not opened.put_new("x", b"2") and opened.read("x") == b"1"


def test_a_file_system_that_looks_first_and_writes_then_is_not_trusted(monkeypatch):
    monkeypatch.setitem(_registry, "looks", type("Looks", (LyingFileSystem,), {"protocol": "looks"}))
    monkeypatch.setattr(LyingFileSystem, "pipe_file", MemoryFileSystem.pipe_file)
    monkeypatch.setattr(
        LyingFileSystem, "_strip_protocol", classmethod(lambda c, p: "/" + p.split("://")[-1].strip("/"))
    )
    opened, warning = open_store("looks://out")
    assert opened.single_committer and warning
    assert opened.put_new("a/x", b"1") and not opened.put_new("a/x", b"2") and opened.list("a") == ["a/x"]


def _put_many(root, wins):
    store = OutputStore(root, single_committer=True)
    for n in range(40):
        if store.put_new(f"units/{n}", b"%d" % os.getpid()):
            wins.put(n)


def test_without_hard_links_two_processes_still_put_once(tmp_path, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    opened, warning = open_store(str(tmp_path))
    assert opened.single_committer and "no hard links" in warning
    with pytest.raises(WorldError, match="no hard links"):
        OutputStore(str(tmp_path)).put_new("x", b"1")
    context = multiprocessing.get_context("fork")
    wins = context.SimpleQueue()
    writers = [context.Process(target=_put_many, args=(str(tmp_path), wins)) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    won = []
    while not wins.empty():
        won.append(wins.get())
    assert sorted(won) == list(range(40)) and len(opened.list("units")) == 40


def test_an_unreliable_store_is_tried_again(monkeypatch):
    store, puts = OutputStore(f"memory://{uuid.uuid4().hex}", patience_seconds=1.0), []

    def flaky(self, path, value, mode="overwrite", **kwargs):
        puts.append(path)
        if len(puts) < 3:
            raise OSError(5, "503 slow down")
        if len(puts) == 3:  # the put lands, its answer does not
            MemoryFileSystem.open(self, path, "wb").close()
            raise TimeoutError

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", flaky)
    monkeypatch.setattr(retries, "interruptible_sleep", lambda _seconds: None)
    assert not store.put_new("x", b"1") and len(puts) == 3 and store.exists("x")
    puts.clear()
    monkeypatch.setattr(
        MemoryFileSystem, "pipe_file", lambda *a, **k: (_ for _ in ()).throw(OSError(5, "503?sig=CANARY"))
    )
    with pytest.raises(WorldError, match="cannot write y") as e:
        store.put_new("y", b"1")
    assert "CANARY" not in str(e.value)


def test_a_full_disk_leaves_nothing_visible(tmp_path, monkeypatch):
    store, write = OutputStore(str(tmp_path)), os.write

    def fill(fd, data):
        if len(data) > 10:
            return write(fd, data[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", fill)
    with pytest.raises(WorldError, match="no space left"):
        store.put_new("units/x.parquet", b"0123456789abcdef")
    monkeypatch.undo()
    assert os.listdir(tmp_path / "units") == []
    assert store.put_new("units/x.parquet", b"0123456789abcdef")


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="mounting a tmpfs needs root")
def test_a_really_full_disk(tmp_path):
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", tmp_path], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a tmpfs")
    try:
        store = OutputStore(str(tmp_path))
        assert store.put_new("units/a", b"x" * 100_000)
        with pytest.raises(WorldError, match="no space left"):
            store.put_new("units/b", b"x" * 300_000)
        assert os.listdir(tmp_path / "units") == ["a"]
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_an_unwritable_output_is_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="cannot write"):
        open_store(str(tmp_path / "file" / "out"))
    with pytest.raises(UsageError, match="cannot open the output"):
        open_store("nosuchthing://bucket/out")


def test_sweep_takes_what_our_dead_left_and_nothing_else(tmp_path):
    store = OutputStore(str(tmp_path))
    dead = [tmp_path / folder / "deep" / f"{TEMPORARY}{uuid.uuid4().hex}" for folder in store_module.FOLDERS]
    users = [tmp_path / f"{TEMPORARY}notes", tmp_path / f"{TEMPORARY}{uuid.uuid4().hex}"]
    users += [tmp_path / "films" / f"{TEMPORARY}{uuid.uuid4().hex}", tmp_path / "scores" / f"{TEMPORARY}notes"]
    alive = tmp_path / "scores" / f"{TEMPORARY}{uuid.uuid4().hex}"
    for path in (*dead, *users, alive):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    store.put_new("scores/unit", b"x")
    with alive.open("rb") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        store.sweep()
    assert all(path.exists() for path in (*users, alive)) and not any(path.exists() for path in dead)
    assert store.list("scores") == ["scores/unit"]


def test_a_page_is_replaced_whole_by_whoever_writes_last(store):
    pages = [bytes([65 + n]) * 50_000 for n in range(8)]
    threads = [threading.Thread(target=store.replace, args=("report.html", page)) for page in pages]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.read("report.html") in pages
    store.replace("report.html", b"last")
    assert store.read("report.html") == b"last"
    if store.is_local:
        assert sorted(os.listdir(store.root)) == ["_runs", "report.html"] and os.listdir(store.path("_runs")) == []


def test_a_page_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "out" / "report.html").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"cannot write report\.html"):
        OutputStore(str(tmp_path / "out")).replace("report.html", b"x")
    assert os.listdir(tmp_path / "out" / "_runs") == []


def _failing(monkeypatch, times, error):
    """The first so many reads of the memory file system fail; how often it is asked."""
    asked, cat_file = [], MemoryFileSystem.cat_file

    def flaky(self, path, start=None, end=None, **kwargs):
        asked.append(path)
        if len(asked) <= times:
            raise error
        return cat_file(self, path, start, end, **kwargs)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", flaky)
    monkeypatch.setattr(retries, "interruptible_sleep", lambda _seconds: None)
    return asked


def test_parts_of_an_open_file_are_asked_for_again(monkeypatch):
    store, body = OutputStore(f"memory://{uuid.uuid4().hex}"), os.urandom(3 << 20)
    store.put_new("x", body)
    asked = _failing(monkeypatch, 5, OSError(5, "503"))
    with store.open("x") as f:
        f.seek(-7, os.SEEK_END)
        assert f.read() == body[-7:] and len(asked) == 6
        f.seek(10)
        assert f.read(2_000_000) == body[10:2_000_010] and f.tell() == 2_000_010
        f.seek(0)
        assert f.read() == body and f.read(1) == b""
    with pytest.raises(FileNotFoundError):
        store.open("y")
    _failing(monkeypatch, 1_000, OSError(5, "503?sig=CANARY"))
    with pytest.raises(WorldError, match=r"cannot read x in memory:.*503") as fault, store.open("x") as f:
        f.read(1)
    assert "CANARY" not in str(fault.value)


def test_a_store_that_refuses_for_good_is_asked_once(monkeypatch):
    class Refusal(Exception):
        status = 402

    Refusal.__module__ = "aiohttp.made_up"
    store = OutputStore(f"memory://{uuid.uuid4().hex}")
    store.put_new("x", b"1")
    asked = _failing(monkeypatch, 1_000, Refusal("pay first"))
    with pytest.raises(WorldError, match="pay first"):
        store.read("x")
    assert len(asked) == 1


def test_naps_of_an_output_are_random_and_grow(monkeypatch):
    naps, store = [], OutputStore(f"memory://{uuid.uuid4().hex}")
    store.put_new("x", b"1")
    _failing(monkeypatch, 12, OSError(5, "503"))
    monkeypatch.setattr(retries, "interruptible_sleep", naps.append)
    assert store.read("x") == b"1"
    assert len(set(naps)) == 12 and all(nap <= retries.BACKOFF_SECONDS * 2**n for n, nap in enumerate(naps))


class DripFileSystem(AsyncFileSystem):
    """Does what it is asked for, in its own time."""

    protocol = "drip"
    cachable = False

    async def _cat_file(self, path, start=None, end=None, **kwargs):
        await asyncio.sleep(30)

    _pipe_file = _exists = _cat_file

    async def _info(self, path, **kwargs):
        return {"name": path, "size": 1, "type": "file"}


def test_an_output_that_drips_is_given_up(monkeypatch):
    monkeypatch.setitem(_registry, "drip", DripFileSystem)
    monkeypatch.setattr(requests, "ATTEMPT_SECONDS", 0.1)
    store = OutputStore("drip://out")
    for call in (lambda: store.read("x"), lambda: store.put_new("x", b"1"), lambda: store.exists("x")):
        with pytest.raises(
            WorldError, match=r"cannot .* x in drip://out: SlowRead: data arrived more slowly than 32 KiB"
        ):
            call()
