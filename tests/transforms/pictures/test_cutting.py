"""What a picture shows: the whole frame and the face in it, small and upright, with no byte copied from the file."""

import io

import numpy as np
import pytest
from PIL import Image

from deephotlink.transforms.pictures import cutting
from deephotlink.transforms.pictures.cutting import FACE_LONG_SIDE, FRAME_LONG_SIDE, cut, face_window, jpeg_of
from deephotlink.transforms.pictures.picture import JPEG_BYTES

RED, GREY = (200, 20, 30), (90, 90, 90)


@pytest.fixture(autouse=True)
def _nothing_remembered(monkeypatch):
    """Tests make other frames of the same moment, maybe in the same memory."""
    monkeypatch.setattr(cutting, "_ENCODED", cutting._Recent(64))


def shot(size=(640, 360), box=(200, 100, 300, 220)):
    """Grey, with a red face."""
    frame = np.full((size[1], size[0], 3), GREY, np.uint8)
    x1, y1, x2, y2 = (round(side) for side in box)
    frame[max(0, y1) : max(0, y2), max(0, x1) : max(0, x2)] = RED
    return frame


def pictures(frame, box, pts_seconds=1.5):
    return {p.kind: p for p in cut("m", "facial", 2.0, 3, 1, pts_seconds, frame, box)}


def pixels(picture):
    with Image.open(io.BytesIO(picture.jpeg)) as image:
        assert image.format == "JPEG" and image.mode == "RGB" and image.size == (picture.width, picture.height)
        assert not image.getexif() and not {"exif", "comment", "icc_profile"} & set(image.info)
        return np.asarray(image).astype(int)


def is_red(pixel):
    return pixel[0] > 150 and pixel[1] < 80


def test_the_box_lies_on_the_face_in_the_frame_and_the_crop_shows_it():
    box = (200, 100, 300, 220)
    made = pictures(shot(box=box), box)
    frame, face = made["frame"], made["face"]
    assert (frame.width, frame.height) == (FRAME_LONG_SIDE, 180)
    assert frame.box == pytest.approx((200 / 640, 100 / 360, 300 / 640, 220 / 360)) and face.box is None
    seen = np.argwhere([[is_red(p) for p in row] for row in pixels(frame)])
    (top, left), (bottom, right) = seen.min(axis=0), seen.max(axis=0) + 1
    assert np.array([left, top, right, bottom]) == pytest.approx(np.array(frame.box) * [320, 180, 320, 180], abs=2)
    crop = pixels(face)
    assert max(face.width, face.height) == FACE_LONG_SIDE and face.width < face.height
    assert is_red(crop[face.height // 2, face.width // 2]) and not is_red(crop[2, 2])  # with a margin around it
    assert {(p.media_id, p.detector, p.logit, p.clip_index, p.track_id, p.pts_seconds) for p in (frame, face)} == {
        ("m", "facial", 2.0, 3, 1, 1.5)
    }


def test_a_film_held_upright_stays_upright():
    """Frames come with their rotation applied: a tall one stays tall."""
    box = (100, 40, 220, 180)
    made = pictures(shot((360, 640), box), box)
    assert (made["frame"].width, made["frame"].height) == (180, 320)
    assert made["frame"].box == pytest.approx((100 / 360, 40 / 640, 220 / 360, 180 / 640))


@pytest.mark.parametrize(
    ("box", "inside"),
    [
        ((-50, -40, 60, 90), (0, 0, 60, 90)),
        ((600, 300, 700, 400), (600, 300, 640, 360)),
        ((-900, -900, 900, 900), (0, 0, 640, 360)),
    ],
)
def test_what_lies_outside_the_frame_is_cut_off(box, inside):
    made = pictures(shot(box=box), box)
    x1, y1, x2, y2 = inside
    assert made["frame"].box == pytest.approx((x1 / 640, y1 / 360, x2 / 640, y2 / 360))
    left, top, right, bottom = face_window(inside, 640, 360)
    assert 0 <= left <= x1 < x2 <= right <= 640 and 0 <= top <= y1 < y2 <= bottom <= 360
    crop = pixels(made["face"])
    centre = ((y1 + y2) / 2 - top) / (bottom - top), ((x1 + x2) / 2 - left) / (right - left)
    assert is_red(crop[int(centre[0] * made["face"].height), int(centre[1] * made["face"].width)])


def test_a_small_face_is_not_blown_up():
    face = pictures(shot(box=(100, 100, 124, 124)), (100, 100, 124, 124))["face"]
    assert (face.width, face.height) == (42, 42)


@pytest.mark.parametrize("box", [(10, 10, 12, 90), (639, 10, 700, 90), (50, 50, 50, 50), (90, 90, 20, 20), None])
@pytest.mark.parametrize("bad", [False, True])
def test_without_a_face_to_see_there_is_the_frame_alone(box, bad):
    box = (float("nan"), 0, 10, 10) if bad else box
    made = pictures(shot(), box)
    assert set(made) == {"frame"} and made["frame"].box is None


def test_noise_fits_too_and_what_cannot_is_left_out(monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (720, 720, 3), dtype=np.uint8)
    for frame in (noise, noise[:, :40], noise[:5]):
        for picture in pictures(frame, (0, 0, 700, 700)).values():
            assert len(picture.jpeg) <= JPEG_BYTES and picture.jpeg[:3] == b"\xff\xd8\xff"
            assert picture.jpeg[-2:] == b"\xff\xd9"
    monkeypatch.setattr("deephotlink.transforms.pictures.cutting.JPEG_BYTES", 500)
    assert jpeg_of(noise, FRAME_LONG_SIDE) is None and not pictures(noise, None, pts_seconds=2.0)


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1), (3840, 2160)])
def test_any_shape_of_frame_has_a_picture(size):
    made = pictures(shot(size, (0, 0, 0, 0)), None)["frame"]
    assert max(made.width, made.height) <= FRAME_LONG_SIDE and min(made.width, made.height) >= 1


def test_a_moment_that_is_no_moment_has_none():
    assert not pictures(shot(), None, pts_seconds=float("nan"))


def test_the_same_pixels_are_the_same_bytes():
    assert pictures(shot(), (200, 100, 300, 220)) == pictures(shot(), (200, 100, 300, 220))


def test_detectors_that_judge_one_moment_have_it_encoded_once(monkeypatch):
    encoded = []
    monkeypatch.setattr(cutting, "jpeg_of", lambda pixels, side: encoded.append(1) or jpeg_of(pixels, side))
    frame, box = shot(), (200, 100, 300, 220)
    for detector in ("a", "b"):
        found = {p.kind: p for p in cut("shared", detector, 1.0, 0, 0, 2.0, frame, box)}
        assert {p.detector for p in found.values()} == {detector} and len(encoded) == 2
    other = {p.kind: p for p in cut("shared", "a", 1.0, 0, 1, 2.0, frame, (20, 20, 90, 90))}  # another face in it
    assert len(encoded) == 3 and other["frame"].jpeg == found["frame"].jpeg and other["face"].jpeg != found["face"].jpeg
    frame[:] = 0  # the same memory, a later moment
    later = {p.kind: p for p in cut("shared", "a", 1.0, 0, 0, 3.0, frame, box)}
    assert len(encoded) == 5 and later["frame"].jpeg != found["frame"].jpeg


def test_what_is_remembered_is_bounded():
    recent = cutting._Recent(3)
    for number in range(9):
        recent.get((number,), lambda: None)
    assert len(recent._found) == 3
