"""Checks an ONNX file before onnxruntime reads it: references outside the file, and graphs that would never end.

onnxruntime follows `external_data` to any file that the model names, and passes some nodes to plug-ins with paths of
their own. The format is protobuf. The check walks through its wire format, so that no file is too large for a message
and no file is parsed in two different ways. Field numbers are those of onnx.proto3.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping

from ...weights.files import WeightsError
from ..detector_spec import LARGEST_FILE

DEEPEST = 64
"""Most levels of nested messages."""
MOST_MESSAGES = 2_000_000
MOST_FIELDS = 4_000_000
MOST_NODES = 1_000_000
"""Most nodes after every function call is inlined, which onnxruntime does first."""
MOST_SPARSE = 1 << 28
"""Most elements of sparse tensors, which onnxruntime makes dense."""
_REFUSED_OPERATORS = {
    **dict.fromkeys((b"EPContext", b"PyOp", b"PythonOp"), "loads code of a plug-in"),
    **dict.fromkeys((b"Loop", b"Scan", b"SequenceMap"), "may never end: export the model with its loops unrolled"),
}
"""Refused operators, and why."""

_Operator = tuple[bytes, ...]
"""Name, domain, overload."""
_NAMES: Mapping[str, tuple[int, ...]] = {"node": (4, 7, 8), "function": (1, 10, 13)}
"""Numbers of the fields that hold these three, by kind of message."""
_Schema = Mapping[int, str]
_CHILDREN: Mapping[str, _Schema] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor", 3: "dims"},
    "tensor": {13: "external"},
}


def check_onnx(data: bytes, name: str) -> None:
    """Refuses a model that reaches outside its own bytes or may never end.

    Raises:
        WeightsError: the file is not an ONNX model or is too large, keeps tensors in other files, or asks for plug-ins,
            loops or training.
    """
    if len(data) > LARGEST_FILE:
        raise WeightsError(f"expected at most {LARGEST_FILE} bytes in {name}, got {len(data)}")
    if data[4:8] == b"ORTM":
        raise WeightsError(f"expected an ONNX model in {name}, got onnxruntime's own format: convert it to .onnx")
    try:
        walk = _Walk(name)
        walk.message(memoryview(data), "model", 0)
        walk.unfold()
    except (IndexError, OverflowError) as error:
        raise WeightsError(f"expected an ONNX model in {name}: it is damaged, or not an ONNX model") from error


class _Walk:
    def __init__(self, name: str) -> None:
        self.name = name
        self.seen = self.fields = self.sparse = 0
        self.nodes: Counter[_Operator] = Counter()
        """Operators of the graph, or of the function that is being checked, and how often each is called."""
        self.functions: dict[_Operator, Counter[_Operator]] = {}

    def refuse(self, why: str) -> None:
        raise WeightsError(f"refused {self.name} (none of it was run): {why}")

    def message(self, data: memoryview, kind: str, depth: int) -> None:
        self.seen += 1
        if depth > DEEPEST or self.seen > MOST_MESSAGES:
            self.refuse("its graph is nested too deeply or has too many parts")
        children = _CHILDREN[kind]
        found_graph = False
        outer, named = self.nodes, dict.fromkeys(_NAMES.get(kind, ()), b"")
        if kind == "function":
            self.nodes = Counter()
        for number, value in _fields(data):
            self.fields += 1
            if self.fields > MOST_FIELDS:
                self.refuse("it has too many parts")
            if number in named:
                named[number] = bytes(_bytes(value))
            if kind == "tensor" and (number == 13 or (number == 14 and value != 0)):
                self.refuse("it keeps tensors in other files (external data): save it as one file")
            child = children.get(number)
            if child == "training":
                self.refuse("it holds instructions for training: export it for inference")
            if child == "dims":
                self.sparse_dims(value)
            elif child is not None:
                found_graph = found_graph or child == "graph"
                self.message(_bytes(value), child, depth + 1)
        if kind == "node":
            self.nodes[tuple(named.values())] += 1
            if why := _REFUSED_OPERATORS.get(named[4]):
                self.refuse(f"the operator {named[4].decode()} {why}")
        if kind == "function":
            self.functions[tuple(named.values())], self.nodes = self.nodes, outer
        if kind == "model" and not found_graph:
            raise WeightsError(f"expected an ONNX model in {self.name}: there is no graph in it")

    def sparse_dims(self, value: int | memoryview) -> None:
        sides = [value] if isinstance(value, int) else list(_varints(value))
        self.sparse = math.prod(sides, start=self.sparse or 1)
        if self.sparse > MOST_SPARSE:
            self.refuse("its sparse tensors are too large")

    def unfold(self) -> None:
        """Counts the nodes after inlining: functions that call functions let a small file hold a graph of any size."""
        sizes: dict[_Operator, int] = {}
        left = dict(self.functions)
        while left:
            ready = [name for name, calls in left.items() if not calls.keys() & left.keys()]
            if not ready:
                self.refuse("its functions call each other recursively")
            for name in ready:
                sizes[name] = sum(count * sizes.get(called, 1) for called, count in left.pop(name).items())
        if sum(count * sizes.get(called, 1) for called, count in self.nodes.items()) > MOST_NODES:
            self.refuse(f"its functions unfold to more than {MOST_NODES} nodes")


def _varints(data: memoryview) -> Iterator[int]:
    at = 0
    while at < len(data):
        value, at = _varint(data, at)
        yield value


def _bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise IndexError("expected bytes")
    return value


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Each field of a message: its number, and its value as an integer or as bytes.

    Raises:
        IndexError: the data is not protobuf.
    """
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if not number:
            raise IndexError("a field without a number")
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
        if at + size > len(data):
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
