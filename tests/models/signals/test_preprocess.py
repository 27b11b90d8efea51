"""Preprocessing against Pillow (bit for bit) and the image processors of transformers (1e-4 of a grey level)."""

import numpy as np
import pytest
import torch
from PIL import Image

from deephotlink.models.signals import resampling
from deephotlink.models.signals.preprocess import (
    CLIP_MEAN,
    CLIP_STD,
    ImagePreprocessing,
    centre_crop,
    crop_box,
    crop_start,
    from_processor,
    resize,
    to_images,
)

FILTERS = {"nearest": 0, "bilinear": 2, "bicubic": 3}
GREY_LEVELS = 1e-4
"""Of 255: what float32 leaves of a grey level after scaling and normalising."""


def pictures(height: int, width: int) -> np.ndarray:
    """uint8 [3, H, W, 3]: noise, gradients, and edges as hard as those of text."""
    rng = np.random.default_rng(height * 1000 + width)
    noise = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    y, x = np.mgrid[0:height, 0:width]
    gradients = np.stack([x * 255 // max(1, width - 1), y * 255 // max(1, height - 1), (x + y) % 256], axis=-1)
    strokes = np.where(((x // 3 + y // 7) % 2 == 0)[..., None], 255, 0) * np.ones(3, int)
    return np.stack([noise, gradients.astype(np.uint8), strokes.astype(np.uint8)])


def pillow(frames: np.ndarray, height: int, width: int, resample: str) -> np.ndarray:
    return np.stack([np.asarray(Image.fromarray(f).resize((width, height), FILTERS[resample])) for f in frames])


def channels_last(images: torch.Tensor) -> np.ndarray:
    return images.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("resample", FILTERS)
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((360, 640), (224, 398)),  # down
        ((120, 160), (60, 80)),  # every value a tie
        ((50, 41), (100, 82)),
        ((97, 131), (224, 303)),  # up
        ((131, 97), (33, 257)),  # down and up
        ((64, 64), (64, 31)),  # one pass
        ((64, 64), (31, 64)),
        ((64, 64), (64, 64)),
        ((33, 7), (1, 1)),
        ((1, 1), (5, 9)),
        ((2, 300), (3, 448)),
    ],
)
def test_resizing_is_pillows_bit_for_bit(before, after, resample):
    frames = pictures(*before)
    resized = resize(to_images(frames, "cpu"), *after, resample=resample)
    assert resized.dtype == torch.float32
    np.testing.assert_array_equal(channels_last(resized), pillow(frames, *after, resample))


def test_resizing_is_pillows_at_sizes_drawn_by_lot():
    rng = np.random.default_rng(7)
    for _ in range(40):
        height, width, to_height, to_width = (int(n) for n in rng.integers(1, 200, 4))
        frames = pictures(height, width)[:1]
        for resample in FILTERS:
            resized = resize(to_images(frames, "cpu"), to_height, to_width, resample)
            np.testing.assert_array_equal(channels_last(resized), pillow(frames, to_height, to_width, resample))


def test_without_antialiasing_it_would_be_far_off():
    frames = pictures(360, 640)
    for resample in ("bilinear", "bicubic"):
        naive = torch.nn.functional.interpolate(
            to_images(frames, "cpu").float(), (112, 199), mode=resample, align_corners=False
        )
        wrong = np.abs(channels_last(naive) - pillow(frames, 112, 199, resample))
        assert wrong.max() > 50
        assert wrong[0].mean() > 5


def test_many_frames_are_resized_in_parts(monkeypatch):
    images = to_images(pictures(50, 60), "cpu")
    whole = resize(images, 30, 20)
    monkeypatch.setitem(resampling.MOST_VALUES, "cpu", 1)
    assert torch.equal(resize(images, 30, 20), whole)
    assert resize(images[:0], 30, 20).shape == (0, 3, 30, 20)


def test_levels_that_are_not_whole_are_rounded_first():
    images = to_images(pictures(20, 20), "cpu")
    assert torch.equal(resize(images.float() + 0.4, 9, 9), resize(images, 9, 9))


def test_nothing_cannot_be_resized():
    with pytest.raises(ValueError, match="a pixel or more"):
        resize(torch.zeros(1, 3, 0, 5), 4, 4)


@pytest.mark.parametrize(
    "size", [(7, 7), (8, 9), (9, 8), (10, 11), (11, 10), (5, 12), (12, 5), (5, 5), (4, 3), (40, 41)]
)
def test_the_crop_of_transformers(size):
    from transformers.image_transforms import center_crop

    images = to_images(pictures(*size)[:1], "cpu")
    for crop in ((8, 8), (7, 8), (5, 6)):
        expected = center_crop(images[0].numpy(), crop)
        np.testing.assert_array_equal(centre_crop(images, *crop)[0].numpy(), expected)


def test_torchvisions_crop_rounds_halves_to_even():
    # int(round((length - kept) / 2.0)) by torchvision.transforms.functional.center_crop, padding before = floor.
    assert [crop_start(4 + odd, 4, "even") for odd in (1, 2, 3, 4, 5, 7)] == [0, 1, 2, 2, 2, 4]
    assert [crop_start(4 + odd, 4, "down") for odd in (1, 2, 3, 4, 5, 7)] == [0, 1, 1, 2, 2, 3]
    assert [crop_start(4 - less, 4, "even") for less in (1, 2, 3)] == [0, -1, -1]
    assert [crop_start(4 - less, 4, "down") for less in (1, 2, 3)] == [-1, -1, -2]
    row = torch.arange(1.0, 8.0).view(1, 1, 1, 7)
    assert centre_crop(row, 1, 4, "even").flatten().tolist() == [3, 4, 5, 6]
    assert centre_crop(row[..., :3], 1, 4, "even").flatten().tolist() == [1, 2, 3, 0]
    assert centre_crop(row[..., :3], 1, 4).flatten().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("halves", ["down", "even"])
@pytest.mark.parametrize("size", [(60, 107), (107, 60), (33, 33), (20, 90), (3, 300)])
def test_cropping_before_or_after_resizing_is_the_same(size, halves):
    images = to_images(pictures(*size), "cpu")
    for edge, crop in ((33, (33, 33)), (40, (33, 21)), ((50, 30), (31, 45))):
        steps = ImagePreprocessing(edge, "bicubic", crop, scale=1.0, halves=halves)
        whole = ImagePreprocessing(edge, "bicubic", scale=1.0)(images)
        assert torch.equal(steps(images), centre_crop(whole, *crop, halves=halves))
        assert steps.output_size == crop


# Class names of transformers, and what a file of theirs says; {} is what the class has by default.
PROCESSORS = [
    ("CLIP", {}),
    ("ViT", {}),
    ("ViT", {"size": {"height": 96, "width": 64}, "resample": 3, "image_mean": [0.4, 0.5, 0.6]}),
    ("ViT", {"size": 32, "resample": 0}),
    ("ViT", {"do_resize": False, "do_normalize": False}),
    ("ViT", {"do_rescale": False, "image_mean": [120.0, 110.0, 100.0], "image_std": [50.0, 60.0, 70.0]}),
    ("ConvNext", {"size": {"shortest_edge": 64}}),
    ("ConvNext", {"size": {"shortest_edge": 65}, "crop_pct": 0.875, "resample": 2}),
    ("ConvNext", {}),  # 384: warped
    ("Bit", {"size": {"shortest_edge": 70}, "crop_size": {"height": 64, "width": 64}}),  # DINOv2
    ("Siglip", {}),
    ("Beit", {"size": {"height": 70, "width": 70}, "do_center_crop": True, "crop_size": {"height": 64, "width": 64}}),
    ("DeiT", {"size": {"height": 73, "width": 73}, "crop_size": {"height": 64, "width": 64}}),
    ("VideoMAE", {"size": {"shortest_edge": 96}, "crop_size": {"height": 96, "width": 96}}),
    ("MobileNetV2", {"size": {"shortest_edge": 48}, "crop_size": {"height": 64, "width": 64}}),  # padded
    ("EfficientNet", {"size": {"height": 60, "width": 60}}),
    ("EfficientNet", {"size": {"height": 60, "width": 60}, "rescale_offset": True, "rescale_factor": 1 / 127.5}),
    ("EfficientNet", {"size": {"height": 60, "width": 60}, "include_top": False, "resample": 0}),
    ("Pvt", {}),
]


@pytest.mark.parametrize("size", [(90, 160), (161, 91), (64, 64)])
@pytest.mark.parametrize(("kind", "values"), PROCESSORS)
def test_parity_with_the_processors_of_transformers(kind, values, size):
    import transformers

    processor = getattr(transformers, f"{kind}ImageProcessorPil")(**values)
    frames = pictures(*size)
    # VideoMAE's takes videos and gives (1, T, 3, H, W).
    expected = torch.as_tensor(np.array(processor(list(frames), return_tensors="np")["pixel_values"]))
    expected = expected.reshape(-1, *expected.shape[-3:])
    preprocessing = from_processor({"image_processor_type": f"{kind}ImageProcessor", **values})
    got = preprocessing(to_images(frames, "cpu"))
    assert got.shape == expected.shape
    assert preprocessing.output_size in (None, tuple(got.shape[-2:]))
    # In grey levels: scaled and normalised values times what a level was worth.
    level = torch.tensor(preprocessing.std).view(1, -1, 1, 1) / preprocessing.scale
    assert ((got - expected) * level).abs().max() < GREY_LEVELS


def test_the_whole_dictionary_that_transformers_saves_is_understood():
    import transformers

    for name in ("CLIP", "ViT", "ConvNext", "VideoMAE", "Bit", "Siglip", "Beit", "DeiT", "EfficientNet"):
        saved = getattr(transformers, f"{name}ImageProcessorPil")().to_dict()
        assert from_processor(saved) == from_processor({"image_processor_type": f"{name}ImageProcessor"})


@pytest.mark.parametrize(
    "named",
    [
        {"image_processor_type": "CLIPImageProcessor"},
        {"image_processor_type": "CLIPImageProcessorFast"},
        {"image_processor_type": "CLIPImageProcessorPil"},
        {"feature_extractor_type": "CLIPFeatureExtractor"},
    ],
)
def test_names_of_older_and_other_versions(named):
    expected = ImagePreprocessing(224, "bicubic", (224, 224), mean=CLIP_MEAN, std=CLIP_STD)
    assert from_processor(named) == expected
    # Old files have numbers where new ones have records.
    assert from_processor({**named, "size": 224, "crop_size": 224, "do_rescale": None}) == expected


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, "expected image_processor_type"),
        ({"image_processor_type": "os.system"}, "expected image_processor_type"),
        ({"image_processor_type": "NoSuchImageProcessor"}, "not supported"),
        ({"image_processor_type": "DetrImageProcessor"}, "steps of its own"),
        ({"image_processor_type": "MobileViTImageProcessor"}, "steps of its own"),
        ({"do_pad": True}, "do_pad"),
        ({"do_reduce_labels": True}, "do_reduce_labels"),
        ({"do_flip_channel_order": True}, "do_flip_channel_order"),
        ({"resample": 1}, "LANCZOS"),
        ({"resample": 5}, "HAMMING"),
        ({"resample": "bicubic"}, "resample"),
        ({"resample": [2]}, "resample"),
        ({"size": {"shortest_edge": 200, "longest_edge": 400}}, "shortest_edge"),
        ({"size": {"longest_edge": 400}}, "shortest_edge"),
        ({"size": {"height": 0, "width": 224}}, "1 to 8192"),
        ({"size": {"height": 10**9, "width": 224}}, "1 to 8192"),
        ({"size": {"height": 1.5, "width": 224}}, "224"),
        ({"size": "big"}, "big"),
        ({"do_center_crop": True, "crop_size": {"shortest_edge": 7}}, "crop_size"),
        ({"do_resize": "false"}, "true or false for do_resize"),
        ({"image_mean": [0.5, 0.5]}, "three numbers in image_mean"),
        ({"image_mean": [0.5, 0.5, float("nan")]}, "three numbers in image_mean"),
        ({"image_std": [0.5, 0.0, 0.5]}, "> 0"),
        ({"rescale_factor": "1/255"}, "rescale_factor|values"),
        ({"rescale_factor": float("inf")}, "> 0"),
        ({"image_processor_type": "ConvNextImageProcessor", "size": {"height": 9, "width": 9}}, "shortest_edge"),
    ],
)
def test_what_is_not_supported_is_named(config, said):
    with pytest.raises(ValueError, match=said):
        from_processor({"image_processor_type": "ViTImageProcessor", **config} if config else config)


def test_read_only_and_sliced_frames_are_taken():
    frames = pictures(8, 9)
    expected = to_images(frames, "cpu")
    frames.flags.writeable = False
    assert torch.equal(to_images(frames, "cpu"), expected)
    assert torch.equal(to_images(frames[::2], "cpu"), expected[::2])


def test_a_box_is_widened_and_cut_off_at_the_edges():
    image = torch.arange(3 * 20 * 30).view(3, 20, 30)
    assert torch.equal(crop_box(image, np.array([10, 5, 20, 15])), image[:, 5:15, 10:20])
    assert torch.equal(crop_box(image, np.array([10, 5, 20, 15]), 2, 2), image[:, 0:20, 5:25])
    assert crop_box(image, np.array([10, 5, 20, 11]), square=True).shape == (3, 10, 10)
    assert crop_box(image, np.array([-9, -9, 99, 99])).shape == (3, 20, 30)
    for box in ([40, 5, 50, 15], [3, 3, 3, 3], [float("nan")] * 4):
        with pytest.raises(ValueError):
            crop_box(image, np.array(box))


@pytest.mark.needs_cuda
def test_a_gpu_gives_the_same_bits():
    images = to_images(pictures(360, 640), "cpu")
    for steps in (ImagePreprocessing(224, "bicubic", (224, 224)), ImagePreprocessing((99, 801), "bilinear")):
        assert torch.equal(steps(images), steps(images.to("cuda:0")).cpu())


def test_the_error_of_half_precision_can_be_measured():
    from tests.bench.measure_precision import errors

    half, brain = errors(side=32, width=64, layers=2, patch=16, pictures=2)
    assert (half.precision, brain.precision) == ("float16", "bfloat16")
    assert 0 < half.largest < brain.largest < 0.5
    assert half.mean < half.largest
