"""Packages that only some commands and detectors need, and the extra that installs each of them."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

PACKAGES: Mapping[str, Mapping[str, str]] = {
    "hf": {"transformers": "transformers", "huggingface_hub": "huggingface-hub"},
    "onnx": {"onnxruntime": "onnxruntime"},
    "hdf5": {"h5py": "h5py"},
    "evaluate": {"sklearn": "scikit-learn", "scipy": "scipy", "matplotlib": "matplotlib"},
    "iceberg": {"pyiceberg": "pyiceberg", "sqlalchemy": "sqlalchemy"},
    "samples": {"matplotlib": "matplotlib"},
    "yaml": {
        "docstring_parser": "docstring-parser",
        "jinja2": "jinja2",
        "jsonschema": "jsonschema",
        "pandas": "pandas",
    },
    "train": {"cv2": "opencv-python-headless", "pyworld": "pyworld", "sklearn": "scikit-learn", "scipy": "scipy"},
}
"""By extra: the imported modules and their packages on PyPI (setup.py holds the versions)."""


def lacking(who_needs: str, extra: str, *modules: str) -> str | None:
    """What to install if a package of an extra is missing; None if nothing is missing.

    who_needs: the beginning of the sentence, `plots need`. modules: those to check; none: all of the extra. An unknown
    extra has no modules.

    >>> lacking("nothing needs", "torch") is None
    True
    """
    packages = PACKAGES.get(extra, {})
    for module in modules or packages:
        if not _is_there(module):
            return f"{who_needs} {packages[module]}: pip install 'deephotlink[{extra}]'"
    return None


def _is_there(module: str) -> bool:
    """Whether a module is installed, without importing it."""
    try:
        return find_spec(module) is not None
    except ValueError:  # already imported, and made without a spec
        return True
