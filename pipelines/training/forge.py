"""Makes forged files from real ones, for calibrations and studies without labelled fakes.

Each real file gives its forgeries, of the kinds that it allows, and itself through the same chain. All are scaled, cut
and encoded alike at the same bit rate, so that neither codec nor size tells them apart. `labels.csv` says which is
which. Self-made forgeries are not the ones that an archive will meet tomorrow, so figures on them do not measure
accuracy.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np

from ... import __version__
from ...models.base import SOUND_RATE
from ...models.extras import lacking
from ...models.training.split import part
from ...transforms.failures import UsageError, WorldError, local_fault, printable
from ..samples.encoding import EncodingError
from .forge_options import FAMILY_OF, ForgeConfig
from .forging import REAL, Made, Tell, Workshop, forge_film, forge_sound, speaks
from .material import Source, decoder_pool, probed, sounds, sources_of

LABELS, RECORD = "labels.csv", "forged.json"
MOST_VOICES = 200
"""Most sources whose speech is used to dub films."""


def forge(config: ForgeConfig, tell: Tell = print) -> list[Made]:
    """Writes the files, the labels and a record of how they were made; returns what was made.

    Raises:
        UsageError: a kind is unknown, the output is not empty, the sources hold no real file of that part, or the extra
            `train` is not installed.
        WorldError: the disk failed. After any error the unfinished output is removed, and the same command starts over.
    """
    output = Path(config.output)
    sources = _chosen(config)
    there = os.path.lexists(output)
    try:
        full = there and (not output.is_dir() or any(output.iterdir()))
    except OSError as error:
        raise local_fault(printable(config.output), error) from error
    if full:
        raise UsageError(f"expected a new or empty folder for the forgeries, found {printable(config.output)}")
    try:
        output.mkdir(parents=True, exist_ok=True)
        return _forged(config, output, sources, tell)
    except BaseException as error:
        _take_back(output, config, there)
        if isinstance(error, OSError):
            raise local_fault(printable(str(error.filename or config.output)), error) from error
        raise


def _forged(config: ForgeConfig, output: Path, sources: Sequence[Source], tell: Tell) -> list[Made]:
    made: list[Made] = []
    stems: Counter[str] = Counter()
    with decoder_pool() as (pool, spool):
        shop = Workshop(config, pool, spool, tell, sources)
        if "dubbed" in config.kinds:
            shop.voices = _voices(sources, config)
        for source in sources:
            probe = probed(source, pool, spool, tell)
            if probe is None:
                continue
            with tempfile.TemporaryDirectory(prefix="deephotlink-forge-") as scratch:
                one = forge_film if probe.video is not None else forge_sound
                try:
                    files = one(shop, source, probe, Path(scratch))
                except EncodingError as error:
                    if error.disk_full:
                        raise WorldError(f"no space is left on the disk of {scratch}") from error
                    shop.pass_over(source, "film" if probe.video is not None else "sound", str(error))
                    continue
                name = _name(source, stems)
                made += [_placed(output, file, row, name) for file, row in files]
            tell(f"{printable(Path(source.path).name, 100)}: {', '.join(row.generator or REAL for _, row in files)}")
    if not any(row.label == "fake" for row in made):
        raise UsageError("expected real media with faces or speech, but no file could be forged")
    write_labels(Path(config.labels_out) if config.labels_out else output / LABELS, output, made)
    (output / RECORD).write_text(json.dumps(_record(config, made, shop.passed_over), indent=1), encoding="utf-8")
    return made


def _take_back(output: Path, config: ForgeConfig, keep_folder: bool) -> None:
    """Removes what this command wrote into an output that was empty when it began, and nothing else."""
    for kind in (REAL, *config.kinds):
        shutil.rmtree(output / kind, ignore_errors=True)
    with suppress(OSError):
        (output / RECORD).unlink(missing_ok=True)
        (output / LABELS).unlink(missing_ok=True)
        if not keep_folder:
            output.rmdir()


def _chosen(config: ForgeConfig) -> list[Source]:
    unknown = sorted(set(config.kinds) - set(FAMILY_OF))
    if unknown or not config.kinds:
        raise UsageError(f"expected kinds from among {', '.join(FAMILY_OF)}, got {', '.join(unknown) or 'none'}")
    if (lack := lacking("forging needs", "train")) is not None:
        raise UsageError(lack)
    found = [s for s in sources_of(config.sources, config.labels) if s.kind == "media"]
    found = [s for s in found if config.part == "all" or part(s.group) == config.part]
    if not found:
        raise UsageError(f"expected real videos or sound of the part {config.part!r} among the sources, found none")
    return found


def _voices(sources: Sequence[Source], config: ForgeConfig) -> list[tuple[str, np.ndarray]]:
    """Speech to dub films with: the group and the sound, float32 [S], of each voice."""
    order = np.random.default_rng([config.seed, 1]).permutation(len(sources))[:MOST_VOICES]
    found = sounds([sources[at] for at in sorted(order)], lambda _: None)
    cut = round(config.seconds * SOUND_RATE)
    return [(source.group, sound[:cut].copy()) for source, sound in found if speaks(sound[:cut])]


def _name(source: Source, stems: Counter[str]) -> str:
    """The name of a source's files, real and forged: its group, with a number if that name is taken."""
    stem = "".join(c if c.isalnum() or c in "-_." else "_" for c in Path(source.group).stem)[:80] or "source"
    stems[stem.lower()] += 1
    number = stems[stem.lower()]
    return stem if number == 1 else f"{stem}~{number}"


def _placed(output: Path, file: Path, row: Made, name: str) -> Made:
    """Copies the finished file into the folder of its kind; returns its row with the path."""
    (output / row.path).mkdir(exist_ok=True)
    row = replace(row, path=f"{row.path}/{name}{file.suffix}")
    shutil.copyfile(file, output / row.path)
    return row


def write_labels(path: Path, folder: Path, made: Sequence[Made]) -> None:
    """Writes the CSV `uri,label,group,family,generator`. The uris are relative if the labels are in the files' folder,
    else absolute."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.parent.resolve() == folder.resolve()
    # A file's name, and so a group, may hold bytes that are not text.
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as out:
        rows = csv.writer(out)
        rows.writerow(["uri", "label", "group", "family", "generator"])
        for row in made:
            uri = row.path if beside else str(folder.resolve() / row.path)
            rows.writerow([uri, row.label, row.group, row.family, row.generator])


def _record(config: ForgeConfig, made: Sequence[Made], passed_over: Sequence[str]) -> dict[str, object]:
    import cv2

    return {
        "deephotlink": __version__,
        "packages": {
            "opencv": cv2.__version__,
            **{name: version(name) for name in ("av", "imageio-ffmpeg", "numpy", "scipy")},
        },
        "asked": asdict(config),
        "files": dict(Counter(row.generator or REAL for row in made)),
        "groups": len({row.group for row in made}),
        "passed_over": list(passed_over),
    }
