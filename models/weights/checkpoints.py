"""Tensors and settings from untrusted files, read from memory, in formats that carry no code.

These are safetensors, JSON, and PyTorch's own format under `weights_only=True`: a pickle that asks for anything but
tensors is refused.
"""

from __future__ import annotations

import io
import json
import math
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..late import late
from .files import WeightsError
from .pickle_check import checked_pickle

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = late("torch")

_PASSED = ("numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")


class _Passed:
    """Placeholder for numpy numbers in a pickle: accepts any arguments and does nothing with them.

    numpy's own types are not allowed: a dtype built by an attacker may read any memory.
    """

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...


def read_torch(data: bytes, name: str) -> dict[str, Tensor]:
    """The tensors of a `.pth` file; no code in it runs.

    A checkpoint that wraps them (`state_dict`, `model`) is unwrapped. numpy numbers beside them (a training loop's best
    loss) are ignored.

    Raises:
        WeightsError: it holds anything but tensors and plain values, or is damaged.
    """
    try:
        plain = checked_pickle(data)
        with torch.serialization.safe_globals([(_Passed, asked) for asked in _PASSED]):
            found = torch.load(io.BytesIO(plain), map_location="cpu", weights_only=True)
        for key in ("state_dict", "model_state_dict", "model"):
            if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
                found = found[key]
        tensors = {str(key).removeprefix("module."): value for key, value in found.items()}
    except Exception as error:  # a hostile file decides what its reader raises
        message = " ".join(f"{type(error).__name__}: {error}".split())
        raise WeightsError(
            f"expected a PyTorch file of tensors in {name}: refused, none of it was run ({message[:300]})"
        ) from error
    strange = [key for key, value in tensors.items() if not isinstance(value, torch.Tensor)]
    if strange:
        raise WeightsError(
            f"expected a mapping of names to tensors in {name}: {strange[0][:100]!r} is a "
            f"{type(tensors[strange[0]]).__name__}"
        )
    return tensors


def read_safetensors(data: bytes, name: str) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` file.

    Raises:
        WeightsError: it is not such a file.
    """
    from safetensors.torch import load

    try:
        return load(data)
    except Exception as error:  # a hostile file decides what its reader raises
        raise WeightsError(f"expected a safetensors file in {name}: {type(error).__name__}: {error}"[:500]) from error


def read_object(data: bytes, name: str) -> dict[str, Any]:
    """The object of a JSON file.

    Raises:
        WeightsError: it is not a JSON object, or is larger than a config can be.
    """
    if len(data) > LARGEST_JSON:
        raise WeightsError(f"expected a JSON file of at most {LARGEST_JSON} bytes in {name}: got {len(data)}")
    try:
        found = _json(data)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"expected JSON in {name}: {error}"[:500]) from error
    if not isinstance(found, dict):
        raise WeightsError(f"expected a JSON object in {name}: got {type(found).__name__}")
    return found


def _json(data: bytes) -> Any:
    return json.loads(data, parse_int=_whole, object_pairs_hook=_once)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuses a key that appears twice: one reader would take the first value, another the last."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError(f"a key appears twice among {sorted(key for key, _ in pairs)[:10]}")
    return found


def _whole(digits: str) -> int:
    """Refuses integers beyond any float, which would overflow when a reader divides by them."""
    if len(digits) > 300:
        raise ValueError(f"the number {digits[:20]}… is too large")
    return int(digits)


PART_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
LARGEST_JSON = 1 << 20
"""Bytes of a config or of settings. Anything larger is something else."""
LARGEST_HEADER = 16 << 20
"""Bytes, enough for the names of 100,000 tensors."""


def read_safetensors_part(data: bytes, name: str, prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    """The floating-point tensors of a `.safetensors` file whose names start with one of `prefixes`, and no others.

    If a detector needs a third of a file of gigabytes, the rest is never copied.

    Raises:
        WeightsError: it is not such a file, or an entry does not fit the bytes that are there.
    """
    try:
        length = int.from_bytes(data[:8], "little")
        if len(data) < 8 or length > min(LARGEST_HEADER, len(data) - 8):
            raise ValueError(f"a header of {length} bytes in a file of {len(data)}")
        entries = {
            str(key): entry
            for key, entry in _json(data[8 : 8 + length]).items()
            if key != "__metadata__" and key.startswith(prefixes) and entry["dtype"] in PART_DTYPES
        }
        # Overlapping entries would turn a small file into a huge number of copies.
        if (
            sum(entry["data_offsets"][1] - entry["data_offsets"][0] for entry in entries.values())
            > len(data) - 8 - length
        ):
            raise ValueError("its tensors are larger than the file")
        return {key: _part(data, 8 + length, key, entry) for key, entry in entries.items()}
    except Exception as error:  # as above
        raise WeightsError(f"expected a safetensors file in {name}: {type(error).__name__}: {error}"[:500]) from error


def _part(data: bytes, start: int, key: str, entry: Mapping[str, Any]) -> Tensor:
    """A copy of one tensor; `start` is where the data begin."""
    dtype: torch.dtype = getattr(torch, PART_DTYPES[entry["dtype"]])
    shape, (begin, end) = entry["shape"], entry["data_offsets"]
    numbers = (*shape, begin, end)
    if not all(type(n) is int and n >= 0 for n in numbers) or not begin <= end <= len(data) - start:
        raise ValueError(f"{key} has the shape {shape} at {begin}:{end} of {len(data) - start} bytes")
    count = math.prod(shape)
    if count * dtype.itemsize != end - begin:
        raise ValueError(f"{key} has the shape {shape} in {end - begin} bytes")
    if count == 0:
        return torch.empty(shape, dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that the bytes are not writable; they are copied
        return torch.frombuffer(data, dtype=dtype, count=count, offset=start + begin).reshape(shape).clone()


def load_exactly(network: torch.nn.Module, tensors: Mapping[str, Tensor], name: str) -> None:
    """Loads every tensor of the network from the file; none may be left over, and shapes must match.

    Raises:
        WeightsError: names what is missing, left over or of another shape.
    """
    try:
        if strange := [key for key, tensor in tensors.items() if tensor.is_complex()]:
            raise RuntimeError(f"{strange[0][:100]} is complex")
        network.load_state_dict(dict(tensors), strict=True)
    except RuntimeError as error:
        message = " ".join(str(error).split())
        raise WeightsError(f"expected the weights of {type(network).__name__} in {name}: {message[:500]}") from error
