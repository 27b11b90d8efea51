from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from deephotlink.models.adapters.torch_export import adapter
from deephotlink.models.batches import spread
from deephotlink.models.registry import adapter_of, make
from deephotlink.models.weights.files import WeightsError
from tests.models.adapters.exported import (
    CLOSE,
    FACES,
    FILM,
    PICTURES,
    SOUND,
    FirstPixels,
    eager_picture_logit,
    loaded,
    make_audio_item,
    make_clip_item,
    make_track_item,
    tiny_vit,
    tiny_wav2vec2,
    to_pt2,
    weights_of,
)


@pytest.fixture(scope="module")
def vit():
    return tiny_vit()


@pytest.fixture(scope="module")
def vit_pt2(vit):
    return to_pt2(vit, torch.randn(3, 3, 32, 32))


def test_a_clip_scores_as_the_eager_model_on_the_same_frames(tmp_path, vit, vit_pt2):
    detector = loaded(adapter, weights_of(tmp_path, "vit.pt2", vit_pt2, PICTURES))
    items = [make_clip_item(8, 32, 32, seed=s) for s in range(3)]
    answers = detector.score(items)
    for item, answer in zip(items, answers, strict=True):
        pictures = torch.from_numpy(item.frames[spread(8, 3)]).permute(0, 3, 1, 2)
        assert answer.logit == pytest.approx(eager_picture_logit(vit, pictures), abs=CLOSE)
    assert len({answer.logit for answer in answers}) == 3


def test_a_face_scores_as_the_eager_model_on_its_crops(tmp_path, vit, vit_pt2):
    settings = {**FACES, "image": {**FACES["image"], "face_scale": 1.0, "face_square": False}}
    detector = loaded(adapter, weights_of(tmp_path, "vit.pt2", vit_pt2, settings))
    track = make_track_item(side=32.0)
    track.boxes[:, 3] = track.boxes[:, 1] + 32  # crops that need no resizing
    (answer,) = detector.score([track])
    crops = [
        track.clip.frames[i][int(y1) : int(y2), int(x1) : int(x2)]
        for i in spread(8, 3)
        for x1, y1, x2, y2 in [track.boxes[i]]
    ]
    pictures = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)
    assert answer.logit == pytest.approx(eager_picture_logit(vit, pictures), abs=CLOSE)


def test_sound_scores_as_the_eager_model_and_short_sound_is_tiled(tmp_path):
    model = tiny_wav2vec2()
    detector = loaded(adapter, weights_of(tmp_path, "w.pt2", to_pt2(model, torch.randn(2, 2000)), SOUND))
    whole, short = make_audio_item(2000), make_audio_item(700, seed=1)
    answers = detector.score([whole, short, make_audio_item(0)])
    for item, answer in zip((whole, short), answers, strict=False):
        samples = torch.from_numpy(item.samples).double()
        samples = ((samples - samples.mean()) / (samples.var(correction=0) + 1e-7).sqrt()).float()
        with torch.inference_mode():
            (logits,) = model(samples.repeat(3)[None, :2000])
        assert answer.logit == pytest.approx(float(logits[0] - logits[1]), abs=CLOSE)
    assert answers[2].abstained == "no_audio"


def test_a_film_goes_in_as_one_row_in_either_layout(tmp_path):
    class Film(nn.Module):
        def forward(self, rows):  # (B, T, C, H, W): the first frame's red, and the last frame's
            return rows[:, [0, -1], 0].mean((2, 3))

    item = make_clip_item(8, 32, 32)
    order = range(4)  # at the 10 Hz of the clip: fewer than the 30 that the settings ask for
    expected = float(item.frames[order[-1], ..., 0].mean() - item.frames[order[0], ..., 0].mean()) / 255
    data = to_pt2(Film(), torch.randn(2, 4, 3, 32, 32))
    answers = loaded(adapter, weights_of(tmp_path, "film.pt2", data, FILM)).score([item, make_clip_item(1)])
    assert answers[0].logit == pytest.approx(expected, abs=CLOSE)
    assert answers[1].abstained == "too_short"

    class Turned(nn.Module):
        def forward(self, rows):
            return Film()(rows.transpose(1, 2))

    data = to_pt2(Turned(), torch.randn(2, 3, 4, 32, 32))
    settings = {**FILM, "image": {**FILM["image"], "layout": "BCTHW"}}
    (answer,) = loaded(adapter, weights_of(tmp_path, "turned.pt2", data, settings)).score([item])
    assert answer.logit == pytest.approx(expected, abs=CLOSE)


@pytest.mark.parametrize(("fixed", "rows", "most"), [(True, 4, 0), (True, 1, 0), (False, 3, 5)])
def test_a_program_of_a_fixed_or_bounded_batch_runs_in_passes(tmp_path, fixed, rows, most):
    data = to_pt2(FirstPixels(), torch.randn(rows, 3, 32, 32), fixed=fixed, most=most or 64)
    detector = loaded(adapter, weights_of(tmp_path, "fixed.pt2", data, PICTURES))
    items = [make_clip_item(8, 32, 32, seed=s) for s in range(3)]
    for item, answer in zip(items, detector.score(items), strict=True):
        means = item.frames[spread(8, 3)].mean((0, 1, 2)) / 255
        expected = (means[1] - 0.4) / 0.3 - (means[0] - 0.5) / 0.2
        assert answer.logit == pytest.approx(expected, abs=1e-4)


def test_neighbours_keep_their_bits_when_one_item_fails(tmp_path, vit_pt2):
    detector = loaded(adapter, weights_of(tmp_path, "vit.pt2", vit_pt2, PICTURES))
    first, second = make_clip_item(seed=1), make_clip_item(seed=2)
    clean = detector.score([first, second])
    broken = make_clip_item(0)
    answers = detector.score([broken, second])
    assert answers[0].abstained == "too_short"
    assert answers[1] == clean[1]


def test_nan_abstains_and_does_not_spread(tmp_path):
    class Fragile(nn.Module):
        def forward(self, rows):
            means = rows.mean((2, 3))[:, :2]
            return means / (means > 0.1).float()  # 0 / 0 for a black picture

    data = to_pt2(Fragile(), torch.rand(2, 3, 32, 32))
    settings = {**PICTURES, "image": {"size": [32, 32]}}
    black = make_clip_item(8, 32, 32)
    black.frames[:] = 0
    for output in ({"output": "logits"}, {"output": "probabilities"}):
        detector = loaded(adapter, weights_of(tmp_path, "nan.pt2", data, {**settings, **output}))
        answers = detector.score([black, make_clip_item(8, 32, 32)])
        assert answers[0].abstained == "detector_error"
        assert answers[1].logit is not None


def test_a_program_in_half_precision_takes_half_rows(tmp_path):
    data = to_pt2(FirstPixels().half(), torch.rand(2, 3, 32, 32).half())
    item = make_clip_item(8, 32, 32)
    with pytest.raises(WeightsError, match=r"'precision' 'float32', but the program takes torch.float16"):
        loaded(adapter, weights_of(tmp_path, "half.pt2", data, PICTURES))
    (half,) = loaded(adapter, weights_of(tmp_path, "half.pt2", data, {**PICTURES, "precision": "float16"})).score(
        [item]
    )
    full_data = to_pt2(FirstPixels(), torch.rand(2, 3, 32, 32))
    (full,) = loaded(adapter, weights_of(tmp_path, "full.pt2", full_data, PICTURES)).score([item])
    assert half.logit == pytest.approx(full.logit, abs=5e-3)
    assert half.logit != full.logit


def test_the_number_of_classes_is_held_against_the_settings(tmp_path):
    class One(nn.Module):
        def forward(self, rows):
            return rows.mean((1, 2, 3))

    data = to_pt2(One(), torch.rand(2, 3, 32, 32))
    with pytest.raises(WeightsError, match="needs 2 numbers per row, but the model returned 1"):
        loaded(adapter, weights_of(tmp_path, "one.pt2", data, PICTURES))


def test_the_shape_of_the_input_is_held_against_the_settings(tmp_path, vit_pt2):
    settings = {**PICTURES, "image": {"size": 64}}
    with pytest.raises(WeightsError, match=r"\(batch, 3, 64, 64\), but the model takes \(any, 3, 32, 32\)"):
        loaded(adapter, weights_of(tmp_path, "vit.pt2", vit_pt2, settings))


def test_small_faces_abstain(tmp_path, vit_pt2):
    detector = loaded(adapter, weights_of(tmp_path, "vit.pt2", vit_pt2, FACES))
    (answer,) = detector.score([make_track_item(side=6.0)])
    assert answer.abstained == "low_resolution"


def test_the_spec_says_what_the_settings_say(tmp_path, vit_pt2):
    weights = weights_of(tmp_path, "vit.pt2", vit_pt2, {**FACES, "licence": "CC-BY-NC-4.0", "blind_to": "cats"})
    name = f"torch:{tmp_path}/vit.pt2"
    module = adapter_of(name)
    files = module.files_of(f"{tmp_path}/vit.pt2", tmp_path)
    assert files == {role: file.path for role, file in weights.files.items()}
    spec = module.describe(name, weights)
    assert (spec.name, spec.origin, spec.architecture) == (name, "yours", "torch.export program")
    assert (spec.family, spec.unit, spec.needs) == ("facial", "face_track", {"frames", "faces"})
    assert (spec.commercial_use, spec.blind_to, spec.batch_size) == (False, "cats", 2)
    assert {file.role: file.sha256 for file in spec.weights} == {r: f.sha256 for r, f in weights.files.items()}
    assert spec.weights_sha256 == weights.sha256
    assert "(32, 32)" in spec.input and "fake [1], real [0]" in spec.output
    assert type(make(spec, weights)).__name__ == "TorchExportDetector"


@pytest.mark.needs_cuda
def test_on_cuda_it_agrees_with_the_cpu(tmp_path, vit_pt2):
    weights = weights_of(tmp_path, "vit.pt2", vit_pt2, PICTURES)
    items = [make_clip_item(seed=s) for s in range(4)]
    cpu, cuda = (loaded(adapter, weights, device) for device in ("cpu", "cuda:0"))
    for a, b in zip(cpu.score(items), cuda.score(items), strict=True):
        assert a.logit == pytest.approx(b.logit, abs=cpu.spec.device_tolerance)
