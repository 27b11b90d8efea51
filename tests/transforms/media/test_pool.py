"""The pool of decoder processes: healthy files are decoded, and no file can harm another."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest

from deephotlink.transforms.failures import MediaError, UsageError, WorldError
from deephotlink.transforms.media.children import pool as pool_module
from deephotlink.transforms.media.children.decode_queue import DecodeStream
from deephotlink.transforms.media.children.handover import MAX_DEPTH, MAX_NODES, clip_bytes, parse_message
from deephotlink.transforms.media.children.pool import WorkerPool
from deephotlink.transforms.media.children.shared_pool import shared_pool
from deephotlink.transforms.media.children.sockets import blocking_pair
from deephotlink.transforms.media.containers.credentials import read_credentials
from deephotlink.transforms.media.protocol import (
    ClipRequest,
    DecodedClip,
    DecodedItem,
    DecodedWindow,
    DecodeRequest,
    ItemFailed,
    Limits,
    ProbeRequest,
    ProtocolError,
    WindowRequest,
)

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="decoder processes need Linux")

WIDTH, HEIGHT, RATE, FRAMES = 160, 120, 25, 5
CLIP_BYTES = FRAMES * HEIGHT * WIDTH * 3
IMPATIENT = Limits(item_deadline_seconds=1.0, probe_deadline_seconds=1.0)


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pool") / "healthy.mp4"
    source = [
        *("-f", "lavfi", "-i", f"testsrc=size={WIDTH}x{HEIGHT}:rate={RATE}:duration=8"),
        *("-f", "lavfi", "-i", "sine=440:duration=8"),
    ]
    codecs = ["-c:v", "libx264", "-threads", "1", "-g", str(RATE), "-pix_fmt", "yuv420p", "-c:a", "aac"]
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *source, *codecs, str(path)], check=True)
    return path


@pytest.fixture(scope="module", autouse=True)
def armed() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEEPHOTLINK_FAULTS_FOR_TESTS", "1")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "CANARY")
        yield


@pytest.fixture(scope="module")
def pool(armed: None) -> Iterator[WorkerPool]:
    pool = WorkerPool(2, 64 << 20, Limits())
    yield pool
    pool.close()


@pytest.fixture(scope="module")
def impatient(armed: None) -> Iterator[WorkerPool]:
    pool = WorkerPool(1, 64 << 20, IMPATIENT)
    yield pool
    pool.close()


def faulty(healthy: Path, tmp_path: Path, fault: str) -> Path:
    return Path(shutil.copy(healthy, tmp_path / f"fault-{fault}.mp4"))


def ask(path: Path, clips: int = 4, windows: int = 0, **fields: Any) -> DecodeRequest:
    requests = tuple(
        ClipRequest(i, float(i), i + 1.0, tuple(i + k / RATE for k in range(FRAMES))) for i in range(clips)
    )
    sound = tuple(WindowRequest(i, 16_000 * i, 16_000, "listener") for i in range(windows))
    request = DecodeRequest(str(path), "pyav", WIDTH, HEIGHT, 0, requests, False, sound)
    return replace(request, **fields)


def tell(items: list[DecodedItem]) -> list[str]:
    """`["0", "segv 1", …]`: what came, in short."""
    out = []
    for item in items:
        match item:
            case DecodedClip():
                out.append(f"clip {item.clip_index}")
            case DecodedWindow():
                out.append(f"window {item.window_index}")
            case ItemFailed():
                out.append(f"{item.error_class} {item.clip_index if item.window_index is None else item.window_index}")
    return out


def wait_until(condition: object, seconds: float = 15.0) -> bool:
    end = time.monotonic() + seconds
    while not (done := condition()) and time.monotonic() < end:  # type: ignore[operator]
        time.sleep(0.02)
    return bool(done)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def test_probe_gives_facts_and_credentials(pool: WorkerPool, healthy: Path) -> None:
    result = pool.probe(ProbeRequest(str(healthy), ".mp4", True)).result(60)
    assert result["facts"]["duration_seconds"] == pytest.approx(8.0, abs=0.2)
    assert result["credentials"] is None
    assert "credentials_error" not in result


def test_a_default_timeout_of_sockets_changes_nothing(armed: None, healthy: Path) -> None:
    """Beam sets one where it asks Google for credentials, on every Dataflow worker."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(60)
    pool = WorkerPool(1, 64 << 20, Limits())
    try:
        assert [os.get_blocking(end.fileno()) for end in blocking_pair()] == [True, True]
        assert "facts" in pool.probe(ProbeRequest(str(healthy), ".mp4", False)).result(60)
        assert tell(list(pool.decode(ask(healthy, clips=1)))) == ["clip 0"]
    finally:
        pool.close()
        socket.setdefaulttimeout(before)


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_decode_gives_the_frames_and_the_sound_asked_for(pool: WorkerPool, healthy: Path, decoder: str) -> None:
    stream = pool.decode(ask(healthy, clips=2, windows=2, decoder=decoder, clip_sound=True))
    first, second, *windows = list(stream)
    assert isinstance(first, DecodedClip) and isinstance(second, DecodedClip)
    assert first.frames.shape == (FRAMES, HEIGHT, WIDTH, 3) and first.frames.dtype == np.uint8
    assert first.frames.std() > 10 and not np.array_equal(first.frames, second.frames)
    assert np.allclose(second.pts_seconds, 1 + np.arange(FRAMES) / RATE, atol=1e-3)
    assert first.sound is not None and first.sound.dtype == np.float32 and abs(len(first.sound) - 16_000) <= 1
    assert 0.05 < np.abs(first.sound).max() <= 1
    first.frames[0] = 0  # the parent's own pages: writing is allowed and harms nobody
    assert tell(windows) == ["window 0", "window 1"]
    assert stream.worker_failure is None and stream.ready()


def test_nothing_asked_for_is_nothing_done(pool: WorkerPool, healthy: Path) -> None:
    assert list(pool.decode(ask(healthy, clips=0))) == []


@pytest.mark.parametrize(
    ("fault", "error_class", "word"),
    [
        ("segv", "worker_killed", "SIGSEGV"),
        ("abort", "worker_killed", "SIGABRT"),
        ("exit", "worker_exited", "3"),
        ("oom", "out_of_memory", "MiB"),
        ("raise", "decoder_error", "IndexError"),
    ],
)
def test_a_lost_worker_costs_the_item_it_was_at(
    pool: WorkerPool, healthy: Path, tmp_path: Path, fault: str, error_class: str, word: str
) -> None:
    neighbour = pool.decode(ask(healthy))
    stream = pool.decode(ask(faulty(healthy, tmp_path, fault)))
    items = list(stream)
    assert tell(items) == ["clip 0", f"{error_class} 1", "clip 2", f"{error_class} 3"]
    assert isinstance(items[1], ItemFailed) and word in items[1].message
    assert stream.worker_failure is not None and stream.worker_failure.error_class == error_class
    assert tell(list(neighbour)) == ["clip 0", "clip 1", "clip 2", "clip 3"]


def test_the_third_loss_ends_the_file(pool: WorkerPool, healthy: Path, tmp_path: Path) -> None:
    items = tell(list(pool.decode(ask(faulty(healthy, tmp_path, "segv"), clips=8, windows=1))))
    lost = [f"worker_killed {i}" for i in (1, 3, 5)]
    assert items == ["clip 0", lost[0], "clip 2", lost[1], "clip 4", lost[2], "worker_killed None"]


def test_a_kill_from_outside_is_forgiven_once(pool: WorkerPool, healthy: Path, tmp_path: Path) -> None:
    items = tell(list(pool.decode(ask(faulty(healthy, tmp_path, "sigkill"), clips=4))))
    assert items == ["clip 0", "clip 1", "worker_killed 2", "clip 3"]


def test_a_long_film_is_asked_for_slice_by_slice_of_one_worker(healthy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deephotlink.transforms.media.children.decode_queue.SLICE_ITEMS", 3)
    pool = WorkerPool(1, 64 << 20, Limits())
    try:
        request = ask(healthy, clips=8, windows=7, clip_sound=True)
        items = list(pool.decode(replace(request, windows=request.windows[::-1])))
        assert tell(items) == [f"clip {i}" for i in range(8)] + [f"window {i}" for i in range(7)]
        assert pool.stats.workers == 1 and pool.stats.killed == pool.stats.crashed == 0
        silent = healthy.with_name("silent.mp4")
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-i", str(healthy), "-an", "-c", "copy"]
        subprocess.run([*command, str(silent)], check=True)
        # A failure of the sound as a whole answers the windows of every slice.
        assert tell(list(pool.decode(ask(silent, clips=4, windows=7)))) == [
            *(f"clip {i}" for i in range(4)),
            "no_audio None",
        ]
    finally:
        pool.close()


def test_losses_are_of_the_item_in_any_slice(
    pool: WorkerPool, healthy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deephotlink.transforms.media.children.decode_queue.SLICE_ITEMS", 2)
    items = tell(list(pool.decode(ask(faulty(healthy, tmp_path, "segv"), clips=8, windows=1))))
    lost = [f"worker_killed {i}" for i in (1, 3, 5)]
    assert items == ["clip 0", lost[0], "clip 2", lost[1], "clip 4", lost[2], "worker_killed None"]


def test_processor_time_is_of_a_worker_and_not_of_a_file(healthy: Path, tmp_path: Path) -> None:
    """Each worker spins at its second item: the next one does that item, and nothing is lost."""
    pool = WorkerPool(1, 64 << 20, Limits(cpu_seconds=1))
    try:
        stream = pool.decode(ask(faulty(healthy, tmp_path, "spin"), clips=3))
        assert tell(list(stream)) == ["clip 0", "clip 1", "clip 2"]
        assert stream.worker_failure is None and pool.stats.workers == 3
    finally:
        pool.close()


@pytest.mark.parametrize(
    "body",
    [
        '{"facts":' + "[" * 600 + "]" * 600 + "}",
        '{"facts":' * 5000 + "1" + "}" * 5000,
        '{"facts":' + "[" * MAX_DEPTH + "]" * MAX_DEPTH + "}",
        '{"facts":[' + "0," * MAX_NODES + "0]}",
        "[]",
        '{"facts":NaN}',
    ],
)
def test_messages_too_deep_or_too_large_are_refused(body: str) -> None:
    with pytest.raises(ProtocolError):
        parse_message(body.encode())


def test_messages_of_honest_depth_are_read() -> None:
    depth = MAX_DEPTH - 1
    assert parse_message(('{"facts":' + "[" * depth + "1" + "]" * depth + "}").encode())["facts"]


@pytest.mark.parametrize("fault", ["hang", "spin"])
def test_the_deadline_kills(impatient: WorkerPool, healthy: Path, tmp_path: Path, fault: str) -> None:
    items = list(impatient.decode(ask(faulty(healthy, tmp_path, fault), clips=2, windows=1)))
    assert tell(items) == ["clip 0", "deadline 1", "window 0"]


@pytest.mark.parametrize("fault", ["seal", "shape", "index", "count", "sound", "nan"])
def test_lies_are_not_believed(pool: WorkerPool, healthy: Path, tmp_path: Path, fault: str) -> None:
    stream = pool.decode(ask(faulty(healthy, tmp_path, fault), clips=2))
    assert tell(list(stream)) == ["protocol_error 0", "protocol_error 1"]


def test_hooks_are_inert_unless_armed(healthy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DEEPHOTLINK_FAULTS_FOR_TESTS")
    pool = WorkerPool(1, 64 << 20, Limits())
    try:
        assert tell(list(pool.decode(ask(faulty(healthy, tmp_path, "segv"), clips=2)))) == ["clip 0", "clip 1"]
    finally:
        pool.close()


def test_a_probe_that_dies_is_a_media_error(impatient: WorkerPool, healthy: Path, tmp_path: Path) -> None:
    for fault, error_class in (("segv", "worker_killed"), ("hang", "deadline"), ("sigkill", "worker_killed")):
        path = faulty(healthy, tmp_path, f"probe-{fault}")
        with pytest.raises(MediaError) as caught:
            impatient.probe(ProbeRequest(str(path), ".mp4", False)).result(60)
        assert (caught.value.error_class, caught.value.stage) == (error_class, "probe")
    with pytest.raises(MediaError, match="missing"):
        impatient.probe(ProbeRequest(str(tmp_path / "gone.mp4"), ".mp4", False)).result(60)


def test_a_broken_reader_of_credentials_leaves_the_facts(pool: WorkerPool, healthy: Path, tmp_path: Path) -> None:
    path = faulty(healthy, tmp_path, "credentials-segv")
    result = pool.probe(ProbeRequest(str(path), ".mp4", True)).result(60)
    assert result["facts"] and result["credentials"] is None and "SIGSEGV" in result["credentials_error"]


@pytest.mark.real
def test_the_sandbox_lets_content_credentials_be_read(pool: WorkerPool, shared: Path) -> None:
    paths = sorted((shared / "c2pa").glob("*.mp4"))
    if not paths:
        pytest.skip("no signed mp4 in shared/c2pa")
    states = set()
    for path in paths:
        try:
            result = pool.probe(ProbeRequest(str(path), ".mp4", True)).result(60)
        except MediaError as error:
            assert error.error_class == "unreadable"  # one of them is damaged
            continue
        assert result["credentials"] == read_credentials(str(path), ".mp4")
        states.add(result["credentials"] and result["credentials"]["state"])
    assert "Valid" in states


def test_names_that_are_no_utf8(pool: WorkerPool, healthy: Path, tmp_path: Path) -> None:
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe\n%03d.mp4")
    shutil.copy(healthy, odd)
    assert pool.probe(ProbeRequest(odd, ".mp4", True)).result(60)["facts"]
    assert tell(list(pool.decode(ask(Path(odd), clips=1, decoder="decord")))) == ["clip 0"]


def test_an_oversized_clip_is_refused_before_decoding(healthy: Path) -> None:
    pool = WorkerPool(1, 64 << 20, Limits(item_bytes=1000))
    try:
        assert tell(list(pool.decode(ask(healthy, clips=1)))) == ["too_large 0"]
        assert pool.stats.workers == 0
    finally:
        pool.close()


def test_decode_ahead_keeps_its_bound(healthy: Path) -> None:
    request = ask(healthy, clips=8)
    room = int(2.5 * clip_bytes(request, request.clips[0]))
    pool = WorkerPool(2, room, Limits())
    try:
        streams = [pool.decode(request), pool.decode(request)]
        ahead = pool._core.ahead
        assert wait_until(lambda: pool.stats.items == 2)
        time.sleep(0.3)  # nothing more may come while nobody takes anything
        assert pool.stats.items == 2 and ahead.peak_bytes <= room
        assert [tell(list(stream)) for stream in streams] == [[f"clip {i}" for i in range(8)]] * 2
        # A waiting consumer's item may come on top, never more.
        assert ahead.peak_bytes <= room + clip_bytes(request, request.clips[0])
        assert ahead.used_bytes == 0
    finally:
        pool.close()


def test_taking_streams_in_any_order_ends(healthy: Path) -> None:
    pool = WorkerPool(1, CLIP_BYTES, Limits())
    try:
        first, second = pool.decode(ask(healthy, clips=3)), pool.decode(ask(healthy, clips=3))
        assert wait_until(first.ready)  # the only slot serves the first and waits for room
        assert tell(list(second)) == tell(list(first)) == ["clip 0", "clip 1", "clip 2"]
        assert pool.stats.preempted >= 1
    finally:
        pool.close()


def test_letting_a_stream_go_stops_its_work(healthy: Path) -> None:
    pool = WorkerPool(1, CLIP_BYTES, Limits())
    try:
        stream: DecodeStream | None = pool.decode(ask(healthy, clips=8))
        assert stream is not None and wait_until(stream.ready)
        stream = None
        assert wait_until(lambda: pool._core.ahead.used_bytes == 0)
        assert tell(list(pool.decode(ask(healthy, clips=1)))) == ["clip 0"]
    finally:
        pool.close()


def mapped() -> int:
    return Path("/proc/self/maps").read_text().count("memfd:deephotlink-item")


def test_memory_goes_with_the_array(pool: WorkerPool, healthy: Path) -> None:
    before, descriptors = mapped(), len(os.listdir("/proc/self/fd"))
    items = list(pool.decode(ask(healthy, clips=3, clip_sound=True)))
    sounds = [item.sound for item in items if isinstance(item, DecodedClip)]
    assert mapped() == before + 3
    assert wait_until(lambda: len(os.listdir("/proc/self/fd")) <= descriptors)
    items.clear()
    assert mapped() == before and all(sound is not None and sound.size for sound in sounds)


UNCLOSED = """
import sys
from deephotlink.transforms.media.children.shared_pool import shared_pool
from deephotlink.transforms.media.protocol import ClipRequest, DecodeRequest, Limits
clips = tuple(ClipRequest(i, float(i), i + 1.0, (float(i),)) for i in range(2))
stream = shared_pool(1, 1 << 20, Limits()).decode(DecodeRequest(sys.argv[1], "pyav", 160, 120, 0, clips))
next(stream)
"""


def test_a_program_that_closes_nothing_ends_at_once(healthy: Path, tmp_path: Path) -> None:
    path = faulty(healthy, tmp_path, "hang")
    done = subprocess.run([sys.executable, "-c", UNCLOSED, str(path)], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_killed_zygote_is_replaced(pool: WorkerPool, healthy: Path) -> None:
    request = ProbeRequest(str(healthy), ".mp4", False)
    pool.probe(request).result(60)
    for zygote in pool._core._zygotes:
        if zygote._process is not None:
            zygote._process.kill()
            zygote._process.wait()
    assert pool.probe(request).result(60)["facts"]
    assert tell(list(pool.decode(ask(healthy, clips=1)))) == ["clip 0"]


def test_children_get_no_secrets_and_ignore_the_terminal(pool: WorkerPool, healthy: Path) -> None:
    pool.probe(ProbeRequest(str(healthy), ".mp4", False)).result(60)
    process = pool._core._zygotes[-1]._process
    assert process is not None
    assert b"CANARY" not in Path(f"/proc/{process.pid}/environ").read_bytes()
    # Forking a process with threads is not sound.
    assert len(os.listdir(f"/proc/{process.pid}/task")) == 1
    command = Path(f"/proc/{process.pid}/cmdline").read_bytes()
    assert b"deephotlink" in command and b"worker" in command
    os.kill(process.pid, signal.SIGINT)
    os.kill(process.pid, signal.SIGTERM)
    assert pool.probe(ProbeRequest(str(healthy), ".mp4", False)).result(60)["facts"]
    assert process.poll() is None


def test_closing_ends_what_waits_and_leaves_no_child(healthy: Path, tmp_path: Path) -> None:
    pool = WorkerPool(1, 64 << 20, Limits())
    stream = pool.decode(ask(faulty(healthy, tmp_path, "hang"), clips=2))
    assert tell([next(stream)]) == ["clip 0"]
    process = pool._core._zygotes[0]._process
    assert process is not None
    hanging = faulty(healthy, tmp_path, "probe-hang")
    probes = [pool.probe(ProbeRequest(str(path), ".mp4", False)) for path in (hanging, healthy, healthy)]
    assert probes[2].cancel()  # by its consumer
    closer = threading.Timer(0.2, pool.close)
    closer.start()
    with pytest.raises(WorldError, match="closed"):
        next(stream)
    for waiting in probes[:2]:
        with pytest.raises(WorldError, match="closed"):
            waiting.result(20)
    closer.join()
    assert not alive(process.pid)
    with pytest.raises(WorldError, match="closed"):
        pool.decode(ask(healthy))
    with pytest.raises(WorldError, match="closed"):
        pool.probe(ProbeRequest(str(healthy), ".mp4", False))
    pool.close()


ORPHANS = """
import sys, time
from deephotlink.transforms.media.children.pool import WorkerPool
from deephotlink.transforms.media.protocol import ClipRequest, DecodeRequest, Limits
pool = WorkerPool(1, 1 << 20, Limits())
clips = tuple(ClipRequest(i, float(i), i + 1.0, (float(i),)) for i in range(2))
stream = pool.decode(DecodeRequest(sys.argv[1], "pyav", 160, 120, 0, clips))
next(stream)
zygote = pool._core._zygotes[0]
print(zygote._process.pid, zygote._pid, flush=True)
time.sleep(60)
"""


def test_no_orphan_after_the_parent_is_killed(healthy: Path, tmp_path: Path) -> None:
    path = faulty(healthy, tmp_path, "spin")
    with subprocess.Popen([sys.executable, "-c", ORPHANS, str(path)], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        children = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(children) == 2 and all(map(alive, children))
        parent.kill()
    assert wait_until(lambda: not any(map(alive, children)))


def test_the_shared_pool_stays_until_its_configuration_changes() -> None:
    first = shared_pool(1, 1 << 20, Limits())
    assert shared_pool(1, 1 << 20, Limits()) is first
    second = shared_pool(2, 1 << 20, Limits())
    assert second is not first and first._core.ahead.closed
    second.close()
    assert shared_pool(2, 1 << 20, Limits()) is not second
    shared_pool(2, 1 << 20, Limits()).close()


def test_require_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "available", lambda: ("seccomp",))
    with pytest.raises(UsageError, match="no landlock"):
        WorkerPool(1, 1 << 20, Limits(), "require")
    pool = WorkerPool(1, 1 << 20, Limits(), "auto")
    assert pool.sandbox_in_force == "seccomp"
    assert pool.warning is not None and "no landlock" in pool.warning and "seccomp alone" in pool.warning
    pool.close()
    monkeypatch.setattr(pool_module, "available", lambda: ())
    pool = WorkerPool(1, 1 << 20, Limits(), "auto")
    assert pool.sandbox_in_force == "off" and "not confined at all" in str(pool.warning)
    pool.close()
    monkeypatch.setattr(pool_module, "available", lambda: ("landlock", "seccomp"))
    pool = WorkerPool(1, 1 << 20, Limits(), "auto")
    assert pool.sandbox_in_force == "landlock+seccomp" and pool.warning is None
    pool.close()
    pool = WorkerPool(1, 1 << 20, Limits(), "off")
    assert pool.sandbox_in_force == "off" and pool.warning is None
    pool.close()
