"""Checkpoints from strangers: no code in them runs, none of them hangs us, and the error says what is wrong."""

from __future__ import annotations

import builtins
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from deephotlink.models.weights import pickle_check
from deephotlink.models.weights.checkpoints import (
    load_exactly,
    read_object,
    read_safetensors,
    read_safetensors_part,
    read_torch,
)
from deephotlink.models.weights.files import WeightsError

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2, dtype=torch.bfloat16)}


class Evil:
    def __init__(self, function, *arguments):
        self.asked = function, arguments

    def __reduce__(self):
        return self.asked


def saved(value, zipped: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def packed(pickle_bytes: bytes, method: int = zipfile.ZIP_STORED, **more: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in {"data.pkl": pickle_bytes, "byteorder": b"little", "version": b"3\n", **more}.items():
            archive.writestr(f"a/{name}", data)
    return buffer.getvalue()


def opcodes(*parts: bytes) -> bytes:
    """A dictionary whose one key is what the parts leave on the stack."""
    return b"\x80\x02}" + b"".join(parts) + b"K\x01s."


def asking(name: str) -> bytes:
    module, _, last = name.rpartition(".")
    return f"c{module}\n{last}\n".encode()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrapped", [None, "state_dict", "model"])
def test_tensors_come_back_as_they_were(zipped, wrapped):
    tensors = {f"module.{key}": torch.nn.Parameter(value) for key, value in TENSORS.items()}
    beside = {"epoch": 3, "best": np.float64(0.5), "betas": (0.9, 0.99)}
    found = read_torch(saved({wrapped: tensors, **beside} if wrapped else tensors, zipped), "x.pth")
    assert list(found) == list(TENSORS)
    assert all(torch.equal(found[key], value) and found[key].dtype == value.dtype for key, value in TENSORS.items())


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("where", ["alone", "as a value", "beside"])
def test_code_in_a_file_of_tensors_never_runs(tmp_path, zipped, where):
    ran = tmp_path / "ran"
    for evil in (
        Evil(Path.touch, ran),
        Evil(os.system, f"touch {ran}"),
        Evil(builtins.eval, f"open({str(ran)!r}, 'w')"),
        Evil(torch.load, str(ran)),
        Evil(np.load, str(ran)),
    ):
        value = {"alone": evil, "as a value": {**TENSORS, "x": evil}, "beside": {"model": TENSORS, "x": evil}}[where]
        with pytest.raises(WeightsError, match=r"refused, none of it was run \(ValueError: it asks for "):
            read_torch(saved(value, zipped), "x.pth")
        with pytest.raises(WeightsError, match="none of it was run"):
            read_torch(pickle.dumps(value), "x.pth")
    assert not ran.exists()


@pytest.mark.parametrize(
    "data",
    [
        opcodes(b")q\x00", *[b"h\x00\x86q\x00".replace(b"h\x00", b"h\x00h\x00")] * 40),
        opcodes(b")", b"\x85" * 3_000_000),
        opcodes(b"(", b"K\x01" * 300, b"t"),
    ],
    ids=["2^40 leaves", "deeper than the stack", "wide"],
)
def test_keys_that_take_for_ever_to_hash_are_refused(data):
    for file in (packed(data), data):
        with pytest.raises(WeightsError, match=r"a tuple in it has more than 200 parts"):
            read_torch(file, "x.pth")


@pytest.mark.parametrize(
    "name",
    [
        "builtins.bytearray",
        "builtins.getattr",
        "torch._tensor._rebuild_from_type_v2",
        "torch._utils._rebuild_parameter_with_state",
        "torch.jit.load",
        "torch.Size",
        "numpy.ndarray",
        "numpy.core.multiarray._reconstruct",
        "collections.Counter",
        "_codecs.decode",
    ],
)
def test_what_tensors_do_not_need_is_not_asked_for(name):
    with pytest.raises(WeightsError, match=f"it asks for {name}"):
        read_torch(packed(opcodes(asking(name), b")R")), "x.pth")


def test_texts_are_not_put_into_slow_encodings():
    word = b"X\x08\0\0\0punycode"
    with pytest.raises(WeightsError, match="an encoding that numpy does not use"):
        read_torch(packed(opcodes(asking("_codecs.encode"), word, word, b"\x86R")), "x.pth")


@pytest.mark.parametrize("name", ["numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"])
def test_what_stands_for_a_number_of_numpy_does_nothing(name):
    """Called, made anew, given a state or another class: it is no tensor in the end, and none of numpy's own."""
    state = b"}X\x09\0\0\0__class__" + asking("collections.OrderedDict") + b"sb"
    for what in (b")R", b")\x81", b")R" + state, b""):
        with pytest.raises(WeightsError, match=r"is a _Passed|is a type"):
            read_torch(packed(b"\x80\x02}X\x01\0\0\0w" + asking(name) + what + b"s."), "x.pth")
    shadowed = asking("collections.OrderedDict") + b")R}X\x05\0\0\0items" + asking(name) + b"sb."
    with pytest.raises(WeightsError, match="none of it was run"):
        read_torch(packed(b"\x80\x02" + shadowed), "x.pth")


def test_archives_that_unfold_or_hide_are_refused(tmp_path):
    whole = pickle.dumps({}, 2)
    good = packed(whole)
    assert read_torch(good, "x.pth") == {}
    refused = {
        "larger than the file|is compressed": packed(whole, zipfile.ZIP_DEFLATED, **{"data/0": bytes(1 << 20)}),
        "TorchScript": packed(whole, **{"constants.pkl": whole}),
        "File is not a zip file": good[: len(good) // 2],
        "opcodes|pickle exhausted|end of file": b"",
    }
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(__file__, "pickle")
    refused["tar archive"] = (tmp_path / "x.tar").read_bytes()
    for said, data in refused.items():
        with pytest.raises(WeightsError, match=said):
            read_torch(data, "x.pth")


def test_opcodes_have_a_limit(monkeypatch):
    monkeypatch.setattr(pickle_check, "MOST_OPCODES", 100)
    with pytest.raises(WeightsError, match="more than 100 opcodes"):
        read_torch(b"\x80\x02" + b"N0" * 100 + b"N.", "x.pth")


def test_weights_that_do_not_fit_are_named():
    network = torch.nn.Linear(3, 2)
    good = {"weight": torch.zeros(2, 3), "bias": torch.zeros(2)}
    load_exactly(network, good, "x.pth")
    for change, said in (
        ({"weight": torch.zeros(2, 3, dtype=torch.complex64)}, "weight is complex"),
        ({"weight": torch.zeros(2, 4)}, "size mismatch for weight"),
        ({"weight": torch.zeros(2, 3, device="meta")}, "weight"),
        ({"more": torch.zeros(1)}, "more"),
    ):
        with pytest.raises(WeightsError, match=rf"expected the weights of Linear in x\.pth: .*{said}"):
            load_exactly(network, {**good, **change}, "x.pth")


def safetensors_of(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    said = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(said) if length is None else length) + said + data


def entry(shape, end, begin=0, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        safetensors_of({}, length=(1 << 64) - 1),
        safetensors_of(b"[" * 200_000),
        safetensors_of(b'{"a": {"dtype": "F32", "shape": [' + b"9" * 5000 + b'], "data_offsets": [0, 4]}}', bytes(4)),
        safetensors_of({"a": entry([0, 1 << 62, 1 << 62], 0)}),
        safetensors_of({"a": entry([1 << 62, 1 << 62], 16)}, bytes(16)),
        safetensors_of({"a": entry([-4], 16)}, bytes(16)),
        safetensors_of({"a": entry([4], 16), "b": entry([4], 16)}, bytes(16)),
        safetensors_of({"a": entry([4], 32, 16)}, bytes(16)),
    ],
)
def test_strange_headers_of_safetensors_are_refused(data):
    for read in (read_safetensors, lambda held, name: read_safetensors_part(held, name, ("",))):
        with pytest.raises(WeightsError, match="expected a safetensors file in x"):
            read(data, "x")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"[]", "an object"),
        (b"[" * 100_000, "JSON"),
        (b'{"a": 1' + b"0" * 400 + b"}", "too large"),
        (b'{"a": 1' + b"0" * 400_000 + b"}", "too large"),
        (b"{}" + b" " * (1 << 20), "at most"),
        (b"\xff\xfe", "JSON"),
        (b'{"a": 1, "a": 2}', "twice"),
    ],
)
def test_an_object_of_json_has_limits(data, said):
    with pytest.raises(WeightsError, match=said.replace("an object", "expected a JSON object")):
        read_object(data, "x.json")
    assert read_object(b'{"a": -9223372036854775808}', "x.json") == {"a": -(1 << 63)}
