"""Training material on disk, so that a continued run decodes nothing again.

    FOLDER/arrays.bin      the bytes of all arrays, each at a multiple of 64
    FOLDER/material.json   the records, with dtype, shape and place of each array, and what they were made of

No pickle. Loading gives back the named dataclasses, lists, plain values, and arrays mapped from the file. So gigabytes
of material take no memory of their own, and the processes that make batches share them.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ...transforms.failures import UsageError, printable

ARRAYS, RECORDS = "arrays.bin", "material.json"
ALIGNED_BYTES = 64
DTYPES = ("uint8", "int16", "int32", "int64", "float16", "float32", "float64", "bool")


def save_material(folder: Path, material: Any, made_of: Mapping[str, Any]) -> None:
    """Writes dataclasses of arrays and plain values into `folder`, whole or not at all.

    Raises:
        TypeError: `material` contains anything else.
    """
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    with (part / ARRAYS).open("wb") as arrays:
        tree = _packed(material, arrays)
        size = arrays.tell()
    text = json.dumps({"made_of": dict(made_of), "size_bytes": size, "material": tree})
    (part / RECORDS).write_text(text, encoding="utf-8")
    os.replace(part, folder)


def load_material(folder: Path, kinds: Sequence[type], made_of: Mapping[str, Any]) -> Any | None:
    """What `save_material` wrote, or None if nothing was written. `kinds`: the dataclasses that it may contain.

    Raises:
        UsageError: the material was not made of `made_of`, or is damaged.
    """
    try:
        record = json.loads((folder / RECORDS).read_text(encoding="utf-8"))
        found, size, tree = dict(record["made_of"]), record["size_bytes"], record["material"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"cannot read {printable(str(folder / RECORDS))} ({error}): remove {folder}") from None
    if found != dict(made_of):
        differing = sorted(key for key in {*found, *made_of} if found.get(key) != made_of.get(key))
        raise UsageError(
            f"{printable(str(folder))} holds material made from other files "
            f"({', '.join(differing)} differ): name another --output, or remove that folder"
        )
    there = (folder / ARRAYS).stat().st_size if (folder / ARRAYS).is_file() else -1
    if there != size:
        raise UsageError(f"expected {size} bytes in {folder / ARRAYS}, found {there}: remove {printable(str(folder))}")
    # Copy-on-write: an array may change in memory, but the file never does.
    data = np.memmap(folder / ARRAYS, np.uint8, "c") if size else np.zeros(0, np.uint8)
    try:
        return _unpacked(tree, np.asarray(data), {kind.__name__: kind for kind in kinds})
    except (KeyError, ValueError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise UsageError(f"cannot read {printable(str(folder / RECORDS))} ({error}): remove {folder}") from None


def _packed(value: Any, arrays: BinaryIO) -> Any:
    if isinstance(value, np.ndarray):
        if value.dtype.name not in DTYPES:
            raise TypeError(f"expected an array of {', '.join(DTYPES)}, got {value.dtype}")
        arrays.write(bytes(-arrays.tell() % ALIGNED_BYTES))
        start = arrays.tell()
        arrays.write(np.ascontiguousarray(value).data)
        return {"array": start, "dtype": value.dtype.name, "shape": list(value.shape)}
    if is_dataclass(value) and not isinstance(value, type):
        kept = {field.name: _packed(getattr(value, field.name), arrays) for field in fields(value) if field.init}
        return {"record": type(value).__name__, "fields": kept}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [_packed(one, arrays) for one in value]}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": {key: _packed(one, arrays) for key, one in value.items()}}
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"expected arrays, dataclasses, lists and plain values in training material, got {type(value)}")


def _unpacked(tree: Any, data: np.ndarray, kinds: Mapping[str, type]) -> Any:
    if not isinstance(tree, dict):
        return tree
    if "array" in tree:
        if tree["dtype"] not in DTYPES:
            raise ValueError(f"an array of {tree['dtype']}")
        dtype, shape, start = np.dtype(tree["dtype"]), tuple(tree["shape"]), tree["array"]
        size = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        if not size:
            return np.zeros(shape, dtype)
        return data[start : start + size].view(dtype).reshape(shape)
    if "record" in tree:
        return kinds[tree["record"]](**{k: _unpacked(v, data, kinds) for k, v in tree["fields"].items()})
    if "dict" in tree:
        return {key: _unpacked(value, data, kinds) for key, value in tree["dict"].items()}
    found = [_unpacked(one, data, kinds) for one in tree["list" if "list" in tree else "tuple"]]
    return found if "list" in tree else tuple(found)
