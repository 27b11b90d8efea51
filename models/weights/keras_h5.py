"""Tensors from Keras weights files (HDF5), read from memory, without trusting them.

HDF5 can point outside itself (external and soft links, external and virtual datasets), load filter plug-ins, nest
groups in cycles, and declare far more than it holds. We read only groups and little-endian float32 datasets under hard
links, plain or with HDF5's own gzip and shuffle, up to a limit. We never read attributes, and so not Keras's
`model_config` either: the network's shape is ours.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..late import late
from .files import WeightsError

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = late("torch")

LARGEST_BYTES = 64 << 20
"""Limit for the file and for everything it declares: a compressed dataset may expand a thousandfold. MesoNet has 0.2
MB."""
MOST_OBJECTS = 2_000
DEEPEST = 6
"""Depth of nested groups. Keras uses two or three; a cycle of hard links has no end."""
CONV, NORM, DENSE = "conv2d", "batch_normalization", "dense"
VARIABLES: Mapping[str, Mapping[str, str]] = {
    CONV: {"kernel": "weight", "bias": "bias"},
    NORM: {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"},
    DENSE: {"kernel": "weight", "bias": "bias"},
}
"""PyTorch's name of a layer's variable, by Keras's name."""


def read_keras_h5(data: bytes, name: str) -> dict[str, dict[str, Tensor]]:
    """The variables of each layer, in Keras's layout: `{"conv2d_5": {"kernel": (3, 3, 3, 8), "bias": (8,)}, …}`.

    Raises:
        WeightsError: it is not an HDF5 file, is damaged, or holds anything but groups and float32 datasets of its own.
    """
    import h5py

    if len(data) > LARGEST_BYTES:
        raise WeightsError(f"expected at most {LARGEST_BYTES:,} bytes of Keras weights in {name}: got {len(data):,}")
    layers: dict[str, dict[str, Tensor]] = {}
    try:
        with h5py.File(io.BytesIO(data), "r") as file:
            for path, values in _datasets(file, name):
                variable = path[-1].partition(":")[0]
                layer = layers.setdefault(path[0], {})
                if len(path) < 2 or variable in layer:
                    raise WeightsError(f"expected layer/…/variable in {name}: got {'/'.join(path)[:100]!r}")
                layer[variable] = torch.from_numpy(values)
    except WeightsError:
        raise
    except Exception as error:  # a hostile file decides what its reader raises
        message = " ".join(f"{type(error).__name__}: {error}".split())
        raise WeightsError(
            f"expected a Keras weights file (HDF5) in {name}: {message[:300]}; fetch it again from its source"
        ) from error
    return layers


def _datasets(file: Any, name: str) -> list[tuple[tuple[str, ...], np.ndarray]]:
    """Path and values of every dataset. Each object is checked before it is opened or read."""
    import h5py

    found: list[tuple[tuple[str, ...], np.ndarray]] = []
    waiting: list[tuple[tuple[str, ...], Any]] = [((), file)]
    objects = declared = 0
    while waiting:
        path, group = waiting.pop()
        if len(path) >= DEEPEST:
            raise WeightsError(f"expected groups at most {DEEPEST} deep in {name}: got {'/'.join(path)[:100]!r}")
        for key in group:
            here = (*path, str(key))
            shown = "/".join(here)[:100]
            objects += 1
            if objects > MOST_OBJECTS:
                raise WeightsError(f"expected at most {MOST_OBJECTS} objects in {name}: got more")
            link = group.get(key, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise WeightsError(f"expected no links to elsewhere in {name}: {shown!r} is a {type(link).__name__}")
            child = group[key]
            if isinstance(child, h5py.Group):
                waiting.append((here, child))
                continue
            wrong = _objection(child)
            if wrong:
                raise WeightsError(f"expected plain float32 datasets in {name}: {shown!r} {wrong}")
            declared += 4 * math.prod(child.shape)
            if declared > LARGEST_BYTES:
                raise WeightsError(
                    f"expected at most {LARGEST_BYTES:,} bytes of values in {name}: {shown!r} exceeds that"
                )
            found.append((here, np.asarray(child[()], dtype=np.float32)))
    return found


def _objection(child: Any) -> str:
    """Why an object in a file must not be read; empty if it may be."""
    import h5py

    if not isinstance(child, h5py.Dataset):
        return f"is a {type(child).__name__}"
    created = child.id.get_create_plist()
    if child.shape is None or child.dtype != np.dtype("<f4"):
        return f"is {child.dtype} {child.shape}"
    if created.get_layout() not in (h5py.h5d.COMPACT, h5py.h5d.CONTIGUOUS, h5py.h5d.CHUNKED):
        return "is a virtual dataset, made of other files"
    if child.chunks and 4 * math.prod(child.chunks) > LARGEST_BYTES:
        return f"is stored in chunks of {child.chunks}"
    if created.get_external_count():
        return "keeps its values in another file"
    allowed = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}
    filters = {created.get_filter(i)[0] for i in range(created.get_nfilters())}
    return "" if filters <= allowed else f"needs the HDF5 filters {sorted(filters - allowed)}"


def torch_tensors(
    layers: Mapping[str, Mapping[str, Tensor]], modules: Mapping[str, Sequence[str]], name: str
) -> dict[str, Tensor]:
    """A state dict for PyTorch. `modules` lists the modules of each kind of layer, in order of creation.

    Keras numbers the layers of a kind in order of creation (`conv2d_5`, `conv2d_6`, …), from any starting number.
    Kernels are returned as (out, in, H, W) and (out, in).

    Raises:
        WeightsError: the layers, their number or their variables differ from these.
    """
    by_kind: dict[str, dict[int, str]] = {kind: {} for kind in modules}
    for layer in layers:
        kind, _, number = layer.rpartition("_") if re.search(r"_\d{1,6}$", layer) else (layer, "", "0")
        if kind not in by_kind or int(number) in by_kind[kind]:
            raise WeightsError(f"expected layers of the kinds {', '.join(modules)} in {name}: got {layer[:100]!r}")
        by_kind[kind][int(number)] = layer
    tensors: dict[str, Tensor] = {}
    for kind, expected in modules.items():
        if len(by_kind[kind]) != len(expected):
            raise WeightsError(f"expected {len(expected)} {kind} layers in {name}: got {len(by_kind[kind])}")
        for module, (_, layer) in zip(expected, sorted(by_kind[kind].items()), strict=True):
            variables = VARIABLES[kind]
            if set(layers[layer]) != set(variables):
                got = ", ".join(sorted(layers[layer]))[:200]
                raise WeightsError(f"expected {', '.join(variables)} of {layer} in {name}: got {got}")
            for variable, values in layers[layer].items():
                order = {(CONV, 4): (3, 2, 0, 1), (DENSE, 2): (1, 0)}.get((kind, values.ndim))
                tensors[f"{module}.{variables[variable]}"] = values.permute(order).contiguous() if order else values
            if kind == NORM:
                tensors[f"{module}.num_batches_tracked"] = torch.tensor(0)
    return tensors
