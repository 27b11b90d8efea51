"""Large remote films are fetched as they are read: the same frames from a small part of the bytes, never from half a
file."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest

from deephotlink.models.base import ClipGeometry
from deephotlink.models.calibration.calibration import load_calibration
from deephotlink.transforms.clips import Sampling, plan_decoding
from deephotlink.transforms.decode import DecodeTally, decode_request
from deephotlink.transforms.failures import MediaError, WorldError
from deephotlink.transforms.fuse import fuse_media
from deephotlink.transforms.listing import list_sources
from deephotlink.transforms.media.children import feeding
from deephotlink.transforms.media.children.pool import WorkerPool
from deephotlink.transforms.media.containers import fed_file, opening
from deephotlink.transforms.media.protocol import DecodedClip, Limits
from deephotlink.transforms.probe import probe_media
from deephotlink.transforms.records import Evidence, MediaFile, MediaOutcome, MediaProbe
from deephotlink.transforms.staging import spool_files, spool_space
from deephotlink.transforms.staging.sparse_files import SparseFile
from deephotlink.transforms.staging.spool_space import SpoolRoom
from deephotlink.transforms.storage import requests

MiB = 1 << 20


def make_large_film(path: Path, size_bytes: int) -> Path:
    """Key frames of noise, the same few again and again, and sound: a camera's film, made in a second."""
    rng = np.random.default_rng(5)
    pictures = [rng.integers(0, 256, (360, 640, 3), np.uint8) for _ in range(3)]
    with av.open(str(path), "w") as out:
        video, sound = out.add_stream("mjpeg", rate=25), out.add_stream("pcm_s16le", rate=16_000)
        video.width, video.height, video.pix_fmt = 640, 360, "yuvj420p"
        video.codec_context.qmin = video.codec_context.qmax = 2
        encoded = []
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts = number
            encoded += [bytes(packet) for packet in video.encode(frame)]
        total = frames = 0
        while total < size_bytes:
            packet = av.Packet(encoded[frames % len(encoded)])
            packet.stream, packet.pts, packet.dts, packet.duration = video, frames, frames, 1
            packet.time_base, packet.is_keyframe = video.codec_context.time_base, True
            out.mux(packet)
            heard = av.AudioFrame.from_ndarray(rng.integers(-9_000, 9_000, (1, 640), np.int16), "s16", "mono")
            heard.sample_rate, heard.pts = 16_000, 640 * frames
            out.mux(sound.encode(heard))
            total, frames = total + packet.size, frames + 1
    return path


@dataclass
class Server:
    path: Path
    etag: str = '"first"'
    served_bytes: int = 0
    requests: int = 0
    pause_at: int = -1
    """The request that it answers after `pause_seconds`."""
    pause_seconds: float = 0.0
    fail_after: int | None = None
    """Requests, after which it answers `failing`."""
    failing: int = 503
    cut_short: bool = False
    ranges: bool = True
    url: str = field(init=False, default="")


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    return make_large_film(tmp_path_factory.mktemp("large") / "film.mov", spool_files.RANGED_BYTES + 20 * MiB)


@pytest.fixture
def web(film) -> Iterator[Server]:
    state = Server(film)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.head(200, state.path.stat().st_size)

        def do_GET(self) -> None:
            state.requests += 1
            if state.requests == state.pause_at:
                time.sleep(state.pause_seconds)
            if state.fail_after is not None and state.requests > state.fail_after:
                return self.head(state.failing, 0)
            size, wanted = state.path.stat().st_size, self.headers.get("Range", "") if state.ranges else ""
            first, last = (int(n) for n in wanted.removeprefix("bytes=").split("-")) if wanted else (0, size - 1)
            length = last - first + 1 - (7 if state.cut_short else 0)
            self.head(206 if wanted else 200, length)
            with state.path.open("rb") as file:
                file.seek(first)
                while length > 0 and (part := file.read(min(length, MiB))):
                    self.wfile.write(part)
                    state.served_bytes += len(part)
                    length -= len(part)
            return None

        def head(self, status: int, length: int) -> None:
            self.send_response(status)
            self.send_header("ETag", state.etag)
            self.send_header("Content-Length", str(length))
            self.send_header("Accept-Ranges", "bytes" if state.ranges else "none")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    state.url = f"http://127.0.0.1:{server.server_port}/film.mov"
    yield state
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    pool = WorkerPool(1, 256 * MiB, Limits(probe_deadline_seconds=10.0, item_deadline_seconds=10.0))
    yield pool
    pool.close()


@pytest.fixture
def spool(tmp_path) -> Iterator[Path]:
    folder = tmp_path / "spool"
    folder.mkdir()
    yield folder
    for left in folder.iterdir():
        spool_files.remove(str(left))
    assert spool_space.ROOM._used_bytes == 0


def listed(source: object) -> MediaFile:
    (entry,) = list_sources([str(source)])
    return entry.file


def probed(file: MediaFile, pool: WorkerPool, spool: Path) -> MediaProbe | MediaOutcome:
    return probe_media((file, None), pool, spool, True, 1 << 40, 1e6)


def plan_of(probe: MediaProbe, every_seconds: float = 10.0):
    geometry = ClipGeometry(frames=4, frame_rate=8.0, short_side=90)
    return plan_decoding(probe, Sampling(every_seconds=every_seconds), lambda _: geometry, True, lambda _: ())


def decoded(probe: MediaProbe, pool: WorkerPool) -> list[DecodedClip]:
    items = list(pool.decode(decode_request(plan_of(probe))))
    assert all(isinstance(item, DecodedClip) for item in items), items
    return items  # type: ignore[return-value]


def test_a_large_remote_film_gives_the_same_frames_for_few_bytes(film, web, pool, spool) -> None:
    here, there = probed(listed(film), pool, spool), probed(listed(web.url), pool, spool)
    assert isinstance(here, MediaProbe) and isinstance(there, MediaProbe)
    assert there.path_is_ours and not here.path_is_ours
    assert (here.key_frame_seconds, here.duration_seconds, here.decoder, here.credentials) == (
        there.key_frame_seconds,
        there.duration_seconds,
        there.decoder,
        there.credentials,
    )
    wanted, found = decoded(here, pool), decoded(there, pool)
    assert len(found) == len(wanted) >= 4
    for a, b in zip(wanted, found, strict=True):
        assert np.array_equal(a.frames, b.frames) and np.array_equal(a.pts_seconds, b.pts_seconds)
        assert a.sound is not None and b.sound is not None and np.array_equal(a.sound, b.sound)
    size = film.stat().st_size
    print(f"{web.requests} requests, {web.served_bytes / MiB:.0f} MiB of {size / MiB:.0f}")
    assert web.served_bytes < 0.4 * size
    # It takes no more room on the disk than came, and none once it is done with.
    assert os.stat(there.path).st_blocks * 512 < web.served_bytes + MiB
    spool_files.refuse_partial(there.file, there.path)
    spool_files.remove(there.path)
    assert list(spool.iterdir()) == [] and feeding.source_of(there.path) is None
    assert spool_space.ROOM._used_bytes == 0


def test_what_is_scanned_whole_is_staged_whole() -> None:
    """Else a remote film might be decoded by another decoder than the same film at home."""
    assert spool_files.RANGED_BYTES == opening.SCAN_BYTES


def test_a_slow_store_is_not_held_against_the_decoder(web, spool) -> None:
    hasty = WorkerPool(1, 256 * MiB, Limits(probe_deadline_seconds=4.0, item_deadline_seconds=4.0))
    try:
        web.pause_at, web.pause_seconds = 2, 6.0
        probe = probed(listed(web.url), hasty, spool)
        assert isinstance(probe, MediaProbe), probe
        web.pause_at = web.requests + 2
        assert len(decoded(probe, hasty)) >= 4 and web.requests > web.pause_at
    finally:
        hasty.close()


def test_an_outage_in_the_middle_is_the_worlds_fault(web, pool, spool, no_naps) -> None:
    probe = probed(listed(web.url), pool, spool)
    assert isinstance(probe, MediaProbe)
    web.fail_after = web.requests + 2
    with pytest.raises(WorldError, match="503"):
        list(pool.decode(decode_request(plan_of(probe))))


@pytest.mark.parametrize(("spoil", "error_class"), [("short", "read_short"), ("gone", "missing")])
def test_an_object_at_fault_in_the_middle_ends_its_film(web, pool, spool, no_naps, spoil, error_class) -> None:
    probe = probed(listed(web.url), pool, spool)
    assert isinstance(probe, MediaProbe)
    if spoil == "short":
        web.cut_short = True
    else:
        web.fail_after, web.failing = web.requests, 404
    items = list(pool.decode(decode_request(plan_of(probe))))
    assert [getattr(item, "error_class", None) for item in items] == [error_class]
    with pytest.raises(MediaError) as fault:
        spool_files.refuse_partial(probe.file, probe.path)
    assert fault.value.error_class == error_class


def test_a_film_that_is_replaced_while_it_is_read_is_not_scored(web, pool, spool) -> None:
    probe = probed(listed(web.url), pool, spool)
    assert isinstance(probe, MediaProbe)
    tally = DecodeTally(plan_of(probe))
    for item in pool.decode(decode_request(tally.plan)):
        tally.add(item)
    assert tally.outcome().status == "read"
    web.etag = '"second"'
    with pytest.raises(MediaError) as fault:
        spool_files.refuse_partial(probe.file, probe.path)
    tally.source_failure = fault.value
    outcome = tally.outcome()
    assert outcome.status == "failed" and outcome.failure is not None
    assert (outcome.failure.stage, outcome.failure.error_class) == ("read", "changed")
    # Though its detectors had something to say.
    said = Evidence(probe.file.media_id, "facial", "facial", "", clip_index=0, logit=9.0)
    result = fuse_media([outcome, said], [], load_calibration())
    assert result.outcome.status == "failed" and result.score is None and result.evidence == ()


def test_servers_without_ranges_give_it_whole(web, spool, monkeypatch) -> None:
    monkeypatch.setattr(spool_files, "RANGED_BYTES", MiB)
    web.ranges, web.path = False, web.path.with_name("small.bin")
    web.path.write_bytes(b"\0\0\0\x18ftypmp42" + bytes(2 * MiB))
    staged = spool_files.stage(listed(web.url), spool)
    assert feeding.source_of(staged.path) is None
    assert Path(staged.path).read_bytes() == web.path.read_bytes()
    staged.release()
    assert list(spool.iterdir()) == []


class Counted:
    """A blob that is read in a straight line or not."""

    def __init__(self, data: bytes):
        self.data, self.asked = data, []

    def read(self, start: int, length: int) -> bytes:
        self.asked.append((start, length))
        return self.data[start : start + length]


def test_blocks_come_once_and_in_larger_pieces_where_reading_goes_on(tmp_path) -> None:
    data = np.random.default_rng(1).integers(0, 256, 21 * MiB + 5, np.uint8).tobytes()
    blob = Counted(b"tar" + data)
    source = SparseFile(blob, 3, len(data), tmp_path / "film")  # type: ignore[arg-type]
    source.fetch(5 * MiB, 10)
    source.fetch(5 * MiB + 3, 100)
    source.fetch(len(data) - 1, 50)
    assert blob.asked == [(5 * MiB + 3, MiB), (21 * MiB + 3, 5)]
    source.fetch(0, len(data))
    assert Path(source.path).read_bytes() == data
    assert sum(length for _, length in blob.asked) == len(data) == source.fetched_bytes
    assert max(length for _, length in blob.asked) <= 8 * MiB and len(blob.asked) < 8

    straight = Counted(data)
    source = SparseFile(straight, 0, len(data), tmp_path / "straight")  # type: ignore[arg-type]
    for at in range(0, len(data), 256 << 10):
        source.fetch(at, 256 << 10)
    assert [length // MiB for _, length in straight.asked][:4] == [1, 2, 4, 8] and len(straight.asked) < 8


@pytest.mark.parametrize("asked", [(1 << 63, 5), (0, 1 << 63), (90, 1_000), (100, 1), ((1 << 64) - 1, (1 << 64) - 1)])
def test_a_worker_that_was_taken_over_gets_no_more_than_its_file(asked) -> None:
    fetched = []
    source = SimpleNamespace(path="/film", size_bytes=100, fetch=lambda start, length: fetched.append((start, length)))
    feeder = feeding.Feeder(source)
    feeder.theirs.settimeout(5)
    feeder.theirs.sendall(struct.pack("<QQ", *asked))
    assert feeder.theirs.recv(1) == fed_file.HERE
    assert all(start >= 0 and length > 0 and start + length <= 100 for start, length in fetched)
    feeder.close()
    assert feeder.theirs.recv(1) == b""


def test_a_worker_that_is_not_fed_learns_nothing(tmp_path) -> None:
    def fetch(start: int, length: int) -> None:
        raise WorldError("cannot read it: 503")

    feeder = feeding.Feeder(SimpleNamespace(path="/film", size_bytes=100, fetch=fetch))
    feeder.theirs.settimeout(5)
    feeder.theirs.sendall(struct.pack("<QQ", 0, 10))
    with pytest.raises((ConnectionError, EOFError)):
        if not feeder.theirs.recv(1, socket.MSG_WAITALL):
            raise EOFError
    assert isinstance(feeder.error, WorldError)


def test_fed_files_are_files(tmp_path, monkeypatch) -> None:
    path = tmp_path / "film"
    path.write_bytes(bytes(range(256)) * 10)
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(fed_file, "_ask_for", lambda start, length: asked.append((start, length)))
    with fed_file.FedFile(str(path)) as file:
        assert file.seek(0, os.SEEK_END) == file.tell() == 2560 and file.read(5) == b""
        assert file.seek(-2, os.SEEK_END) == 2558 and file.read(9) == b"\xfe\xff"
        assert file.seek(10) == 10 and file.seek(3, os.SEEK_CUR) == 13 and file.read(2) == b"\x0d\x0e"
        with pytest.raises(ValueError, match="no place before"):
            file.seek(-1)
    assert asked == [(2558, 2), (13, 2)]


def test_room_is_given_in_order_and_bounded(tmp_path) -> None:
    spool = SpoolRoom()
    spool.bound(100, tmp_path)
    first, second, third, fourth = (spool.ticket() for _ in range(4))
    got: list[str] = []

    def take(name: str, ticket: int, size: int) -> None:
        spool.take(ticket, size)
        spool.hold(name, size)
        got.append(name)

    def started(*arguments) -> threading.Thread:
        thread = threading.Thread(target=take, args=arguments, daemon=True)
        thread.start()
        return thread

    threads = [started("third", third, 10)]
    time.sleep(0.1)
    assert got == []  # those before it might need all there is
    take("first", first, 60)
    threads.append(started("second", second, 60))
    time.sleep(0.1)
    assert got == ["first"]
    spool.give_back("first")
    for thread in threads:
        thread.join(5)
    assert got == ["first", "second", "third"] and spool.peak_bytes == 70
    # Larger than all of it: alone, and not at all once nobody wants it.
    waiting = threading.Thread(target=lambda: got.append(repr(_refused(spool, fourth))), daemon=True)
    waiting.start()
    time.sleep(0.1)
    spool.pass_on(fourth)
    waiting.join(5)
    assert "no longer wanted" in got[-1]
    spool.give_back("second")
    spool.give_back("third")
    spool.take(spool.ticket(), 1_000)
    assert spool.peak_bytes == 1_000


def _refused(spool: SpoolRoom, ticket: int) -> Exception | None:
    try:
        spool.take(ticket, 95)
    except WorldError as error:
        return error
    return None


def test_half_of_what_is_free_is_the_room(tmp_path, monkeypatch) -> None:
    spool = SpoolRoom()
    monkeypatch.setattr(spool_space.shutil, "disk_usage", lambda folder: SimpleNamespace(free=50))
    spool.bound(None, tmp_path)
    assert spool._limit_bytes == 25


@pytest.mark.parametrize("large", [True, False])
def test_a_file_that_fails_gives_its_room_back(web, spool, no_naps, monkeypatch, large) -> None:
    monkeypatch.setattr(spool_files, "RANGED_BYTES", MiB if large else 4 * MiB)
    web.path = web.path.with_name("small.bin")
    web.path.write_bytes(b"\0\0\0\x18ftypmp42" + bytes(2 * MiB))
    file, web.cut_short = listed(web.url), True
    with pytest.raises(MediaError) as fault:
        spool_files.stage(file, spool)
    assert fault.value.error_class == "read_short"
    assert list(spool.iterdir()) == [] and spool_space.ROOM._used_bytes == 0


@pytest.mark.parametrize("end", ["known", "missing", "not media", "staged", "too large"])
def test_every_file_lets_those_after_it_have_room(tmp_path, spool, pool, end) -> None:
    """A ticket that is not used up would hold up all later files for ever."""
    path = tmp_path / "\udcff.mp4"  # a name that is no text is staged
    path.write_bytes(b"no film at all" if end == "not media" else b"\0\0\0\x18ftypmp42" + bytes(200))
    file, known = listed(path), None
    if end == "missing":
        path.unlink()
    if end == "known":
        known = MediaOutcome(file, "skipped", skipped_reason="link")
    ticket = spool_space.ROOM.ticket()
    probe_media((file, known), pool, spool, False, 10 if end == "too large" else 1 << 30, 1e6, ticket)
    assert ticket not in spool_space.ROOM._outstanding and spool_space.ROOM._used_bytes == 0


def test_a_signal_ends_the_wait_for_room(tmp_path) -> None:
    """The threads of a pool are joined when the process ends: one that waits on would keep it for ever."""
    spool, ended = SpoolRoom(), []
    spool.bound(10, tmp_path)
    spool.take(spool.ticket(), 10)

    def wait() -> None:
        try:
            spool.take(spool.ticket(), 5)
        except KeyboardInterrupt:
            ended.append(True)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    requests.end_waits()
    thread.join(5)
    assert ended == [True]
