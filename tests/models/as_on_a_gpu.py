"""Runs on the CPU what is done for a GPU: frames are copied and kept, and work is done for many of them at once."""

from __future__ import annotations

import pytest

from deephotlink.models import frames
from deephotlink.models.detectors import face_swap, facial
from deephotlink.models.faces import detection, mouth

BRANCHING = (frames, detection, face_swap, facial, mouth)
"""The modules that ask whether the device has a memory of its own."""


def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> frames.KeptFrames:
    """From now on the CPU counts as such a device; returns what keeps its frames."""
    kept = frames.KeptFrames(frames.MOST_KEPT_BYTES, lambda array, device: frames.view_of(array).clone())
    monkeypatch.setattr(frames, "KEPT", kept)
    for module in BRANCHING:
        monkeypatch.setattr(module, "apart", lambda device: True)
    return kept
