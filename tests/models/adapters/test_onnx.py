from __future__ import annotations

import logging

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from deephotlink.models.adapters.onnx import adapter, file_check
from deephotlink.models.adapters.onnx.file_check import check_onnx
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
    to_onnx,
    weights_of,
)


@pytest.fixture(scope="module")
def vit():
    return tiny_vit()


@pytest.fixture(scope="module")
def vit_onnx(vit):
    return to_onnx(vit, torch.randn(3, 3, 32, 32))


def test_clips_and_faces_score_as_the_eager_model(tmp_path, vit, vit_onnx):
    detector = loaded(adapter, weights_of(tmp_path, "vit.onnx", vit_onnx, PICTURES))
    items = [make_clip_item(8, 32, 32, seed=s) for s in range(3)]
    for item, answer in zip(items, detector.score(items), strict=True):
        pictures = torch.from_numpy(item.frames[spread(8, 3)]).permute(0, 3, 1, 2)
        assert answer.logit == pytest.approx(eager_picture_logit(vit, pictures), abs=CLOSE)
    settings = {**FACES, "image": {**FACES["image"], "face_scale": 1.0, "face_square": False}}
    detector = loaded(adapter, weights_of(tmp_path, "faces.onnx", vit_onnx, settings))
    track = make_track_item(side=32.0)
    track.boxes[:, 3] = track.boxes[:, 1] + 32
    crops = [track.clip.frames[i][6:38, 4 + i : 36 + i] for i in spread(8, 3)]
    (answer,) = detector.score([track])
    pictures = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)
    assert answer.logit == pytest.approx(eager_picture_logit(vit, pictures), abs=CLOSE)


def test_sound_scores_as_the_eager_model(tmp_path):
    model = tiny_wav2vec2()
    detector = loaded(adapter, weights_of(tmp_path, "w.onnx", to_onnx(model, torch.randn(2, 2000)), SOUND))
    items = [make_audio_item(2000), make_audio_item(700, seed=1), make_audio_item(2000, seed=2)]
    for item, answer in zip(items, detector.score(items), strict=True):
        samples = torch.from_numpy(item.samples).double()
        samples = ((samples - samples.mean()) / (samples.var(correction=0) + 1e-7).sqrt()).float()
        with torch.inference_mode():
            (logits,) = model(samples.repeat(3)[None, :2000])
        assert answer.logit == pytest.approx(float(logits[0] - logits[1]), abs=CLOSE)


@pytest.mark.parametrize("rows", [1, 4])
def test_a_model_of_a_fixed_batch_runs_in_passes(tmp_path, rows):
    data = to_onnx(FirstPixels(), torch.randn(rows, 3, 32, 32), fixed=True)
    detector = loaded(adapter, weights_of(tmp_path, "fixed.onnx", data, PICTURES))
    items = [make_clip_item(8, 32, 32, seed=s) for s in range(3)]
    for item, answer in zip(items, detector.score(items), strict=True):
        means = item.frames[spread(8, 3)].mean((0, 1, 2)) / 255
        expected = (means[1] - 0.4) / 0.3 - (means[0] - 0.5) / 0.2
        assert answer.logit == pytest.approx(expected, abs=1e-4)


def test_films_go_in_as_one_row(tmp_path):
    class Film(nn.Module):
        def forward(self, rows):
            return rows[:, :, 0].mean((2, 3))[:, [0, 3]]

    item = make_clip_item(8, 32, 32)
    order = range(4)  # at the 10 Hz of the clip: fewer than the 30 that the settings ask for
    expected = float(item.frames[order[3], ..., 0].mean() - item.frames[order[0], ..., 0].mean()) / 255
    data = to_onnx(Film(), torch.randn(2, 4, 3, 32, 32))
    (answer,) = loaded(adapter, weights_of(tmp_path, "film.onnx", data, FILM)).score([item])
    assert answer.logit == pytest.approx(expected, abs=CLOSE)


def test_half_rows_nan_and_neighbours(tmp_path):
    class Fragile(nn.Module):
        def forward(self, rows):
            means = rows.mean((2, 3))[:, :2]
            return means / (means > 0.1).to(means.dtype)

    data = to_onnx(Fragile().half(), torch.rand(2, 3, 32, 32).half())
    settings = {**PICTURES, "image": {"size": [32, 32], "frames": 3}, "precision": "float16"}
    detector = loaded(adapter, weights_of(tmp_path, "half.onnx", data, settings))
    black, other, third = (
        make_clip_item(8, 32, 32),
        make_clip_item(8, 32, 32, seed=1),
        make_clip_item(8, 32, 32, seed=2),
    )
    clean = detector.score([third, other])
    black.frames[:] = 0
    answers = detector.score([black, other])
    assert answers[0].abstained == "detector_error"
    assert answers[1] == clean[1]
    with pytest.raises(WeightsError, match=r"'precision' 'float32', but its input 'rows' is tensor\(float16\)"):
        loaded(adapter, weights_of(tmp_path, "half.onnx", data, {**settings, "precision": "float32"}))


def test_one_number_and_its_sign(tmp_path):
    class Sure(nn.Module):
        def forward(self, rows):
            return torch.sigmoid(rows.mean((1, 2, 3)))

    data = to_onnx(Sure(), torch.randn(2, 3, 32, 32))
    settings = {key: value for key, value in PICTURES.items() if key not in ("fake", "real")} | {
        "output": "probability"
    }
    logits = [
        loaded(adapter, weights_of(tmp_path, "p.onnx", data, {**settings, "positive": high})).score([make_clip_item()])
        for high in ("fake", "real")
    ]
    assert logits[0][0].logit == pytest.approx(-logits[1][0].logit, abs=CLOSE)
    assert abs(logits[0][0].logit) > 0.01


def test_shapes_and_files_are_held_against_the_settings(tmp_path, vit_onnx):
    with pytest.raises(WeightsError, match=r"\(batch, 3, 64, 64\), but the model takes \(any, 3, 32, 32\)"):
        loaded(adapter, weights_of(tmp_path, "vit.onnx", vit_onnx, {**PICTURES, "image": {"size": 64}}))
    weights = weights_of(tmp_path, "vit.onnx", vit_onnx, PICTURES)
    name = f"onnx:{tmp_path}/vit.onnx"
    files = adapter_of(name).files_of(f"{tmp_path}/vit.onnx", tmp_path)
    assert files == {role: file.path for role, file in weights.files.items()}
    spec = adapter.describe(name, weights)
    assert (spec.name, spec.architecture, spec.origin) == (name, "ONNX graph", "yours")
    assert type(make(spec, weights)).__name__ == "OnnxDetector"
    (tmp_path / "vit.onnx").write_bytes(vit_onnx + b"\0")
    with pytest.raises(WeightsError, match="the file was changed"):
        make(spec, weights).load("cpu")


def test_without_a_cuda_provider_it_says_so(vit_onnx, caplog, monkeypatch):
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with caplog.at_level(logging.WARNING):
        session = adapter.open_session(vit_onnx, "vit.onnx", torch.device("cuda"))
    assert session.get_providers() == ["CPUExecutionProvider"]
    assert "install onnxruntime-gpu" in caplog.text


def external(name="secret.bin"):
    tensor = TensorProto(name="w", dims=[3], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=name)
    return tensor


def adding(tensor=None, *nodes, **more):
    """A model that adds a tensor `w` to its input."""
    value = helper.make_tensor_value_info("rows", TensorProto.FLOAT, [None, 3])
    result = helper.make_tensor_value_info("out", TensorProto.FLOAT, [None, 3])
    add = helper.make_node("Add", ["rows", "w"], ["out"])
    graph = helper.make_graph([*nodes, add], "g", [value], [result], initializer=[tensor] if tensor else [])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, **more)


def hidden_in_a_branch():
    constant = helper.make_node("Constant", [], ["c"], value=external())
    out = helper.make_tensor_value_info("c", TensorProto.FLOAT, [3])
    branch = helper.make_graph([constant], "b", [], [out])
    return adding(None, helper.make_node("If", ["rows"], ["w"], then_branch=branch, else_branch=branch))


def hidden_in_a_function():
    constant = helper.make_node("Constant", [], ["c"], value=external())
    function = helper.make_function("mine", "F", [], ["c"], [constant], [helper.make_opsetid("", 17)])
    return adding(None, helper.make_node("F", [], ["w"], domain="mine"), functions=[function])


def hidden_in_a_sparse_tensor():
    sparse = onnx.SparseTensorProto(dims=[3], values=external(), indices=external())
    return adding(None, helper.make_node("Constant", [], ["w"], sparse_value=sparse))


@pytest.mark.parametrize(
    "model",
    [
        adding(external()),
        adding(external("/etc/passwd")),
        adding(external("../../x")),
        adding(external("*/_ORT_MEM_ADDR_/*")),
        hidden_in_a_branch(),
        hidden_in_a_function(),
        hidden_in_a_sparse_tensor(),
    ],
)
def test_tensors_in_other_files_are_refused(tmp_path, monkeypatch, model):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.bin").write_bytes(np.ones(3, np.float32).tobytes())
    with pytest.raises(WeightsError, match=r"refused x.onnx \(none of it was run\): it keeps tensors in other files"):
        check_onnx(model.SerializeToString(), "x.onnx")


def test_onnxruntime_itself_would_not_find_them_either(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.bin").write_bytes(np.ones(3, np.float32).tobytes())
    with pytest.raises(WeightsError, match="expected an ONNX model that onnxruntime can run"):
        adapter.open_session(adding(external()).SerializeToString(), "x.onnx", torch.device("cpu"))


def test_plug_ins_training_and_unknown_operators_are_refused(tmp_path):
    context = helper.make_node("EPContext", ["rows"], ["w"], domain="com.microsoft", embed_mode=0, ep_cache_context="x")
    with pytest.raises(WeightsError, match="the operator EPContext loads code"):
        check_onnx(adding(None, context).SerializeToString(), "x.onnx")
    training = adding(external())
    training.graph.ClearField("initializer")
    training.training_info.add()
    with pytest.raises(WeightsError, match="instructions for training"):
        check_onnx(training.SerializeToString(), "x.onnx")
    unknown = adding(None, helper.make_node("Run", ["rows"], ["w"], domain="evil"), functions=[])
    unknown.opset_import.add(domain="evil", version=1)
    settings = {**PICTURES, "image": {"size": [32, 32]}}
    with pytest.raises(WeightsError, match="expected an ONNX model that onnxruntime can run"):
        loaded(adapter, weights_of(tmp_path, "x.onnx", unknown.SerializeToString(), settings))


@pytest.mark.parametrize("operator", ["Loop", "Scan", "SequenceMap"])
def test_loops_which_may_never_end_are_refused(operator):
    with pytest.raises(WeightsError, match=f"the operator {operator} may never end"):
        check_onnx(adding(None, helper.make_node(operator, ["rows"], ["w"])).SerializeToString(), "x.onnx")


def calling(width, *ring):
    """F0 is an operator, each of the others calls the one before it `width` times."""
    functions = [
        helper.make_function(
            "mine",
            f"F{level}",
            ["x"],
            ["x"],
            [helper.make_node(f"F{level - 1}" if level else "Neg", ["x"], ["x"], domain="mine" if level else "")]
            * (width if level else 1),
            [helper.make_opsetid("mine", 1)],
        )
        for level in range(8)
    ]
    functions[0].node.extend(helper.make_node(name, ["x"], ["x"], domain="mine") for name in ring)
    return adding(None, helper.make_node("F7", ["rows"], ["w"], domain="mine"), functions=functions)


def test_functions_that_unfold_without_end_are_refused():
    check_onnx(calling(2).SerializeToString(), "x.onnx")
    with pytest.raises(WeightsError, match="unfold to more than"):
        check_onnx(calling(10).SerializeToString(), "x.onnx")
    with pytest.raises(WeightsError, match="recursively"):
        check_onnx(calling(1, "F3").SerializeToString(), "x.onnx")


def test_many_small_fields_are_refused(monkeypatch):
    monkeypatch.setattr(file_check, "MOST_FIELDS", 1000)
    with pytest.raises(WeightsError, match="too many parts"):
        check_onnx(b"\x08\x08" * 1001, "x.onnx")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(100),
        b"not a model",
        b"\x80\x04\x95" * 50,
        b"PK\x03\x04" * 20,
        b"\xff" * 100,
        b"\x3a\xff\xff\xff\xff\x0f",
        b"\x10\x00\x00\x00ORTM" + b"\0" * 50,
        b"\x38\x01",
    ],
)
def test_garbage_is_refused(data):
    with pytest.raises(WeightsError, match=r"expected an ONNX model in x.onnx"):
        check_onnx(data, "x.onnx")


def test_half_a_file_and_endless_nesting_are_refused(vit_onnx):
    with pytest.raises(WeightsError, match="expected an ONNX model"):
        check_onnx(vit_onnx[: len(vit_onnx) // 2], "x.onnx")
    message = b""
    for _ in range(100):  # graph → node → attribute → graph → …

        def field(number: int, body: bytes) -> bytes:
            size, head = len(body), bytes([number << 3 | 2])
            while size > 127:
                head, size = head + bytes([size & 127 | 128]), size >> 7
            return head + bytes([size]) + body

        message = field(1, field(5, field(6, message)))
    with pytest.raises(WeightsError, match="nested too deep"):
        check_onnx(field(7, message), "x.onnx")


@pytest.mark.needs_cuda
def test_on_cuda_it_agrees_with_the_cpu(tmp_path, vit_onnx):
    weights = weights_of(tmp_path, "vit.onnx", vit_onnx, PICTURES)
    items = [make_clip_item(seed=s) for s in range(4)]
    cpu, cuda = (loaded(adapter, weights, device) for device in ("cpu", "cuda:0"))
    for a, b in zip(cpu.score(items), cuda.score(items), strict=True):
        assert a.logit == pytest.approx(b.logit, abs=cpu.spec.device_tolerance)
