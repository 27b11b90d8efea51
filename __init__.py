"""deephotlink: screens video archives for deepfakes as Apache Beam batch jobs."""

# Absolute, unlike elsewhere: pytest also imports this file on its own, under the name of the folder it lies in.
from deephotlink._version import __version__

__all__ = ["__version__"]
