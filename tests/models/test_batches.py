"""Batches of one shape: an item's result does not depend on its neighbours, bit for bit, with real layers."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deephotlink.models.base import ClipItem, DetectorSpec, Judgement, TrackItem
from deephotlink.models.batches import (
    FAILED,
    BatchedDetector,
    at_precision,
    film_frames,
    out_of_memory,
    spread,
    spread_faces,
    spread_frames,
)

SIDE = 16
TOLERANCE = 1e-5
"""Between logits of batches of different sizes, in float32."""


class Network(nn.Module):
    """Convolution, batch normalisation, attention, linear: the kinds of layers whose kernels depend on the batch."""

    def __init__(self, width: int = 24):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 4, stride=4), nn.BatchNorm2d(width), nn.GELU())
        self.mix = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.head = nn.Linear(width, 1)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.mix(self.stem(images)).flatten(2).transpose(1, 2)  # (R, C, h, w) → (R, h * w, C)
        attended, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        return self.head((tokens + attended).mean(dim=1))


class Small(BatchedDetector):
    """Items are float32 arrays [k, 3, SIDE, SIDE], or a function that prepares itself. Keeps what it was asked."""

    rows = 2
    cpu_items = None

    def __init__(self, batch_size: int = 8, name: str = "small", fits: int | None = None, width: int = 24, **spec):
        super().__init__(
            DetectorSpec(name, "synthetic", "clip", frozenset({"frames"}), "", "", batch_size=batch_size, **spec)
        )
        self.fits, self.width = fits, width
        """Rows that the pretended device has room for."""
        self.batches: list[tuple[int, ...]] = []
        self.logits: list[Tensor] = []

    def build_network(self) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(3)
            network = Network(self.width)
            for layer in network.modules():
                if isinstance(layer, nn.BatchNorm2d):
                    layer.running_mean.normal_()
                    layer.running_var.uniform_(0.5, 2)
        return network

    def prepare(self, item) -> Tensor | Judgement:
        if isinstance(item, Callable):
            return item()
        return torch.from_numpy(item).to(self.device)

    def forward(self, batch: Tensor) -> Tensor:
        self.batches.append(tuple(batch.shape))
        if self.fits is not None and len(batch) > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory (a test said so)")
        if (batch[:, 0, 0, 0] == 77).any():
            raise ValueError("a marked row\x1b[2J")
        return super().forward(batch)

    def conclude(self, item, logits: Tensor) -> Judgement:
        self.logits.append(logits)
        return super().conclude(item, logits)


def loaded(**how) -> Small:
    detector = Small(**how)
    detector.load("cpu")
    return detector


def items(count: int = 8, rows: int = 2) -> list:
    rng = np.random.default_rng(5)
    return [rng.normal(size=(rows, 3, SIDE, SIDE)).astype(np.float32) for _ in range(count)]


def marked(value: float) -> np.ndarray:
    one = items(1)[0]
    one[1, 0, 0, 0] = value
    return one


def raises(error: Exception) -> Callable:
    def prepare():
        raise error

    return prepare


FAULTS = {
    "raises while it is prepared": raises(ZeroDivisionError("hostile")),
    "raises in the network": marked(77),
    "is not a number": marked(np.nan),
    "is infinite": marked(np.inf),
    "has too many rows": np.zeros((3, 3, SIDE, SIDE), np.float32),
    "has no row": np.zeros((0, 3, SIDE, SIDE), np.float32),
    "has rows of another shape": np.zeros((2, 3, SIDE, 2 * SIDE), np.float32),
    "has rows of another rank": np.zeros((2, 3, SIDE), np.float32),
    "is not there": np.str_("no item"),
}


@pytest.mark.parametrize("place", [0, 3, 7])
@pytest.mark.parametrize("fault", FAULTS)
def test_neighbours_of_a_failing_item_have_the_same_bits(fault, place):
    clean, detector = loaded(), loaded()
    whole = items()
    expected = clean.score(whole)
    answers = detector.score([*whole[:place], FAULTS[fault], *whole[place + 1 :]])
    assert answers[place].abstained == FAILED
    assert answers[place].logit is None
    assert answers[place].detail
    assert [a for i, a in enumerate(answers) if i != place] == [a for i, a in enumerate(expected) if i != place]
    others = [logits for i, logits in enumerate(clean.logits) if i != place]
    assert all(torch.equal(a, b) for a, b in zip(detector.logits, others, strict=True))
    assert set(detector.batches) == {(16, 3, SIDE, SIDE)}


def test_an_item_that_abstains_is_answered_so_and_its_neighbours_have_the_same_bits():
    whole = items()
    expected = loaded().score(whole)
    too_short = Judgement(abstained="too_short")
    answers = loaded().score([*whole[:2], lambda: too_short, *whole[3:]])
    assert answers == [*expected[:2], too_short, *expected[3:]]
    assert len({a.logit for a in expected}) == 8


def test_where_all_abstain_the_network_is_not_asked():
    detector = loaded()
    assert [a.abstained for a in detector.score([lambda: Judgement(abstained="no_face")] * 3)] == ["no_face"] * 3
    assert detector.batches == []
    assert detector.score([]) == []


@pytest.mark.parametrize("count", [1, 3, 7, 11])
def test_the_last_batch_gives_the_same_bits_as_a_full_one(count):
    whole = items(16)
    assert loaded().score(whole[:count]) == loaded().score(whole)[:count]


def test_items_of_fewer_rows_than_others():
    whole = items()
    expected = loaded()
    expected.score(whole)
    detector = loaded()
    answers = detector.score([whole[0], whole[1][:1], *whole[2:]])
    assert detector.logits[1].shape == (1,)
    assert torch.equal(detector.logits[1], expected.logits[1][:1])
    assert torch.equal(torch.cat(detector.logits[2:]), torch.cat(expected.logits[2:]))
    assert all(a.logit is not None for a in answers)


def test_the_odd_shape_fails_wherever_it_stands_and_says_what_was_expected():
    whole = items(4)
    odd = np.zeros((1, 3, SIDE, 2 * SIDE), np.float32)
    for order in ([odd, *whole[:3]], [*whole[:3], odd]):
        detector = loaded(batch_size=4)
        answers = detector.score(order)
        assert [a.abstained for a in answers].count(FAILED) == 1
        (told,) = [a.detail for a in answers if a.abstained]
        assert f"made rows of shape (3, {SIDE}, {2 * SIDE}), expected (3, {SIDE}, {SIDE})" in told
        assert detector.batches == [(8, 3, SIDE, SIDE)]


def test_out_of_memory_halves_the_batch_for_good():
    whole = items(11)
    expected = loaded().score(whole)
    detector = loaded(fits=4)
    answers = detector.score(whole)
    assert [shape[0] for shape in detector.batches] == [16, 8] + [4] * 6
    assert detector.batch_items == 2
    np.testing.assert_allclose([a.logit for a in answers], [a.logit for a in expected], rtol=0, atol=TOLERANCE)
    detector.batches.clear()
    assert detector.score(whole[:3]) == answers[:3]
    assert [shape[0] for shape in detector.batches] == [4, 4]


def test_out_of_memory_and_a_failing_item_in_one_batch():
    whole = items()
    expected = loaded(batch_size=2).score(whole)
    for fault in FAULTS.values():
        answers = loaded(fits=4).score([*whole[:5], fault, *whole[6:]])
        assert answers[5].abstained == FAILED
        assert answers[:5] + answers[6:] == expected[:5] + expected[6:]


def test_out_of_memory_while_items_are_prepared_halves_too():
    room = [3]

    def prepare():
        room[0] -= 1
        if room[0] < 0:
            room[0] = 3
            raise torch.OutOfMemoryError("CUDA out of memory")
        return torch.zeros(2, 3, SIDE, SIDE)

    detector = loaded()
    assert all(a.logit is not None for a in detector.score([prepare] * 3))
    assert detector.batch_items == 8
    room[0] = 3
    assert len(detector.score([prepare] * 4)) == 4
    assert detector.batch_items < 8


def test_where_not_one_item_fits_it_raises_and_keeps_its_size():
    detector = loaded(fits=1)
    with pytest.raises(torch.OutOfMemoryError):
        detector.score(items(3))
    assert [shape[0] for shape in detector.batches] == [16, 8, 4, 2]
    assert detector.batch_items == 8
    detector.fits = None
    assert detector.score(items(3)) == loaded().score(items(3))


def test_a_batch_that_another_thread_halves_meanwhile_keeps_its_places():
    whole, expected = items(), loaded().score(items())
    detector = loaded()
    prepare, seen = detector.prepare, []

    def halved(item) -> Tensor | Judgement:
        seen.append(item)
        if len(seen) == 5:
            detector.batch_items = 2
        return prepare(item)

    detector.prepare = halved
    assert detector.score(whole) == expected and len(seen) == 8
    assert [shape[0] for shape in detector.batches] == [16] and detector.batch_items == 2


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"), True),
        (Exception("[ONNXRuntimeError] BFCArena: Failed to allocate memory for requested buffer"), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (ValueError("a marked row"), False),
    ],
)
def test_what_counts_as_out_of_memory(error, expected):
    assert out_of_memory(error) is expected


def test_a_network_that_fails_on_everything_fails_each_item_by_itself():
    detector = loaded(batch_size=4)
    detector.network = nn.Flatten()  # (R, 768): no logits
    detector.forward = lambda batch: detector.network(batch).sum()
    answers = detector.score(items(4))
    assert [a.abstained for a in answers] == [FAILED] * 4
    assert "expected logits of 8 rows" in answers[0].detail


def test_a_conclusion_that_fails_is_its_items_alone():
    detector = loaded(batch_size=4)
    conclude, whole = detector.conclude, items(4)

    def some(item, logits):
        if item is whole[2]:
            return Judgement(logit=float("nan"))
        return conclude(item, logits)

    detector.conclude = some
    assert [a.abstained for a in detector.score(whole)] == [None, None, FAILED, None]


def test_several_numbers_a_row():
    detector = loaded(batch_size=4)
    detector.forward = lambda batch: batch.flatten(1)[:, :5]
    seen = []
    detector.conclude = lambda item, values: (seen.append(values), Judgement(logit=1.0))[1]
    whole = items(3)
    detector.score([whole[0], whole[1][:1], whole[2]])
    assert [tuple(values.shape) for values in seen] == [(2, 5), (1, 5), (2, 5)]
    assert torch.equal(seen[2], torch.from_numpy(whole[2]).flatten(1)[:, :5])


def test_on_a_cpu_the_network_is_float32_whatever_it_declares():
    detector = loaded(precision="bfloat16")
    assert {p.dtype for p in detector.network.parameters()} == {torch.float32}
    assert not detector.network.training
    assert not any(p.requires_grad for p in detector.network.parameters())
    assert detector.score(items()) == loaded().score(items())


def test_frames_are_spread_evenly():
    assert spread(16, 4) == [2, 6, 10, 14]
    assert spread(3, 8) == [0, 1, 2]
    assert spread(0, 4) == []
    assert all(len(set(spread(n, k))) == min(n, k) and max(spread(n, k)) < n for n in range(1, 40) for k in range(1, 9))


def test_frames_of_a_clip_are_spread_unless_there_are_none_or_small_ones():
    frames = np.arange(16, dtype=np.uint8)[:, None, None, None] * np.ones((16, 8, 9, 3), np.uint8)
    found = spread_frames(ClipItem(frames, np.arange(16.0), None, 0.0), 4, 8)
    assert found[:, 0, 0, 0].tolist() == [2, 6, 10, 14]
    assert spread_frames(ClipItem(frames[:0], np.zeros(0), None, 0.0), 4, 8).abstained == "too_short"
    small = spread_frames(ClipItem(frames[:, :7], np.arange(16.0), None, 0.0), 4, 8)
    assert (small.abstained, small.detail) == ("low_resolution", "a side of 7 pixels, at least 8 are needed")


def test_faces_of_a_track_are_spread_over_the_sure_and_large_ones():
    clip = ClipItem(np.zeros((8, 9, 9, 3), np.uint8), np.arange(8.0), None, 0.0)
    sides = np.array([9, 40, 41, np.nan, 50, np.inf, 60, 70], np.float32)
    boxes = np.stack([np.zeros(8), np.zeros(8), sides, sides], axis=1).astype(np.float32)
    sure = np.array([1, 1, 1, 1, 0.69, 1, 1, 0.7], np.float32)
    item = TrackItem(clip, np.arange(8), boxes, np.zeros((8, 5, 2), np.float32), sure)

    def faces(least: float, most: int = 2, item: TrackItem = item) -> np.ndarray | Judgement:
        return spread_faces(item, item.boxes, lambda places: places[:, 2], least, most)

    assert faces(40, most=9).tolist() == [1, 2, 6, 7] and faces(40).tolist() == [2, 7]
    assert (faces(71).abstained, faces(71).detail) == ("low_resolution", "a face of 70 pixels, at least 71 are needed")
    unsure = TrackItem(clip, np.arange(8), boxes, item.landmarks, np.zeros(8, np.float32))
    assert faces(40, item=unsure).abstained == "face_hidden"


def test_half_precision_keeps_the_statistics_of_batch_norm():
    """A variance beyond float16 would be infinity there, and the channel would say nothing any more."""
    images = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    logits = []
    for dtype in (torch.float32, torch.float16):
        network = Small().build_network()
        network.stem[0].weight.data *= 1000
        network.stem[1].running_mean.mul_(1000)
        network.stem[1].running_var.mul_(1e6)
        network.head.weight.data *= 10
        network = at_precision(network, torch.device("cpu"), dtype)
        assert network.stem[1].running_var.dtype == torch.float32 and network.stem[0].weight.dtype == dtype
        with torch.inference_mode():
            logits.append(network(images.to(dtype)).float())
    assert logits[0].std() > 0.01
    torch.testing.assert_close(*logits, rtol=0, atol=1e-2)


@pytest.mark.needs_cuda
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-4), ("float16", 1e-2), ("bfloat16", 5e-2)])
def test_a_gpu_agrees_with_the_cpu(precision, tolerance):
    here = loaded(precision=precision, device_tolerance=tolerance)
    there = Small(precision=precision, device_tolerance=tolerance)
    there.load("cuda:0")
    whole = items()
    expected, got = ([a.logit for a in detector.score(whole)] for detector in (here, there))
    np.testing.assert_allclose(got, expected, rtol=0, atol=here.spec.device_tolerance)
    assert {p.dtype for p in there.network.attention.parameters()} == {getattr(torch, precision)}
    again = there.score([*whole[:4], marked(77), *whole[5:]])
    assert [a.logit for i, a in enumerate(again) if i != 4] == [x for i, x in enumerate(got) if i != 4]


@pytest.mark.needs_cuda
def test_a_gpu_that_runs_out_of_memory_halves_the_batch():
    torch.cuda.empty_cache()
    detector = Small(batch_size=64, width=512)
    detector.load("cuda:0")
    whole = [np.full((2, 3, 128, 128), i / 64, np.float32) for i in range(64)]
    # One activation of the whole batch is 256 MiB, several live at once; the limit is the allocator's own.
    room = torch.cuda.memory_reserved() + 600 * 2**20
    torch.cuda.set_per_process_memory_fraction(min(1.0, room / torch.cuda.get_device_properties(0).total_memory))
    try:
        answers = detector.score(whole)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert 1 <= detector.batch_items < 64
    expected = Small(batch_size=1, width=512)
    expected.load("cuda:0")
    wanted = [a.logit for a in expected.score(whole)]
    np.testing.assert_allclose([a.logit for a in answers], wanted, rtol=0, atol=detector.spec.device_tolerance)


def test_on_a_cpu_items_go_one_by_one_unless_a_detector_says_otherwise():
    class Single(Small):
        cpu_items = 1

    one, many = Single(batch_size=8), Small(batch_size=8)
    one.load("cpu")
    many.load("cpu")
    assert (one.batch_items, many.batch_items) == (1, 8)


@pytest.mark.parametrize(
    ("source", "decoded", "picked"),
    [
        (25.0, 6.25, list(range(16))),  # as 7.5 Hz are decoded from 25
        (25.0, 12.5, list(range(0, 32, 2))),  # beside a detector that asks for 15
        (25.0, 25.0, list(range(0, 64, 4))),
        (24.0, 6.0, list(range(16))),
        (30.0, 15.0, list(range(0, 32, 2))),
    ],
)
def test_a_film_is_the_same_frames_however_densely_its_clip_was_decoded(source, decoded, picked):
    assert film_frames(np.arange(100) / decoded, 16, 7.5).tolist() == picked
    assert film_frames(np.arange(100) / decoded, 16, 7.5)[1] / decoded == pytest.approx(4 / source)


def test_a_short_film_repeats_frames_evenly_and_a_very_short_one_abstains():
    assert film_frames(np.arange(3) / 7.5, 6, 7.5).tolist() == [0, 0, 1, 1, 2, 2]
    assert film_frames(np.arange(2) / 7.5, 6, 7.5).abstained == "too_short"
    assert film_frames(np.zeros(0), 1, 7.5).abstained == "too_short"
    assert film_frames(np.zeros(1), 1, 7.5).tolist() == [0]
