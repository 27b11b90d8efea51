"""deephotlink: screens video archives for deepfakes as Apache Beam batch jobs."""

from typing import Any

# An absolute import, because pytest also imports this file by itself, under the name of the folder it is in.
from deephotlink._version import __version__

__all__ = ["ListMedia", "ScoreMedia", "__version__"]


def __getattr__(name: str) -> Any:
    # Late, because the decoder children also import this package, and they need neither Beam nor torch.
    if name == "ListMedia":
        from deephotlink.transforms.listing import ListMedia

        return ListMedia
    if name == "ScoreMedia":
        from deephotlink.pipelines.audit import ScoreMedia

        return ScoreMedia
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
