"""What the user states about a model of transformers in `deephotlink.json`, and its licence from the model card.

```json
{"fake": "LABEL_1", "family": "facial", "unit": "face_track", "licence": "MIT"}
```
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, get_args

from ...base import FAMILIES, Unit
from ...weights.checkpoints import read_object
from ...weights.files import WeightsError
from ..licences import forbids_commercial_use

NAME = "deephotlink.json"
NOT_STATED = "not stated"


@dataclass(frozen=True, slots=True)
class Sidecar:
    """The contents of `deephotlink.json`. Every field is optional."""

    fake: tuple[str, ...] | None = None
    """Labels that mean manipulated."""
    real: tuple[str, ...] | None = None
    """Labels that mean real; by default all that are not fake."""
    positive: str | None = None
    """`fake` or `real`: what the sigmoid of a single logit is the probability of."""
    family: str | None = None
    unit: str | None = None
    """`clip`, `face_track` (pictures of faces) or `audio_window`."""
    licence: str | None = None
    commercial_use: bool | None = None
    summary: str | None = None
    blind_to: str | None = None
    face_scale: float = 1.3
    """Factor by which a face's box is enlarged; 1 = as detected."""
    rows: int = 4
    """Pictures of a clip or a face that an image model judges."""
    window_seconds: float = 4.0
    """Length of a window of sound."""
    frame_rate: float = 7.5
    """Rate of the frames that a video model gets, Hz."""


def read_sidecar(data: bytes) -> Sidecar:
    """The contents of a `deephotlink.json`. Raises WeightsError if a key is unknown or a value is not valid."""
    stated = read_object(data, NAME)
    known = {field.name for field in fields(Sidecar)}
    if set(stated) - known:
        raise WeightsError(f"unknown in {NAME}: {sorted(set(stated) - known)}; known: {', '.join(sorted(known))}")
    found: dict[str, Any] = {}
    for key, value in stated.items():
        if key in ("fake", "real"):
            value = [value] if isinstance(value, str) else value
            good = isinstance(value, list) and bool(value) and all(isinstance(label, str) for label in value)
            expected = "a label or a list of labels"
            value = tuple(value) if good else value
        elif key == "positive":
            good, expected = value in ("fake", "real"), '"fake" or "real"'
        elif key == "family":
            good, expected = value in FAMILIES, f"one of {', '.join(FAMILIES)}"
        elif key == "unit":
            units = tuple(unit for unit in get_args(Unit) if unit != "media")
            good, expected = value in units, f"one of {', '.join(units)}"
        elif key == "commercial_use":
            good, expected = isinstance(value, bool), "true or false"
        elif key == "rows":
            good, expected = type(value) is int and 1 <= value <= 64, "a whole number from 1 to 64"
        elif key in RANGES:
            low, high = RANGES[key]
            good, expected = type(value) in (int, float) and low <= value <= high, f"a number from {low} to {high}"
            value = float(value) if good else value
        else:
            good, expected = isinstance(value, str) and 0 < len(value) <= 500, "a text of 500 characters at most"
        if not good:
            raise WeightsError(f'expected {expected} for "{key}" in {NAME}: got {repr(value)[:200]}')
        found[key] = value
    return Sidecar(**found)


RANGES = {"face_scale": (0.5, 4.0), "window_seconds": (0.25, 60.0), "frame_rate": (0.5, 60.0)}


def licence_of(sidecar: Sidecar, card: bytes | None) -> tuple[str, bool]:
    """(licence, whether commercial use is allowed), as the user states it, else from the front matter of README.md.

    A licence that is not stated is assumed to allow it: the user of the model is responsible.
    """
    front = _front_matter(card.decode("utf-8", "replace")) if card is not None else {}
    name = front.get("license")
    if name == "other":
        name = front.get("license_name", name)
        allowed = not forbids_commercial_use(name) and "research" not in name
    else:
        allowed = not forbids_commercial_use(name or "")
    if sidecar.licence is not None:
        name, allowed = sidecar.licence, not forbids_commercial_use(sidecar.licence)
    return (name or NOT_STATED), (allowed if sidecar.commercial_use is None else sidecar.commercial_use)


def _front_matter(text: str) -> Mapping[str, str]:
    """`license` and `license_name` between the two `---` lines at the top. A list counts as its first entry."""
    parts = text[:65_536].lstrip("\ufeff").split("\n---", 1)
    if not text.lstrip("\ufeff").startswith("---") or len(parts) < 2:
        return {}
    found = {}
    for key in ("license", "license_name"):
        match = re.search(rf"^{key}:[ \t]*(?:\r?\n[ \t]*-[ \t]+|\[[ \t]*)?([^\r\n,\]#]+)", parts[0], re.MULTILINE)
        if match:
            found[key] = match[1].strip().strip("\"'").lower()[:100]
    return found
