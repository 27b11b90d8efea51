"""Keras weights files: what Keras writes is read, and anything else that a stranger put there is refused unread."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from deephotlink.models.weights import keras_h5
from deephotlink.models.weights.files import WeightsError
from deephotlink.models.weights.keras_h5 import CONV, DENSE, NORM, read_keras_h5, torch_tensors

RNG = np.random.default_rng(0)
VALUES = RNG.normal(size=(3, 3)).astype(np.float32)


def h5_file(write: Callable[[Any], None]) -> bytes:
    data = io.BytesIO()
    with h5py.File(data, "w") as file:
        write(file)
    return data.getvalue()


def small_network(file: Any) -> None:
    """As Keras writes it: a group a layer, in it one of the same name, attributes everywhere, layers without any."""
    file.attrs["model_config"] = b'{"class_name": "Lambda", "config": {"function": "import os"}}'
    file.create_group("flatten_1").attrs["weight_names"] = np.array([], float)
    for layer, shapes in {
        "conv2d_9": {"kernel:0": (3, 5, 2, 4), "bias:0": (4,)},
        "conv2d_10": {"kernel:0": (1, 1, 4, 6), "bias:0": (6,)},
        "batch_normalization_3": dict.fromkeys(("gamma:0", "beta:0", "moving_mean:0", "moving_variance:0"), (4,)),
        "dense": {"kernel:0": (12, 3), "bias:0": (3,)},
    }.items():
        for variable, shape in shapes.items():
            values = RNG.normal(size=shape).astype(np.float32)
            file.create_dataset(f"{layer}/{layer}/{variable}", data=values)


def test_layers_come_in_the_order_of_their_numbers_and_in_the_shapes_of_pytorch() -> None:
    layers = read_keras_h5(h5_file(small_network), "a.h5")
    assert set(layers) == {"conv2d_9", "conv2d_10", "batch_normalization_3", "dense"}
    assert {v: tuple(t.shape) for v, t in layers["conv2d_9"].items()} == {"kernel": (3, 5, 2, 4), "bias": (4,)}
    modules = {CONV: ("first", "second"), NORM: ("norm",), DENSE: ("last",)}
    tensors = torch_tensors(layers, modules, "a.h5")
    assert tuple(tensors["first.weight"].shape) == (4, 2, 3, 5) and tuple(tensors["second.weight"].shape) == (
        6,
        4,
        1,
        1,
    )
    assert torch.equal(tensors["first.weight"][1, 0], layers["conv2d_9"]["kernel"][:, :, 0, 1])
    assert torch.equal(tensors["last.weight"], layers["dense"]["kernel"].T)
    assert torch.equal(tensors["norm.running_var"], layers["batch_normalization_3"]["moving_variance"])
    assert int(tensors["norm.num_batches_tracked"]) == 0
    network = torch.nn.ModuleDict(
        {
            "first": torch.nn.Conv2d(2, 4, (3, 5)),
            "second": torch.nn.Conv2d(4, 6, 1),
            "norm": torch.nn.BatchNorm2d(4),
            "last": torch.nn.Linear(12, 3),
        }
    )
    network.load_state_dict(tensors, strict=True)


def test_gzip_and_shuffle_are_read() -> None:
    data = h5_file(lambda file: file.create_dataset("dense/kernel:0", data=VALUES, compression="gzip", shuffle=True))
    np.testing.assert_array_equal(read_keras_h5(data, "a.h5")["dense"]["kernel"].numpy(), VALUES)


def ring(file: Any) -> None:
    group = file.create_group("dense")
    group["dense"] = group


def virtual(file: Any) -> None:
    layout = h5py.VirtualLayout((3, 3), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "secret", (3, 3))
    file.create_virtual_dataset("dense/kernel:0", layout)


def plain(name: str = "dense/kernel:0", **how: Any) -> Callable[[Any], None]:
    return lambda file: file.create_dataset(name, **how)


HOSTILE: dict[str, tuple[Callable[[Any], None], str]] = {
    "external link": (lambda f: f.__setitem__("dense", h5py.ExternalLink("other.h5", "/secret")), "ExternalLink"),
    "soft link": (lambda f: f.__setitem__("dense", h5py.SoftLink("/elsewhere")), "SoftLink"),
    "virtual dataset": (virtual, "other files"),
    "values in another file": (plain(shape=(3, 3), dtype="f4", external=[("other.raw", 0, 36)]), "another file"),
    "ring of hard links": (ring, "deep"),
    "float64": (plain(data=VALUES.astype(np.float64)), "float64"),
    "big-endian": (plain(data=VALUES.astype(">f4")), "float32"),
    "text": (plain(data="import os"), "object"),
    "references": (plain(shape=(1,), dtype=h5py.ref_dtype), "object"),
    "no values": (plain(data=h5py.Empty("f4")), "None"),
    "named type": (lambda f: f.__setitem__("dense", np.dtype("f4")), "Datatype"),
    "another filter": (plain(data=VALUES, compression="lzf"), "filters"),
    "a compression bomb": (
        plain(shape=(1 << 20, 1 << 6), dtype="f4", chunks=(1 << 14, 1 << 6), compression="gzip"),
        "bytes of values",
    ),
    "pieces larger than the whole": (
        plain(shape=(8,), maxshape=(None,), dtype="f4", chunks=(1 << 25,), compression="gzip"),
        "is stored in chunks",
    ),
    "many groups": (lambda f: [f.create_group(f"g{i}") for i in range(101)], "objects"),
    "no layer": (plain("kernel:0", data=VALUES), "layer"),
    "the same variable twice": (
        lambda f: [f.create_dataset(f"dense/{part}/kernel:0", data=VALUES) for part in "ab"],
        "layer",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_a_stranger_may_put_there_is_refused(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with h5py.File("other.h5", "w") as other:
        other.create_dataset("secret", data=VALUES)
    Path("other.raw").write_bytes(VALUES.tobytes())
    monkeypatch.setattr(keras_h5, "MOST_OBJECTS", 100)
    write, said = HOSTILE[case]
    with pytest.raises(WeightsError, match=said):
        read_keras_h5(h5_file(write), "a.h5")


def test_damaged_and_other_files_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = h5_file(small_network)
    for part in (b"", b"PK\x03\x04", b"\x89HDF\r\n\x1a\n", data[:100], data[: len(data) // 2], data[:-1000]):
        with pytest.raises(WeightsError, match=r"a\.h5"):
            read_keras_h5(part, "a.h5")
    monkeypatch.setattr(keras_h5, "LARGEST_BYTES", len(data) - 1)
    with pytest.raises(WeightsError, match="at most"):
        read_keras_h5(data, "a.h5")


def test_other_layers_than_those_of_the_network_are_named() -> None:
    layers = read_keras_h5(h5_file(small_network), "a.h5")
    modules = {CONV: ("first", "second"), NORM: ("norm",), DENSE: ("last",)}
    with pytest.raises(WeightsError, match=r"expected 1 conv2d layers in a\.h5: got 2"):
        torch_tensors(layers, modules | {CONV: ("first",)}, "a.h5")
    with pytest.raises(WeightsError, match="lambda_1"):
        torch_tensors(layers | {"lambda_1": {}}, modules, "a.h5")
    with pytest.raises(WeightsError, match="got 'conv2d_09'"):
        torch_tensors(layers | {"conv2d_09": layers["conv2d_9"]}, modules, "a.h5")
    with pytest.raises(WeightsError, match=r"expected kernel, bias of dense in a\.h5: got bias"):
        torch_tensors(layers | {"dense": {"bias": torch.zeros(3)}}, modules, "a.h5")
