from __future__ import annotations

import copy
import json

import pytest
import torch

from deephotlink.models.adapters.detector_spec import files_beside
from deephotlink.models.adapters.items import to_logits
from deephotlink.models.adapters.licences import forbids_commercial_use
from deephotlink.models.adapters.settings import read_settings
from deephotlink.models.adapters.settings_reader import EXAMPLE
from deephotlink.models.weights.files import WeightsError
from tests.models.adapters.exported import FACES, FILM, PICTURES, SOUND


def read(found):
    return read_settings(json.dumps(found).encode(), "m.json")


def test_the_example_in_the_messages_is_valid():
    settings = read(json.loads(EXAMPLE))
    assert (settings.unit, settings.fake, settings.real, settings.rows) == ("face_track", (1,), (0,), 4)
    assert settings.row_shape == (3, 224, 224)


def test_shapes_follow_from_the_settings():
    assert read(PICTURES).row_shape == (3, 32, 32)
    assert read(FILM).row_shape == (4, 3, 32, 32)
    assert read({**FILM, "image": {"size": 40, "crop": [24, 32], "video_frames": 4, "layout": "BCTHW"}}).row_shape == (
        3,
        4,
        24,
        32,
    )
    assert read(SOUND).row_shape == (2000,)
    assert read({**PICTURES, "image": {"size": 40}}).image.preprocessing.size == (40, 40)
    assert read({**PICTURES, "image": {"size": 40, "crop": 32}}).image.preprocessing.size == 40


@pytest.mark.parametrize(
    ("base", "path", "value", "match"),
    [
        (PICTURES, "unit", "video", "'unit': expected one of 'clip', 'face_track', 'audio_window', got 'video'"),
        (PICTURES, "family", "audio", "'family': expected one of 'facial', 'synthetic'"),
        (SOUND, "family", "facial", "'family': expected one of 'audio'"),
        (PICTURES, "output", "score", "'output': expected one of"),
        (PICTURES, "output", ["logits"], "'output': expected one of"),
        (PICTURES, "fake", -1, "'fake': expected the class's number, counted from 0"),
        (PICTURES, "fake", True, "'fake': expected the class's number"),
        (PICTURES, "fake", "fake", "'fake': expected the class's number"),
        (PICTURES, "fake", [1, 1], "'fake': expected the class's number"),
        (PICTURES, "fake", 0, "'fake': expected classes other than those in 'real'"),
        (PICTURES, "batch_size", 0, "'batch_size': expected a whole number, 1 to 1024, got 0"),
        (PICTURES, "batch_size", 2.0, "'batch_size': expected a whole number"),
        (PICTURES, "batch_size", 10**30, "'batch_size': expected a whole number"),
        (PICTURES, "licence", "", "'licence': expected a line of text"),
        (PICTURES, "licence", "MIT\x1b[31m", "'licence': expected a line of text"),
        (PICTURES, "precision", "int8", "'precision': expected one of"),
        (PICTURES, "trust_remote_code", True, "'trust_remote_code' is not a setting"),
        (PICTURES, "image", [], "'image': expected an object"),
        (PICTURES, "image.size", [32], r"'image.size': expected \[height, width\]"),
        (PICTURES, "image.size", 4, r"'image.size': expected \[height, width\]"),
        (PICTURES, "image.size", 100_000, r"'image.size': expected \[height, width\]"),
        (PICTURES, "image.mean", [0.5], "'image.mean': expected three numbers"),
        (PICTURES, "image.std", [0, 1, 1], "'image.std': expected three positive numbers"),
        (PICTURES, "image.resample", "lanczos", "'image.resample': expected one of"),
        (PICTURES, "image.frames", 0, "'image.frames': expected a whole number"),
        (PICTURES, "image.window", 1, "'image.window' is not a setting"),
        (PICTURES, "image.layout", "BTCHW", "'image.layout' is not a setting"),
        (FILM, "image.layout", "CTHW", "'image.layout': expected one of 'BTCHW', 'BCTHW'"),
        (FILM, "image.frames", 4, "'image.frames' is not a setting"),
        (SOUND, "audio.window_samples", 1, "'audio.window_samples': expected a whole number"),
        (SOUND, "audio.short", "loop", "'audio.short': expected one of 'tile', 'pad'"),
        (SOUND, "image", {}, "'image' is not a setting"),
    ],
)
def test_each_wrong_value_is_named(base, path, value, match):
    found = copy.deepcopy(dict(base))
    where = found
    *sections, key = path.split(".")
    for section in sections:
        where = where[section]
    where[key] = value
    with pytest.raises(WeightsError, match=f"m.json: {match}"):
        read(found)


@pytest.mark.parametrize("key", ["family", "unit", "output", "fake", "real", "licence", "image"])
def test_nothing_that_matters_has_a_default(key):
    with pytest.raises(WeightsError, match=f"'{key}' is missing(.|\n)*a minimal example"):
        read({k: v for k, v in PICTURES.items() if k != key})


def test_the_polarity_of_one_number_has_to_be_said():
    found = {k: v for k, v in PICTURES.items() if k not in ("fake", "real")} | {"output": "logit"}
    with pytest.raises(WeightsError, match="'positive' is missing"):
        read(found)
    assert read({**found, "positive": "real"}).positive == "real"
    with pytest.raises(WeightsError, match="'fake' is not a setting"):
        read({**found, "positive": "real", "fake": 1})


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'"x"', b"\xff\xfe", b"[" * 100_000, b'{"unit": 1, "unit": 2}'])
def test_what_is_no_json_object_is_refused(data):
    with pytest.raises(WeightsError, match=r"m\.json: "):
        read_settings(data, "m.json")
    with pytest.raises(WeightsError, match="at most 1048576 bytes"):
        read_settings(b" " * (1 << 21), "m.json")


def test_nan_is_no_number():
    data = json.dumps({**PICTURES, "image": {"size": 32, "mean": [float("nan"), 0, 0]}}).encode()
    with pytest.raises(WeightsError, match=r"'image.mean': expected three numbers"):
        read_settings(data, "m.json")


@pytest.mark.parametrize(
    ("text", "forbidden"),
    [
        ("CC-BY-NC-4.0", True),
        ("cc-by-nc-sa-4.0", True),
        ("Non-Commercial use", True),
        ("noncommercial", True),
        ("for research purposes only", True),
        ("Research use only", True),
        ("academic and research use only", True),
        ("not for commercial use", True),
        ("no commercial use", True),
        ("only for research", True),
        ("MIT", False),
        ("Apache-2.0", False),
        ("CC-BY-4.0", False),
        ("GPL-3.0-only", False),
        ("BSD-3-Clause", False),
        ("NCSA", False),
        ("OpenRAIL", False),
    ],
)
def test_licences_that_forbid_commercial_use(text, forbidden):
    assert forbids_commercial_use(text) is forbidden
    assert read({**PICTURES, "licence": text}).commercial_use is not forbidden
    if forbidden:
        with pytest.raises(WeightsError, match="'commercial_use': expected false"):
            read({**PICTURES, "licence": text, "commercial_use": True})
    assert read({**PICTURES, "licence": text, "commercial_use": False}).commercial_use is False


def test_every_kind_of_output_becomes_a_logit_for_manipulated():
    one = {k: v for k, v in PICTURES.items() if k not in ("fake", "real")}
    answers = torch.tensor([[1.0, 3.0, 0.5], [2.0, -1.0, 0.0]])
    many = read({**PICTURES, "fake": [1, 2], "real": 0})
    expected = answers[:, 1:].logsumexp(1) - answers[:, 0]
    assert torch.allclose(to_logits(answers, many), expected)
    shares = read({**PICTURES, "output": "probabilities", "fake": [1, 2], "real": 0})
    assert torch.allclose(to_logits(answers.softmax(1), shares), expected, atol=1e-5)
    for kind, given in (("logit", answers[:, 0]), ("probability", answers[:, 0].sigmoid())):
        fake, real = (read({**one, "output": kind, "positive": p}) for p in ("fake", "real"))
        assert torch.allclose(to_logits(given, fake), answers[:, 0], atol=1e-5)
        assert torch.allclose(to_logits(given[:, None], real), -answers[:, 0], atol=1e-5)
    sure = read({**one, "output": "probability", "positive": "fake"})
    assert torch.isfinite(to_logits(torch.tensor([0.0, 1.0]), sure)).all()
    with pytest.raises(RuntimeError, match=r"expected numbers in \[0, 1\]"):
        to_logits(torch.tensor([3.0]), sure)
    with pytest.raises(RuntimeError, match="needs 1 numbers per row, but the model returned 3"):
        to_logits(answers, sure)


def test_files_stand_beside_one_another(tmp_path):
    def files(reference):
        return files_beside(reference, "onnx", (".onnx",), "torch.onnx.export")

    with pytest.raises(WeightsError, match=r"expected onnx:FILE.onnx, got onnx:model.pkl"):
        files("model.pkl")
    with pytest.raises(WeightsError, match="no such file"):
        files(f"{tmp_path}/m.onnx")
    (tmp_path / "m.onnx").write_bytes(b"x")
    with pytest.raises(WeightsError, match=r'm.onnx.json or m.json beside it(.|\n)*"family"'):
        files(f"{tmp_path}/m.onnx")
    (tmp_path / "m.json").write_text("{}")
    assert files(f"{tmp_path}/m.onnx")["settings"] == f"{tmp_path}/m.json"
    (tmp_path / "m.onnx.json").write_text("{}")
    assert files(f"{tmp_path}/m.onnx")["settings"] == f"{tmp_path}/m.onnx.json"


@pytest.mark.parametrize("name", ["a.onnx", "a.onnx.json"])
def test_huge_files_are_refused_before_they_are_read(tmp_path, name):
    for file in ("a.onnx", "a.onnx.json"):
        (tmp_path / file).write_bytes(b"{}")
    with (tmp_path / name).open("wb") as file:
        file.truncate(1 << 40)  # sparse
    with pytest.raises(WeightsError, match=r"expected at most .* it has 1099511627776"):
        files_beside(str(tmp_path / "a.onnx"), "onnx", (".onnx",), "torch.onnx.export")


def test_everything_in_one_detector_of_faces():
    settings = read({**FACES, "blind_to": "masks", "summary": "ours", "version": "3", "method": "a paper"})
    assert (settings.blind_to, settings.summary, settings.version, settings.method) == ("masks", "ours", "3", "a paper")
