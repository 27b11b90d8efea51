"""Makes an untrusted `.pt2` harmless before torch reads it. Takes bytes, yields the bytes of another archive.

torch's own reader (checked in 2.13) runs what it is given in many places: pickles of weights, constants, sample inputs
and script objects (`weights_only=False`), operators found by `getattr` from `torch` downwards (`torch.os.system`),
expressions that sympy evaluates as Python, guards that are executed as source, names that become source, and shared
libraries compiled by AOTInductor. So that reader never gets the file itself. Its members are read here, and every part
of the graph is checked against what a network needs. A new archive is written from what passed: the graph without
metadata, guards and calling conventions, the raw tensors, and nothing else.

What remains: a graph may still ask for more memory or time than there is.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from ...weights.files import WeightsError
from ..detector_spec import LARGEST_FILE
from .aten_operators import NUMBER_OPERATORS, TENSOR_OPERATORS, TRAINING, WRAPPERS
from .pt2_archive import MADE_BY, Archive, Refused
from .pt2_expressions import is_arithmetic

MOST_NODES = 100_000
_IDENTIFIER = re.compile(r"(?!__)[A-Za-z_][A-Za-z0-9_]{0,499}")
_PATH = re.compile(r"(?!__)[A-Za-z0-9_]+(?:\.(?!__)[A-Za-z0-9_]+)*")
_TEXT = re.compile(r"[\x20-\x7e]{0,1000}")
_PAYLOAD = {"weights": re.compile(r"weight_\d{1,6}"), "constants": re.compile(r"tensor_\d{1,6}")}
_DTYPES = dict(
    enumerate(
        (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.float32, torch.float64),
        start=1,
    )
) | {9: torch.complex32, 10: torch.complex64, 11: torch.complex128, 12: torch.bool, 13: torch.bfloat16}
"""Data types by their numbers in the file (`ScalarType` in torch's schema)."""


@dataclass(frozen=True, slots=True)
class Program:
    """A checked program and the facts about its input."""

    archive: bytes
    """Archive for `torch.export.load`: one program that takes a tensor and returns a tuple of tensors."""
    input_shape: tuple[int | None, ...]
    """Batch first; None for a free side."""
    input_dtype: torch.dtype
    least_rows: int
    most_rows: int | None
    """None: as many as fit in memory."""


def check_pt2(data: bytes, name: str) -> Program:
    """Reads a `.pt2` without torch's reader and writes its harmless parts to a new archive.

    Raises:
        WeightsError: the file is damaged, or holds something that a network does not need; the message names it.
    """
    try:
        return _Checked(data, name).program()
    except WeightsError:
        raise
    except Exception as error:  # a hostile file chooses what its reader raises
        message = " ".join(f"{type(error).__name__}: {error}".split())
        raise Refused(name, f"expected a file made by {MADE_BY} ({message[:300]})") from error


class _Checked:
    def __init__(self, data: bytes, name: str) -> None:
        self.archive = Archive(data, name)
        self.refuse = self.archive.refuse

    def program(self) -> Program:
        if self.archive.read("archive_format", 100) != b"pt2":
            self.refuse(f"expected a pt2 archive, made by {MADE_BY}")
        found = self.archive.json("models/model.json")
        module = found["graph_module"]
        graph = self._graph(module["graph"])
        signature = self._signature(module["signature"])
        taken = [spec["user_input"]["arg"] for spec in signature["input_specs"] if "user_input" in spec]
        if len(taken) != 1 or "as_tensor" not in taken[0]:
            self.refuse(
                f"expected a program that takes one tensor, got {len(taken)} inputs: wrap the model to take one"
            )
        answers = len(signature["output_specs"])
        ranges = {
            self.match(_IDENTIFIER, key, "a symbol"): self._plain(value)
            for key, value in found.get("range_constraints", {}).items()
        }
        clean = {
            "graph_module": {
                "graph": graph,
                "signature": signature,
                "module_call_graph": [_calling(answers)],
                "metadata": {},
                "treespec_namedtuple_fields": {},
            },
            "opset_version": {
                self.match(_IDENTIFIER, k, "an opset"): int(v) for k, v in found["opset_version"].items()
            },
            "range_constraints": ranges,
            "schema_version": {key: int(found["schema_version"][key]) for key in ("major", "minor")},
            "verifiers": [self.match(_IDENTIFIER, v, "a verifier") for v in found.get("verifiers", [])],
            "torch_version": self.match(re.compile(r"[\w.+-]{1,60}"), found.get("torch_version", ""), "a version"),
            "guards_code": [],
        }
        from torch.export.pt2_archive import PT2ArchiveWriter  # takes seconds to import

        buffer = io.BytesIO()
        with PT2ArchiveWriter(buffer) as writer:
            for kind in ("weights", "constants"):
                self._payloads(kind, writer)
            writer.write_string("models/model.json", json.dumps(clean))
            writer.write_bytes("data/sample_inputs/model.pt", b"")
        return self._facts(buffer.getvalue(), graph["tensor_values"][taken[0]["as_tensor"]["name"]], ranges)

    def match(self, pattern: re.Pattern[str], value: Any, what: str) -> str:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            self.refuse(f"{value!r:.200} is not {what}")
        return str(value)

    def _graph(self, found: Mapping[str, Any]) -> dict[str, Any]:
        nodes = found["nodes"]
        if not isinstance(nodes, list) or len(nodes) > MOST_NODES:
            self.refuse(f"expected a list of at most {MOST_NODES} nodes")
        if found.get("custom_obj_values"):
            self.refuse(f"it holds custom objects ({sorted(found['custom_obj_values'])[0]!r:.80}): tensors only")
        values = ("tensor_values", "sym_int_values", "sym_bool_values", "sym_float_values")
        return {
            "inputs": self._plain(found["inputs"]),
            "outputs": self._plain(found["outputs"]),
            "nodes": [self._node(node) for node in nodes],
            **{
                key: {self.match(_IDENTIFIER, k, "a name"): self._plain(v) for k, v in found.get(key, {}).items()}
                for key in values
            },
            "is_single_tensor_return": found.get("is_single_tensor_return") is True,
            "custom_obj_values": {},
        }

    def _node(self, found: Mapping[str, Any]) -> dict[str, Any]:
        target = self._target(found["target"])
        inputs = [
            {
                "name": self._name_or_none(i["name"]) or "",
                "arg": self._plain(i["arg"]),
                "kind": self._plain(i.get("kind")),
            }
            for i in found["inputs"]
        ]
        training = TRAINING.get(target.split(".")[3]) if target.startswith("torch.ops.aten.") else None
        if any(i["name"] == training and i["arg"].get("as_bool") for i in inputs):
            self.refuse(f"{target} is in training mode: call model.eval() before torch.export.export")
        return {
            "target": target,
            "inputs": inputs,
            "outputs": self._plain(found["outputs"]),
            "metadata": {},
            "is_hop_single_tensor_return": self._plain(found.get("is_hop_single_tensor_return")),
            "name": self._name_or_none(found.get("name")),
        }

    def _name_or_none(self, value: Any) -> str | None:
        return self.match(_IDENTIFIER, value, "a name") if value else None

    def _target(self, target: Any) -> str:
        if isinstance(target, str):
            if target in NUMBER_OPERATORS or target in WRAPPERS:
                return target
            parts = target.split(".")
            if len(parts) == 5 and parts[:3] == ["torch", "ops", "aten"] and parts[3] in TENSOR_OPERATORS:
                overloads = getattr(torch.ops.aten, parts[3], None)
                if (
                    overloads is not None
                    and parts[4] in overloads.overloads()
                    and parts[4] != "out"
                    and not parts[4].endswith("_out")
                ):
                    return target
        return str(
            self.refuse(
                f"the operator {target!r:.200} is not among those of plain networks "
                "(models/adapters/torch_export/aten_operators.py); "
                "a model that needs it can be exported to ONNX instead"
            )
        )

    def _plain(self, value: Any, depth: int = 0) -> Any:
        """A checked copy of a part of the graph. The keys of its objects are those of torch's own schema."""
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, str):
            return self.match(_IDENTIFIER, value, "a name")
        if depth > 12:
            self.refuse("a part of the graph is nested too deeply")
        if isinstance(value, list):
            return [self._plain(v, depth + 1) for v in value]
        return {key: self._field(key, value[key], depth) for key in value}

    def _field(self, key: str, value: Any, depth: int) -> Any:
        if key in ("as_custom_obj", "as_operator", "as_string_to_argument", "custom_obj", "token", "class_fqn"):
            return self.refuse(f"{key!r} in the graph: tensors, numbers and short texts only")
        if key == "expr_str":
            return self._expression(value)
        if key == "as_string":
            return self.match(_TEXT, value, "a short text")
        if key == "as_strings":
            return [self.match(_TEXT, v, "a short text") for v in value]
        if key in ("parameter_name", "buffer_name", "tensor_constant_name"):
            return self.match(_PATH, value, "a tensor's name")
        if key in ("device", "as_device"):
            # The export fixed a device. The adapter later moves the program to the one that it runs on.
            return {"type": "cpu", "index": None}
        if key == "as_graph":
            return {"name": self.match(_IDENTIFIER, value["name"], "a name"), "graph": self._graph(value["graph"])}
        return self._plain(value, depth + 1)

    def _expression(self, text: Any) -> str:
        """The expression, if it is safe: sympy evaluates it as Python."""
        if not is_arithmetic(text):
            self.refuse(f"the size {text!r:.200} is not an expression of symbols and numbers")
        return str(text)

    def _signature(self, found: Mapping[str, Any]) -> dict[str, Any]:
        others = sorted({key for spec in found["output_specs"] for key in spec} - {"user_output"})
        if others:
            self.refuse(f"the program changes its own state ({others[0]}): call model.eval() before exporting it")
        inputs = {"user_input", "parameter", "buffer", "tensor_constant"}
        others = sorted({key for spec in found["input_specs"] for key in spec} - inputs)
        if others:
            self.refuse(f"the program takes a {others[0]}: export a model that takes one tensor")
        return {key: self._plain(found[key]) for key in ("input_specs", "output_specs")}

    def _payloads(self, kind: str, writer: Any) -> None:
        """Copies the raw tensors in the list of this kind and checks the size of each."""
        entries = self.archive.json(f"data/{kind}/model_{kind}_config.json").get("config", {})
        clean: dict[str, Any] = {}
        written: dict[str, int] = {}
        for key, entry in entries.items():
            if entry.get("use_pickle") is not False or not _PAYLOAD[kind].fullmatch(str(entry.get("path_name"))):
                self.refuse(f"{key!r:.80} in data/{kind} is a pickle or a custom object: raw tensors only")
            file = str(entry["path_name"])
            if file not in written:
                data = self.archive.read(f"data/{kind}/{file}")
                writer.write_bytes(f"data/{kind}/{file}", data)
                written[file] = len(data)
            meta = self._plain(entry["tensor_meta"])
            needed = _bytes_needed(meta)
            if not (needed <= written[file] and (written[file] or not needed)):
                self.refuse(f"{key!r:.80} needs {needed} bytes, data/{kind}/{file} has {written[file]}")
            clean[self.match(_PATH, key, "a tensor's name")] = {
                "path_name": file,
                "is_param": entry.get("is_param") is True,
                "use_pickle": False,
                "tensor_meta": {**meta, "requires_grad": False},
            }
        writer.write_string(f"data/{kind}/model_{kind}_config.json", json.dumps({"config": clean}))

    def _facts(self, archive: bytes, meta: Mapping[str, Any], ranges: Mapping[str, Any]) -> Program:
        sides = list(_sides(meta["sizes"]))
        shape = tuple(side if isinstance(side, int) else None for side in sides)
        if not shape:
            self.refuse("its input is a single number: expected (batch, …)")
        least, most = (shape[0], shape[0]) if shape[0] is not None else (1, None)
        if isinstance(sides[0], str):
            limits = ranges.get(sides[0], {})
            low, high = limits.get("min_val"), limits.get("max_val")
            least = max(1, low) if isinstance(low, int) else 1
            most = high if isinstance(high, int) and high < 1 << 31 else None
        if least is None or least < 1 or (most is not None and most < least):
            self.refuse(f"its batch may have {least} to {most} rows")
        return Program(archive, shape, _DTYPES[meta["dtype"]], int(least or 1), most)


def _sides(sizes: list[Mapping[str, Any]]) -> Iterator[int | str]:
    """Each side of a shape: its length, its symbol's name, or the expression for it."""
    for side in sizes:
        if "as_int" in side:
            yield int(side["as_int"])
        else:
            text = side["as_expr"]["expr_str"]
            named = re.match(r"Symbol\('([^']*)'[^()]*\)$", text)
            yield named.group(1) if named else text


def _bytes_needed(meta: Mapping[str, Any]) -> int:
    """Bytes of storage that a tensor of this size, stride and offset needs."""
    sizes, strides = ([int(n["as_int"]) for n in meta[key]] for key in ("sizes", "strides"))
    offset = int(meta["storage_offset"]["as_int"])
    if len(sizes) != len(strides) or min(sizes + strides + [offset]) < 0:
        raise ValueError(f"sizes {sizes}, strides {strides}, offset {offset}")
    if 0 in sizes:
        return 0
    if 0 in strides and math.prod(sizes) * _DTYPES[meta["dtype"]].itemsize > LARGEST_FILE:  # it repeats numbers
        raise ValueError(f"a tensor of the sizes {sizes}")
    last = offset + sum((n - 1) * stride for n, stride in zip(sizes, strides, strict=True))
    return (last + 1) * _DTYPES[meta["dtype"]].itemsize


def _calling(answers: int) -> dict[str, Any]:
    """The calling convention that replaces the file's own: one tensor in, a tuple out."""
    takes = pytree.tree_structure(((0,), {}))
    returns = pytree.tree_structure((0,) * answers)
    return {
        "fqn": "",
        "signature": {
            "inputs": [],
            "outputs": [],
            "in_spec": pytree.treespec_dumps(takes),
            "out_spec": pytree.treespec_dumps(returns),
            "forward_arg_names": ["rows"],
        },
    }
