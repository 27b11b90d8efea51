"""Frames of a clip on a device: copied once, given back with the clip, and the first to make room."""

from __future__ import annotations

import gc
import warnings

import numpy as np
import pytest
import torch

from deephotlink.models import batches
from deephotlink.models.frames import KeptFrames, frames_at, frames_on, view_of
from tests.models.as_on_a_gpu import as_on_a_gpu
from tests.models.test_batches import TOLERANCE, items, loaded

CPU = torch.device("cpu")


def clip(seed: int = 0) -> np.ndarray:
    """uint8 [5, 6, 8, 3]: 720 bytes."""
    return np.random.default_rng(seed).integers(0, 256, (5, 6, 8, 3), dtype=np.uint8)


def copied(frames: np.ndarray, device: torch.device) -> torch.Tensor:
    return view_of(frames).clone()


def test_on_a_cpu_frames_are_the_same_memory_also_where_it_is_read_only():
    frames = clip()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for array in (frames, np.frombuffer(frames.tobytes(), np.uint8).reshape(frames.shape), frames[1:, ::2]):
            found = frames_on(array, "cpu")
            assert found.data_ptr() == array.__array_interface__["data"][0]
            np.testing.assert_array_equal(found.numpy(), array)
    np.testing.assert_array_equal(frames_at(frames, [3, 0], "cpu").numpy(), frames[[3, 0]])


def test_the_memory_of_a_read_only_array_lives_as_long_as_the_tensor():
    array = np.frombuffer(clip().tobytes(), np.uint8).reshape(5, 6, 8, 3)
    found = view_of(array)
    del array
    gc.collect()
    np.testing.assert_array_equal(found.numpy(), clip())


def test_a_clip_is_copied_once_and_its_copy_ends_with_it():
    sent = []
    kept = KeptFrames(10_000, lambda frames, device: (sent.append(1), copied(frames, device))[1])
    frames, same = clip(), clip()
    first = kept.get(frames, CPU)
    assert kept.get(frames, CPU) is first and len(sent) == 1
    assert kept.get(same, CPU) is not first and len(sent) == 2, "an equal array is another clip"
    assert kept.held_bytes == 1440
    del frames
    gc.collect()
    assert kept.held_bytes == 720
    assert kept.find(same, CPU) is not None and kept.find(clip(), CPU) is None


def test_the_least_recently_used_copies_make_room():
    kept = KeptFrames(2 * 720, copied)
    a, b, c = clip(1), clip(2), clip(3)
    kept.get(a, CPU), kept.get(b, CPU), kept.get(a, CPU), kept.get(c, CPU)
    assert [kept.find(frames, CPU) is not None for frames in (a, b, c)] == [True, False, True]
    np.testing.assert_array_equal(kept.get(b, CPU).numpy(), b)
    large = np.zeros((9, 8, 8, 3), np.uint8)
    assert kept.get(large, CPU).shape == large.shape, "a clip above the bound is copied all the same"
    assert kept.release() and not kept.release() and kept.held_bytes == 0


def test_where_a_clip_does_not_fit_all_others_make_room():
    kept = KeptFrames(10_000, copied)
    others = [clip(n) for n in range(3)]
    for frames in others:
        kept.get(frames, CPU)

    def send(frames, device):
        if kept.held_bytes:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return copied(frames, device)

    kept._send = send
    new = clip(9)
    np.testing.assert_array_equal(kept.get(new, CPU).numpy(), new)
    assert kept.held_bytes == 720
    kept._send = lambda frames, device: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(torch.OutOfMemoryError):
        kept.get(clip(10), CPU)


def test_some_frames_are_taken_from_the_copy_or_go_alone(monkeypatch):
    kept = as_on_a_gpu(monkeypatch)
    frames = clip()
    np.testing.assert_array_equal(frames_at(frames, [4, 1], "cpu").numpy(), frames[[4, 1]])
    assert kept.held_bytes == 0
    frames_on(frames, "cpu").zero_()  # only the copy
    assert not frames_at(frames, np.array([4, 1]), "cpu").any() and frames.any()


def test_frames_make_room_for_a_network_before_its_batch_is_halved(monkeypatch):
    kept, clips = KeptFrames(10_000, copied), [clip()]
    kept.get(clips[0], CPU)
    monkeypatch.setattr(batches, "KEPT", kept)
    whole, expected = items(8), loaded().score(items(8))
    detector = loaded()
    forward = detector.forward

    def crowded(batch):
        if kept.held_bytes:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(batch)

    detector.forward = crowded
    assert detector.score(whole) == expected
    assert detector.batch_items == 8 and kept.held_bytes == 0
    # Frames that come back with every try do not keep it from being halved.
    short, prepare = loaded(fits=4), detector.prepare
    short.prepare = lambda item: (kept.get(clips[0], CPU), prepare(item))[1]
    answers = short.score(whole)
    np.testing.assert_allclose([a.logit for a in answers], [a.logit for a in expected], rtol=0, atol=TOLERANCE)
    assert short.batch_items == 2


@pytest.mark.needs_cuda
def test_a_gpu_gets_the_pixels():
    frames = clip()
    found = frames_on(frames, "cuda:0")
    assert frames_on(frames, "cuda:0") is found
    np.testing.assert_array_equal(found.cpu().numpy(), frames)
    np.testing.assert_array_equal(frames_at(frames, [4, 1], "cuda:0").cpu().numpy(), frames[[4, 1]])
