"""deephotlink: screens video archives for deepfakes as Apache Beam batch jobs."""

from typing import Any

# Absolute, because pytest imports this file by itself too, under the name of whatever folder it lies in.
from deephotlink._version import __version__

__all__ = ["ListMedia", "ScoreMedia", "__version__"]


def __getattr__(name: str) -> Any:
    # Late: the decoder children import this package too, and have no use for Beam and torch.
    if name == "ListMedia":
        from deephotlink.transforms.listing import ListMedia

        return ListMedia
    if name == "ScoreMedia":
        from deephotlink.pipelines.audit import ScoreMedia

        return ScoreMedia
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
