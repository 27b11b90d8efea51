"""`deephotlink calibrate`: a calibration file from an output whose media are labelled, or known to be real.

Reads the evidence behind each file's newest score. models/calibration/calibrating.py says what is fitted on it, and
how."""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.markup import escape

from ... import __version__
from ...models.calibration.calibrating import CalibrationRequest, calibrate
from ...models.calibration.calibration import (
    STRETCH_SECONDS,
    Calibration,
    calibration_to_json,
    content_sha256,
    parse_calibration,
)
from ...models.calibration.fitting import DetectorLogits, Media
from ...models.extras import lacking
from ...models.registry import installed
from ...transforms.failures import UsageError, local_fault, printable
from ...transforms.storage.output_store import OutputStore
from ...transforms.tables.runs import Run, list_runs
from ..outputs.query import connect, readable
from ..terminal.printing import console as console_of
from ..terminal.tables import Column, print_table
from ..terminal.wording import shell_word
from .known_real import RealFiles, find_real, options_for
from .labelled_rows import copies, labelled
from .labels import Label

_ROWS = """
select media_id, uri, run_id, size_bytes, coalesce(evidence_run_id, run_id) as evidence_run, fingerprint
from latest where outcome = 'scored' order by media_id
"""
_EVIDENCE = """
select w.place as media, e.run_id, e.detector, e.family, e.weights_sha256, coalesce(e.clip_index, -1) as clip,
       e.start_seconds, coalesce(e.end_seconds, e.start_seconds) as end_seconds, e.logit
from evidence e join wanted w on e.media_id = w.media_id and e.run_id = w.evidence_run
where e.logit is not null and isfinite(e.logit)
order by e.detector, w.place, e.start_seconds, e.end_seconds, e.clip_index, e.track_id, e.logit
"""


@dataclass(frozen=True, slots=True)
class EvidenceMaterial:
    """Labelled media and each detector's logits on them, item by item."""

    media: Media
    said: tuple[DetectorLogits, ...]
    identities: Mapping[str, Mapping[str, Any]]
    about: Mapping[str, Any]
    """What a calibration file records about the material."""


def make_calibration(
    out: str, labels: str | None, wish: CalibrationRequest, base: Calibration, real: RealFiles | None = None
) -> Calibration:
    """The calibration that the labelled media of `out` allow. Without labels, those of `real` are taken as real, and
    all of them if that is None.

    Raises:
        UsageError: there is no output, the labels do not fit it, or they are too few.
    """
    material = read_evidence(out, labels, real)
    wish = replace(wish, data=printable(wish.data, 2000) or in_words(material.about))
    try:
        made = calibrate(material.media, material.said, material.identities, wish, base)
    except ValueError as error:
        raise UsageError(f"cannot calibrate on {printable(out)}: {error}") from error
    today = datetime.now(UTC).date().isoformat()
    record = {
        "made": {"at": today, "by": f"deephotlink {__version__}"},
        "base": base.calibration_id,
        **material.about,
        **made.record,
    }
    made = replace(made, note=" ".join(filter(None, (made.note, _independence(material.about)))), record=record)
    fields = calibration_to_json(made)
    if not wish.calibration_id:
        fields["calibration_id"] = f"calibrated-{today}-{content_sha256(fields)[:8]}"
    return parse_calibration(json.dumps(fields, allow_nan=False), fields["calibration_id"])


def _independence(about: Mapping[str, Any]) -> str:
    """What a bound over groups assumes about files without a named group; empty if every file has one."""
    alone = about["labels"]["media_without_group"]
    if not alone:
        return ""
    return (
        f"{alone} files have no group, so each was counted as independent. If some are cuts of one film or takes of "
        "one person, the bound does not hold: give labels with `group`."
    )


def read_evidence(out: str, labels: str | None, real: RealFiles | None = None) -> EvidenceMaterial:
    """Reads the logits behind each labelled file's newest score. (`labelled_scores.read_material` reads what `evaluate`
    judges: the scores, and one number per detector and file.)

    Raises:
        UsageError: there is no output, it holds no score, or the labels do not fit it.
    """
    store = OutputStore(out, patience_seconds=15.0)
    with readable(out), connect(out) as tables:
        scored = tables.sql(_ROWS).to_arrow_table()
        if not scored.num_rows:
            raise UsageError(f"{printable(out)} holds no score yet: audit the labelled files first")
        if real is not None and labels is None:  # of a large output, not all rows as Python objects
            scored = scored.filter(pc.is_in(scored["uri"], pa.array(sorted(real.uris), pa.string())))
        pairs, told = labelled(scored.to_pylist(), labels, real)
        wanted = pa.table(
            {
                "place": pa.array(range(len(pairs)), pa.int64()),
                "media_id": pa.array([row["media_id"] for _, row in pairs], pa.string()),
                "evidence_run": pa.array([row["evidence_run"] for _, row in pairs], pa.string()),
            }
        )
        tables.register("wanted", wanted)
        evidence = tables.sql(_EVIDENCE).to_arrow_table()
    names: dict[str, int] = {}
    # Versions and copies of one file are not independent evidence, so they share a group. Copies are looked for only
    # among the files of named sources: `--labels` and a bare `--real-only` mean what they always meant.
    same = {} if real is None else copies([row["size_bytes"] for _, row in pairs], evidence)
    alone = [f"\0{pairs[same.get(at, at)][1]['uri']}" for at in range(len(pairs))]
    group = [names.setdefault(label.group or own, len(names)) for (label, _), own in zip(pairs, alone, strict=True)]
    media = Media(
        np.array([label.fake for label, _ in pairs], bool),
        np.array(group, np.int64),
        np.array([label.family for label, _ in pairs], np.str_),
    )
    said, identities, other = spoken(evidence, {run.run_id: run for run in list_runs(store)})
    about = {
        "labels": {
            **told,
            "media": _counted(pairs, media),
            "media_without_group": sum(not label.group for label, _ in pairs),
        },
        "fingerprints": sorted({row["fingerprint"] for _, row in pairs}),
        "evidence_not_used": other,
    }
    return EvidenceMaterial(media, said, identities, about)


def spoken(
    evidence: pa.Table, runs: Mapping[str, Run]
) -> tuple[tuple[DetectorLogits, ...], dict[str, dict[str, Any]], dict[str, str]]:
    """Each detector's logits, its identity, and what was not used.

    Only logits of the weights and version that judged the most media are used.
    """
    versions = {
        (run.run_id, one["name"]): str(one["version"])
        for run in runs.values()
        for one in run.settings.get("fingerprint_of", {}).get("detectors", ())
    }
    column = {name: evidence[name].to_pylist() for name in ("run_id", "detector", "family", "weights_sha256")}
    number = {name: evidence[name].to_numpy(zero_copy_only=False) for name in ("media", "clip", "logit")}
    middle = (
        evidence["start_seconds"].to_numpy(zero_copy_only=False)
        + evidence["end_seconds"].to_numpy(zero_copy_only=False)
    ) / 2
    stretch = np.where(np.isnan(middle), -1, np.nan_to_num(middle) // STRETCH_SECONDS).astype(np.int64)
    places: dict[str, dict[tuple[str, str | None], list[int]]] = defaultdict(lambda: defaultdict(list))
    for at, (run_id, name, weights) in enumerate(
        zip(column["run_id"], column["detector"], column["weights_sha256"], strict=True)
    ):
        places[name][weights, versions.get((run_id, name))].append(at)
    known = installed()
    said, identities, other = [], {}, {}
    for name, found in sorted(places.items()):
        # The weights and version with the most media; if several have as many, the one whose evidence comes last.
        (weights, version), rows = max(found.items(), key=lambda item: (len(set(number["media"][item[1]])), item[1]))
        if len(found) > 1:
            other[name] = f"{sum(map(len, found.values())) - len(rows)} logits from other weights or another version"
        explains = name in known and known[name].one_face_explains
        chosen = np.array(rows)
        if explains:
            chosen = _least_of_each_clip(chosen, number)
        said.append(
            DetectorLogits(
                name,
                column["family"][rows[0]],
                number["media"][chosen].astype(np.int64),
                stretch[chosen],
                number["logit"][chosen].astype(np.float64),
            )
        )
        identities[name] = {"weights_sha256": weights, "version": version, "one_face_explains": explains}
    return tuple(said), identities, other


def _least_of_each_clip(rows: np.ndarray, number: Mapping[str, np.ndarray]) -> np.ndarray:
    """The same as `fuse.least_of_each_clip`, for the rows of many media."""
    order = rows[np.lexsort((number["logit"][rows], number["clip"][rows], number["media"][rows]))]
    media, clip = number["media"][order], number["clip"][order]
    first = np.append(True, (media[1:] != media[:-1]) | (clip[1:] != clip[:-1]))
    return np.sort(order[first])


def _counted(pairs: Sequence[tuple[Label, Mapping[str, Any]]], media: Media) -> dict[str, Any]:
    def count(fake: bool) -> dict[str, Any]:
        own = [label for label, _ in pairs if label.fake == fake]
        groups = len(np.unique(media.group[media.fake == fake]))
        found: dict[str, Any] = {"media": len(own), "groups": groups}
        for field in ("family", "generator"):
            found[f"by_{field}"] = dict(sorted(Counter(getattr(label, field) or "unnamed" for label in own).items()))
        return found

    return {"real": count(False), "fake": count(True)}


def in_words(about: Mapping[str, Any]) -> str:
    real, fake = about["labels"]["media"]["real"], about["labels"]["media"]["fake"]
    text = f"{real['media']} real files ({real['groups']} groups)"
    if fake["media"]:
        text += f", {fake['media']} forged files ({fake['groups']} groups)"
    told = about["labels"]
    whose = f"the files of {', '.join(told['real_sources'])}" if told.get("real_sources") else "all files"
    return f"{text}; labels: {told['file'] or f'none, {whose} taken as real'}"


def calibrate_command(
    out: str,
    labels: str | None,
    output: str,
    wish: CalibrationRequest,
    base: Calibration,
    quiet: bool = False,
    real_sources: Sequence[str] = (),
) -> int:
    """Writes what `make_calibration` gives to the file `output`, whole or not at all, and prints a summary; returns the
    exit code."""
    if (lack := lacking("`calibrate` needs", "evaluate", "sklearn", "scipy")) is not None:
        raise UsageError(lack)
    real = None
    if real_sources:
        with readable(out), connect(out) as tables:
            real = find_real(tables, real_sources, out, options_for(out))
    made = make_calibration(out, labels, wish, base, real)
    target = Path(output)
    aside = target.with_name(f".{target.name}.tmp-{os.getpid()}")
    try:
        aside.write_text(json.dumps(calibration_to_json(made), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(aside, target)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise local_fault(f"cannot write {printable(output)}", error) from error
    if not quiet:
        tell(made, output, out, console_of(120))
    return 0


def tell(made: Calibration, output: str, out: str, console: Console) -> None:
    record = made.record
    rows: list[tuple[object, ...]] = []
    for name, rule in made.detectors.items():
        more = record["detectors"].get(name, {})
        judged = more.get("judged")
        auc = ((more.get("figures") or {}).get("held_out_auc")) or {}
        rows.append(
            (
                name,
                f"{rule.weight:g}",
                f"{judged['real_groups']} / {judged['fake_groups']}" if judged else "-",
                "-"
                if auc.get("value") is None
                else f"{auc['value']:.2f} [{auc['low'] or 0:.2f}-{auc['high'] or 1:.2f}]",
                printable(rule.note, 200),
            )
        )
    rows += [(name, "left out", "", "", why) for name, why in record["left_out"].items()]
    columns = ("detector", "weight", "real / fake groups", "held-out AUC", "how")
    title = f"Calibration {made.calibration_id}: {printable(made.data)}"
    print_table(console, [Column(name, whole=name != "how") for name in columns], rows, title)
    thresholds = record["thresholds"]
    accused = thresholds["false_positives"]
    console.print(f"\n{escape(made.note)}", highlight=False)
    console.print(
        f"`manipulated` at an authenticity of {made.manipulated_at_most:.3f} or less: {accused['rate_by_group']:.1%} "
        f"of the held-out real groups (95 % confidence: at most {accused['upper_95_by_group']:.1%}; "
        f"{accused['groups']} groups, {accused['of_media']} files)",
        highlight=False,
    )
    if made.authentic_at_least is not None:
        missed = thresholds["misses"]
        console.print(
            f"`authentic` at an authenticity of {made.authentic_at_least:.3f} or more: {missed['rate_by_group']:.1%} "
            f"of the held-out forged groups (95 % confidence: at most {missed['upper_95_by_group']:.1%})",
            highlight=False,
        )
    encoding = console.encoding
    console.print(
        f"\nWritten: {escape(printable(output))}   Use it: deephotlink rescore {escape(shell_word(out, encoding))} "
        f"--calibration {escape(shell_word(output, encoding))}",
        highlight=False,
        soft_wrap=True,
    )
