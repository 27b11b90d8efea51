"""The weights of MTCNN, read from the `mtcnn` wheel without importing that package (it would pull in TensorFlow).

Returns the three networks' arrays in torch's layout. The files are joblib pickles, which may run code when loaded. So
each is read once, its sha256 is compared with the pinned one, and only those same bytes are unpickled.
Weights: Zhang, Zhang, Li, Qiao, "Joint Face Detection and Alignment using Multi-task Cascaded Convolutional Networks",
IEEE SPL 2016, as converted by Iván de Paz Centeno, MIT licence.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from ..late import late

if TYPE_CHECKING:
    import torch
else:
    torch = late("torch")

WEIGHTS_SHA256: Mapping[str, str] = MappingProxyType(
    {
        "pnet": "ea6b0c3e685ebee3165326ad6484acc95f2ef78f1c94fbf40a55704fa989f7b5",
        "rnet": "cb00e6460f3c98b0bfafaba3c0a0ded4bdf6e62cee7174d969e8670d7e757fee",
        "onet": "94f6ea2f4cf985275ee958cdd762d17b6009348a4fb9d8c6be39ba73ffd22ca3",
    }
)
"""Hex, of the files in mtcnn 1.0.0."""
NEEDED = "expected the weight files of mtcnn 1.0.0; install them with: pip install --no-deps mtcnn==1.0.0"


class FaceWeightsError(RuntimeError):
    """The face detector's weights are missing or not the pinned ones. This is a fault of the installation, never of a
    file."""


def weights_folder() -> Path:
    """Where the installed `mtcnn` wheel keeps its weights.

    Raises:
        FaceWeightsError: it is not installed.
    """
    # find_spec of a top-level package only finds its location; the package's own code does not run.
    spec = importlib.util.find_spec("mtcnn")
    if spec is None or not spec.submodule_search_locations:
        raise FaceWeightsError(f"the package mtcnn is not installed; {NEEDED}")
    return Path(next(iter(spec.submodule_search_locations))) / "assets" / "weights"


def load_mtcnn_arrays(folder: Path | None = None) -> dict[str, list[torch.Tensor]]:
    """`pnet`, `rnet`, `onet` → float32 tensors in the order of the layers: weight, bias, slope (PReLU), …

    Convolutions come as (O, I, H, W), dense layers as (O, I), slopes as (C,).

    Raises:
        FaceWeightsError: a file is missing, or is not byte for byte the pinned one; nothing of it is unpickled.
    """
    folder = weights_folder() if folder is None else folder
    return {name: _read(folder / f"{name}.lz4", sha256) for name, sha256 in WEIGHTS_SHA256.items()}


def _read(path: Path, sha256: str) -> list[torch.Tensor]:
    import joblib

    try:
        content = path.read_bytes()
    except OSError as error:
        raise FaceWeightsError(f"cannot read {path.name}: {error.strerror}; {NEEDED}") from error
    got = hashlib.sha256(content).hexdigest()
    if got != sha256:
        raise FaceWeightsError(f"{path.name} was changed: expected sha256 {sha256}, got {got}; {NEEDED}")
    return [_to_torch_layout(array) for array in joblib.load(io.BytesIO(content))]


def _to_torch_layout(array: np.ndarray) -> torch.Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
    if tensor.ndim == 4:
        return tensor.permute(3, 2, 0, 1).contiguous()  # (H, W, I, O) → (O, I, H, W)
    if tensor.ndim == 2:
        return tensor.T.contiguous()  # (I, O) → (O, I)
    return tensor.reshape(-1)  # biases, and slopes that come as (1, 1, C)
