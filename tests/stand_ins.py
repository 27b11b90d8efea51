"""A local mirror of the recommended published detectors: small networks of the true architectures, random weights under
the published names, and records of just these files."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from deephotlink.models import registry
from deephotlink.models.architectures.vit import VisionTransformer, VitShape
from deephotlink.models.base import DetectorSpec
from deephotlink.models.detectors import commfor, gend
from tests.published import TINY_CLIP, lively, tiny_clip

NOWHERE = "http://127.0.0.1:9"
"""No server is there: whatever is pulled from it fails."""
SHAPE = VitShape(image=384, patch=96, width=24, depth=2, heads=3, hidden=40)


@dataclass(frozen=True, slots=True)
class Mirror:
    folder: Path
    """Laid out like a cache: `NAME/FILE`."""

    def file(self, name: str) -> Path:
        return self.folder / name / "model.safetensors"


def make_mirror(folder: Path) -> Mirror:
    mirror = Mirror(folder)
    clip = tiny_clip()
    tensors = {f"feature_extractor.{key}": value for key, value in clip.state_dict().items() if key.startswith("visi")}
    tensors["feature_extractor.visual_projection.weight"] = clip.visual_projection.weight.detach()
    drawn = torch.Generator().manual_seed(7)
    tensors |= {"model.linear.weight": torch.randn(2, 32, generator=drawn), "model.linear.bias": torch.zeros(2)}
    vit = {f"vit.{key}": value for key, value in lively(VisionTransformer(SHAPE)).state_dict().items()}
    for name, held in (("gend_clip_l14", tensors), ("commfor_384", vit)):
        mirror.file(name).parent.mkdir(parents=True)
        mirror.file(name).write_bytes(save({key: value.contiguous() for key, value in held.items()}))
    return mirror


def install(patch: pytest.MonkeyPatch, mirror: Mirror, keep: Collection[str] | None = None) -> dict[str, DetectorSpec]:
    """Makes the stand-ins the published detectors on record, at an address where nobody answers; returns the installed
    specs. keep: all that is installed; None: everything."""
    known = dict(registry._known().by_name)
    for name in ("gend_clip_l14", "commfor_384"):
        spec, module = known[name]
        data = mirror.file(name).read_bytes()
        sha256 = hashlib.sha256(data).hexdigest()
        file = replace(spec.weights[0], url=f"{NOWHERE}/{name}", sha256=sha256, size_bytes=len(data))
        known[name] = (replace(spec, weights=(file,), weights_sha256=sha256), module)
    kept = {name: found for name, found in known.items() if keep is None or name in keep}
    patch.setattr(registry, "_known", lambda: registry._Known(kept))
    patch.setattr(gend.GendDetector, "sizes", TINY_CLIP)
    patch.setattr(commfor, "VitShape", lambda image: SHAPE)
    return {name: spec for name, (spec, _) in kept.items()}
