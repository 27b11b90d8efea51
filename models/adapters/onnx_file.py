"""A walk through an ONNX file before onnxruntime reads it: what it names outside itself. Takes bytes, yields nothing.

onnxruntime would follow `external_data` to any file that the model names, and hands some nodes to plug-ins with paths
of their own. The format is protobuf; the walk reads its wire form, so that no file is too large for a message and none
is parsed twice the same way. Field numbers are those of onnx.proto3.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..weights import WeightsError

LARGEST_FILE = 4 << 30
"""Bytes."""
DEEPEST = 64
"""Messages within messages."""
MOST_MESSAGES = 2_000_000
_REFUSED_OPERATORS = frozenset((b"EPContext", b"PyOp", b"PythonOp"))
"""They load compiled code or files for a plug-in."""

_Schema = Mapping[int, str]
_CHILDREN: Mapping[str, _Schema] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "external"},
}


def check_onnx(data: bytes, name: str) -> None:
    """Refuses what reaches outside the file's own bytes.

    Raises:
        WeightsError: it is no ONNX model, is too large, keeps tensors in other files, or asks for plug-ins.
    """
    if len(data) > LARGEST_FILE:
        raise WeightsError(f"expected at most {LARGEST_FILE} bytes in {name}, got {len(data)}")
    if data[4:8] == b"ORTM":
        raise WeightsError(f"expected an ONNX model in {name}, got onnxruntime's own format: convert it to .onnx")
    try:
        _Walk(name).message(memoryview(data), "model", 0)
    except (IndexError, OverflowError) as error:
        raise WeightsError(f"expected an ONNX model in {name}: it is damaged or something else") from error


class _Walk:
    def __init__(self, name: str) -> None:
        self.name = name
        self.seen = 0

    def refuse(self, why: str) -> None:
        raise WeightsError(f"refused {self.name}, nothing in it was run: {why}")

    def message(self, data: memoryview, kind: str, depth: int) -> None:
        self.seen += 1
        if depth > DEEPEST or self.seen > MOST_MESSAGES:
            self.refuse("its graph is nested too deep or has too many parts")
        children = _CHILDREN[kind]
        found_graph = False
        for number, value in _fields(data):
            if kind == "tensor" and (number == 13 or (number == 14 and value != 0)):
                self.refuse("it keeps tensors in other files (external data): save it as one file")
            if kind == "node" and number == 4 and bytes(_bytes(value)) in _REFUSED_OPERATORS:
                self.refuse(f"the operator {bytes(_bytes(value)).decode()} loads code of a plug-in")
            child = children.get(number)
            if child == "training":
                self.refuse("it holds instructions for training: export it for inference")
            if child is not None:
                found_graph = found_graph or child == "graph"
                self.message(_bytes(value), child, depth + 1)
        if kind == "model" and not found_graph:
            raise WeightsError(f"expected an ONNX model in {self.name}: there is no graph in it")


def _bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise IndexError("expected bytes")
    return value


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Each field of a message: its number, and its bytes or its number's value.

    Raises:
        IndexError: this is not protobuf.
    """
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise IndexError(f"wire type {wire}")
        if not number or at + size > len(data):
            raise IndexError("a field that ends after its message")
        yield number, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise IndexError("a number of more than ten bytes")
