"""What a child process reports about a container is checked before it is used."""

import json
import math
import re
import zipfile
import zlib
from pathlib import Path

import pytest

from deephotlink.transforms.failures import MediaError, WorldError
from deephotlink.transforms.listing import list_sources
from deephotlink.transforms.probe import probe_from_facts, probe_media
from deephotlink.transforms.staging import spool_files
from tests.builders import make_media_file

VIDEO = {"codec": "h264", "width": 640, "height": 360, "frame_rate": 25.0, "rotation": 0, "frame_count": 250}
FACTS = {
    "format": "mov,mp4",
    "media_type": "video",
    "duration_seconds": 10.0,
    "key_frame_seconds": [4.0, 0.0, 2.0],
    "primary_video": {**VIDEO, "start_seconds": 0.0, "duration_seconds": 10.0, "pixel_format": "yuv420p"},
    "primary_audio": {"codec": "aac", "sample_rate": 48000, "channels": 2, "duration_seconds": 10.0},
    "decoder": "decord",
    "decoder_reason": "closed GOP",
}


def probe(**changes):
    return probe_from_facts(make_media_file(), "/spool/x.mp4", {**FACTS, **changes}, None)


def test_facts_become_a_record():
    found = probe()
    assert found.key_frame_seconds == (0.0, 2.0, 4.0)
    assert (found.video.width, found.video.frame_count, found.audio.sample_rate) == (640, 250, 48000)
    assert found.decoder == "decord" and not found.path_is_ours


def test_without_video_there_is_no_decoder():
    found = probe(primary_video=None, media_type="audio", key_frame_seconds=[])
    assert found.video is None and found.decoder is None


@pytest.mark.parametrize(
    "changes",
    [
        {"media_type": "picture"},
        {"decoder": "../../bin/sh"},
        {"duration_seconds": math.nan},
        {"duration_seconds": 1e300},
        {"key_frame_seconds": ["soon"]},
        {"key_frame_seconds": 7},
        {"primary_video": {**VIDEO, "width": -1}},
        {"primary_video": {**VIDEO, "height": 1 << 60}},
        {"primary_video": "none"},
        {"primary_audio": {"codec": "aac", "sample_rate": "fast"}},
        {"format": None, "media_type": None},
    ],
)
def test_what_no_honest_child_says_is_a_failure_of_the_file(changes):
    with pytest.raises(MediaError) as refused:
        probe(**changes)
    assert refused.value.error_class == "unreadable"


class NoPool:
    sandbox_in_force = "off"

    def __init__(self, raises):
        self.raises = raises

    def probe(self, request):
        assert Path(request.path).is_file()
        raise self.raises


@pytest.fixture
def member(tmp_path):
    """A film that has to be staged."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("film.mp4", b"\0\0\0\x18ftypmp42" + bytes(999))
    (entry,) = list_sources([str(tmp_path / "a.zip")])
    return entry.file


@pytest.mark.parametrize(
    "raised", [ValueError("sig=CANARY"), KeyError("CANARY"), zlib.error("CANARY"), OverflowError()]
)
def test_a_mistake_of_ours_is_a_row_that_says_where(member, tmp_path, raised):
    spool = tmp_path / "spool"
    spool.mkdir()
    ended = probe_media((member, None), NoPool(raised), spool, False, 1 << 30, 1e5)
    assert (ended.status, ended.failure.error_class, ended.failure.stage) == ("failed", "internal_error", "probe")
    assert re.fullmatch(rf"{type(raised).__name__} in test_probe\.py, line \d+", ended.failure.message)
    assert not list(spool.iterdir())


def test_a_library_that_stumbles_is_told_by_where_we_asked_it(member, tmp_path, monkeypatch):
    monkeypatch.setattr(spool_files, "sniff", lambda head: json.loads("{"))
    ended = probe_media((member, None), NoPool(None), tmp_path, False, 1 << 30, 1e5)
    assert re.fullmatch(r"JSONDecodeError in test_probe\.py, line \d+", ended.failure.message)


@pytest.mark.parametrize("raised", [WorldError("down"), OSError("disk"), MemoryError(), RuntimeError("threads")])
def test_what_the_world_does_is_no_row(member, tmp_path, raised):
    spool = tmp_path / "spool"
    spool.mkdir()
    with pytest.raises(type(raised)):
        probe_media((member, None), NoPool(raised), spool, False, 1 << 30, 1e5)
    assert not list(spool.iterdir())
