"""An estimate as facts for programs and as rows for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.filesize import decimal

from ...transforms.tables.plan_table import Plan
from ..terminal.wording import counted
from .measuring import Sampled
from .predicting import Estimate, Fleet
from .strata import Files, Stratum

_TIMES = {"wall_seconds": "time", "cpu_seconds": "CPU time", "gpu_seconds": "GPU time"}
_SIZES = {
    "fetched_bytes": "to fetch from the store",
    "table_bytes": "disk for tables",
    "picture_bytes": "disk for pictures",
}
_COSTS = {"machine_cost": "cost of machines", "transfer_cost": "cost of transfer", "cost": "cost"}


def facts_of(
    plan: Plan,
    files: Files,
    strata: Sequence[Stratum],
    sampled: Sampled | None,
    fleet: Fleet,
    estimate: Estimate | None,
) -> dict[str, Any]:
    """What `--json` prints. Without an estimate: there is no file to read."""
    kinds = Counter({s.kind: 0 for s in strata})
    for stratum in strata:
        kinds[stratum.kind] += len(stratum.files)
    facts: dict[str, Any] = {
        "files": len(files.rows),
        **{f"files_{kind}": number for kind, number in kinds.items()},
        "files_not_to_read": plan.rows - len(files.rows),
        "files_in_the_tables_already": plan.already_done,
        "source_bytes": int(files.size_bytes.sum()),
        "units": plan.units,
        "fleet": asdict(fleet),
    }
    if sampled is None or estimate is None:
        return facts
    facts["waves"] = estimate.waves
    facts["sample"] = {
        "files": sum(len(group.files) for group in sampled.groups),
        "strata": len(strata),
        "failed": sampled.failed,
        "films_of_which_some_clips_were_looked_at": sampled.long,
        "workers": sampled.workers,
        "load_seconds": sampled.load.wall_seconds,
        "first_wave_seconds": sampled.first.wall_seconds,
        "wave_seconds": sampled.wave.wall_seconds,
        "close_seconds": sampled.close.wall_seconds,
    }
    named = asdict(estimate)
    facts |= {name: named[name] for name in (*_TIMES, *_SIZES) if named[name] is not None}
    facts["page_bytes"] = round(estimate.page_bytes)
    costs = [named[name] for name in ("machine_cost", "transfer_cost") if named[name] is not None]
    facts |= {name: named[name] for name in ("machine_cost", "transfer_cost") if named[name] is not None}
    if costs:
        facts["cost"] = {part: sum(cost[part] for cost in costs) for part in costs[0]}
    return facts


def rows_of(facts: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What is printed for people: what, how much, between what."""
    fleet, sample = facts["fleet"], facts["sample"]
    kinds = ", ".join(
        f"{facts[key]:,} {key.removeprefix('files_')}" for key in ("files_film", "files_sound") if key in facts
    )
    machines = f"{counted(fleet['machines'], 'machine')} with {counted(fleet['workers'], 'worker')}"
    rows = [
        ("files to read", f"{facts['files']:,}", kinds),
        ("files that the listing settles", f"{facts['files_not_to_read']:,}", ""),
        ("files in the tables already", f"{facts['files_in_the_tables_already']:,}", ""),
        ("bytes of these files", decimal(facts["source_bytes"]), ""),
        ("files audited as a sample", f"{sample['files']:,}", _about(sample)),
        ("fleet", machines + (" each" if fleet["machines"] > 1 else ""), ""),
    ]
    rows += [
        (told, duration(facts[n]["value"]), _between(facts[n], duration)) for n, told in _TIMES.items() if n in facts
    ]
    size = lambda value: decimal(round(value))  # noqa: E731
    for name, told in _SIZES.items():
        if name != "fetched_bytes" or facts[name]["high"]:
            rows.append((told, size(facts[name]["value"]), _between(facts[name], size)))
    rows.append(("disk for report.html", decimal(facts["page_bytes"]), ""))
    money = lambda value: f"{value:,.2f}"  # noqa: E731
    rows += [(told, money(facts[n]["value"]), _between(facts[n], money)) for n, told in _COSTS.items() if n in facts]
    return rows


def _about(sample: Mapping[str, Any]) -> str:
    parts = []
    if sample["failed"]:
        parts.append(f"{sample['failed']} could not be read")
    if sample["films_of_which_some_clips_were_looked_at"]:
        parts.append(f"{sample['films_of_which_some_clips_were_looked_at']} in part")
    return ", ".join(parts)


def _between(figure: Mapping[str, float], shown: Any) -> str:
    return f"{shown(figure['low'])} and {shown(figure['high'])}"


def duration(seconds: float) -> str:
    """
    >>> duration(8.4), duration(100), duration(4000), duration(1e6)
    ('8 s', '1 min 40 s', '1 h 7 min', '277 h 47 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60:,} h {minutes % 60} min"
