"""What a child says of a container is checked before it is believed."""

import math

import pytest

from deephotlink.transforms.failures import MediaError
from deephotlink.transforms.probe import probe_from_facts
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
