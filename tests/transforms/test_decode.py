"""Every planned file has one outcome: what was decoded, what was damaged, and by which decoder."""

import numpy as np

from deephotlink.models.base import ClipGeometry
from deephotlink.transforms.clips import Sampling, plan_clips
from deephotlink.transforms.decode import DecodeTally, decode_request
from deephotlink.transforms.failures import MediaError
from deephotlink.transforms.media.protocol import DecodedClip, DecodedWindow, ItemFailed
from deephotlink.transforms.records import AudioWindow, Clip, DecodePlan, WindowSpec
from tests.builders import make_probe


def plan(clips=3, windows=0, sound=False):
    probe = make_probe(duration_seconds=10.0 * max(1, clips))
    specs = plan_clips(probe, Sampling(), ClipGeometry(4)) if clips else ()
    wanted = tuple(WindowSpec(i, 100 * i, 100, "w") for i in range(windows))
    return DecodePlan(probe, specs, 8, 6, sound, wanted)


def clip(index, frames=4, **fields):
    return DecodedClip(index, np.zeros((frames, 6, 8, 3), np.uint8), np.arange(float(frames)), frames, **fields)


def test_all_went_well():
    tally = DecodeTally(plan(windows=1, sound=True))
    records = [tally.add(clip(i, sound=np.zeros(9, np.float32), decoder="decord")) for i in range(3)]
    records.append(tally.add(DecodedWindow(0, np.zeros(50, np.float32), "w")))
    assert [type(r) for r in records] == [Clip] * 3 + [AudioWindow]
    outcome = tally.outcome()
    assert (outcome.status, outcome.clips_decoded, outcome.frames_kept, outcome.decoder) == ("read", 3, 12, "decord")
    assert outcome.sound_failure is None and outcome.windows_decoded == 1


def test_a_file_that_decord_gave_up_on_is_pyavs():
    tally = DecodeTally(plan())
    tally.add(clip(0, decoder="decord"))
    tally.add(clip(1, decoder="pyav"))
    assert tally.outcome().decoder == "pyav"


def test_a_damaged_clip_is_told_beside_the_sound_ones():
    tally = DecodeTally(plan())
    tally.add(clip(0))
    tally.add(ItemFailed("decode_failed", "bad packets", clip_index=1))
    tally.add(clip(2))
    outcome = tally.outcome()
    assert outcome.status == "read" and [f.clip_index for f in outcome.clip_failures] == [1]


def test_where_nothing_came_the_media_failed_with_the_first_reason():
    tally = DecodeTally(plan())
    for index in range(3):
        tally.add(ItemFailed("decode_failed", f"clip {index}", clip_index=index))
    outcome = tally.outcome()
    assert outcome.status == "failed" and outcome.failure.message == "clip 0"


def test_a_worker_that_died_takes_the_unanswered_clips_with_it():
    tally = DecodeTally(plan())
    tally.add(clip(0))
    tally.add(ItemFailed("worker_killed", "SIGSEGV", clip_index=1))
    tally.worker_failure = MediaError("worker_killed", "SIGSEGV", "decode")
    outcome = tally.outcome()
    assert outcome.status == "read"
    assert [(f.clip_index, f.error_class) for f in outcome.clip_failures] == [
        (1, "worker_killed"),
        (2, "worker_killed"),
    ]


def test_sound_that_fails_does_not_lose_the_frames():
    tally = DecodeTally(plan(sound=True))
    record = tally.add(clip(0, damage="sound: decode_failed"))
    assert isinstance(record, Clip) and record.sound is None
    assert tally.outcome().sound_failure.message == "sound: decode_failed"


def test_nothing_wanted_is_read_not_failed():
    assert DecodeTally(plan(clips=0)).outcome().status == "read"


def test_requests_ask_for_what_was_planned():
    asked = decode_request(plan(windows=2, sound=True))
    assert (len(asked.clips), len(asked.windows), asked.clip_sound, asked.decoder) == (3, 2, True, "decord")
    assert decode_request(plan(clips=0, windows=1)).decoder is None
