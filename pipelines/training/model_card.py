"""What a training writes beside its weights: the figures in the sidecar, and the skeleton of a model card.

Figures are measured on held-out groups. Their intervals come from a bootstrap that draws groups, never items, because
takes of one person are not independent evidence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from ...models.base import DetectorSpec
from ...models.calibration.accuracy import Resampling, weighted_auc
from ...models.calibration.bounds import group_weights

DRAWS = 1000
Interval = tuple[float, float, float]
"""A figure with the 2.5 % and 97.5 % quantiles of its draws."""


def grouped_figures(groups: Sequence[str], logits: Mapping[str, np.ndarray], seed: int = 0) -> dict[str, Interval]:
    """AUC of each kind against `real`, and the share of real items with a logit above 0. All groups weigh the same.

    groups: the group of each item. logits: by kind, one logit per item. With only one group there is nothing to draw,
    and the bounds are NaN.
    """
    place = np.unique(np.asarray(groups), return_inverse=True)[1]
    each = group_weights(place)
    arrays = {kind: np.asarray(values, np.float64) for kind, values in logits.items()}
    several = place.max(initial=0) > 0
    draws = chain([each], *(times * each for times in Resampling(DRAWS, seed).weights(place))) if several else [each]
    found: dict[str, list[float]] = {}
    for weights in draws:
        for kind, values in arrays.items():
            if kind != "real":
                found.setdefault(f"AUC, {kind}", []).append(weighted_auc(arrays["real"], values, weights))
        above = float((weights * (arrays["real"] > 0)).sum() / weights.sum())
        found.setdefault("share of real above 0", []).append(above)
    none = float("nan")
    return {
        name: (values[0], *(map(float, np.quantile(values[1:], (0.025, 0.975))) if values[1:] else (none, none)))
        for name, values in found.items()
    }


def card(spec: DetectorSpec, record: Mapping[str, Any]) -> str:
    """The model card in Markdown. Known facts are filled in; _italics_ ask for what only the card's author knows."""
    data, counted = record["data"], record["amounts"]
    licences = "\n".join(f"| {name or 'not stated'} | {count} |" for name, count in sorted(data["licences"].items()))
    return f"""# {record["name"]}

## What it judges

{spec.summary[:1].upper()}{spec.summary[1:]}. Family `{spec.family}`, one logit per `{spec.unit}`; above 0 =
manipulated.

## Data

{data["sources"]} real files ({data["media"]} films or recordings, {data["stills"]} stills) of {data["groups"]} groups;
forgeries are made from them during training. Learned from: {counted["fit"]} items of {data["groups_fit"]} groups;
judged by: {counted["held"]} items of {data["groups_held"]} groups that were never learned from. A group's name
decides on which side it stands; sha256 of the names by side: `{data["groups_sha256"]}`.

| licence | files |
|---|---|
{licences}

## Method and paper

{spec.method or "_Say what the network learns and after whom._"} Network: {spec.architecture}. Input: {spec.input}.
{record["parameters"]:,} parameters, stored as float16 ({record["size_bytes"]:,} bytes, sha256 `{record["sha256"]}`).
Configuration `{record["config"]}`, seed {record["seed"]}, {record["steps"]} of {record["steps_planned"]} steps, started
from {record["init"]["said"]}.

## Figures

Measured on {record["date"]} on the held-out groups and forgeries of them, with the weights of step
{record["best_step"]}; 95 % intervals of a bootstrap over groups. The same figures chose the step, so they are
optimistic.

{_table(record)}

## Blind spots

{spec.blind_to[:1].upper()}{spec.blind_to[1:]}. _Add what was found since._

## Intended use and what it must not be used for

Evidence for people who screen archives, after a calibration on material like theirs. It is neither proof nor an
accusation, and alone it is no basis for a decision about a person.

## How to reproduce

```
{record["made_by"]}
```

with deephotlink {record["version"]}.
"""


def _table(record: Mapping[str, Any]) -> str:
    rows = ["| figure | value | 95 % interval |", "|---|---|---|"]
    intervals = record["intervals"]
    for name, (value, low, high) in intervals.items():
        interval = "one group only: none" if low is None or high is None else f"{low:.3f} to {high:.3f}"
        rows.append(f"| {name} | {value:.3f} | {interval} |")
    if not intervals:
        rows += [
            f"| {name} | {value:.3f} | not computed |"
            for name, value in record["figures"].items()
            if name not in ("step", "seconds")
        ]
    return "\n".join(rows)
