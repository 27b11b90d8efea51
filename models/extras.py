"""What only some commands and detectors need, and which extra of the package brings it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

PACKAGES: Mapping[str, Mapping[str, str]] = {
    "hf": {"transformers": "transformers", "huggingface_hub": "huggingface-hub"},
    "onnx": {"onnxruntime": "onnxruntime"},
    "hdf5": {"h5py": "h5py"},
    "evaluate": {"sklearn": "scikit-learn", "scipy": "scipy", "matplotlib": "matplotlib"},
    "samples": {"matplotlib": "matplotlib"},
    "train": {"cv2": "opencv-python-headless", "pyworld": "pyworld", "scipy": "scipy"},
}
"""By extra: the modules that are imported, and the packages on PyPI that have them (setup.py has their versions)."""


def lacking(who_needs: str, extra: str, *modules: str) -> str | None:
    """What to do where something of an extra is not installed; None where nothing is missing.

    who_needs: the beginning of the sentence, `plots need`. modules: those that matter; none: all of the extra. An
    extra that is not ours has none.

    >>> lacking("nothing needs", "torch") is None
    True
    """
    packages = PACKAGES.get(extra, {})
    for module in modules or packages:
        if not _is_there(module):
            return f"{who_needs} {packages[module]}: pip install 'deephotlink[{extra}]'"
    return None


def _is_there(module: str) -> bool:
    """Without importing it."""
    try:
        return find_spec(module) is not None
    except ValueError:  # it is imported, and was made without a spec
        return True
