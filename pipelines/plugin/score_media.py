"""`ScoreMedia`: the step for Beam pipelines of one's own, from names of files to rows with a schema."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from ...models import registry
from ...models.base import Detector, DetectorSpec
from ...models.calibration.calibration import Calibration, load_calibration
from ...models.weights.files import Weights
from ...transforms.listing import ListingOptions
from ...transforms.tables.beam_rows import ROW_TYPES, rows_of
from ..audit import AssessMedia, chosen_detectors, shown_settings
from ..options import Reading, fingerprint
from .audit_options import config_of
from .inputs import FindMedia


class MediaTables(dict[str, beam.PCollection]):
    """The outputs of `ScoreMedia`, by name or as attributes: a PCollection of rows for each table.

    Every file is in exactly one of `scores`, `failures` and `skipped`.
    """

    @property
    def scores(self) -> beam.PCollection:
        """`ScoreRow`: one for each file that could be read."""
        return self["scores"]

    @property
    def evidence(self) -> beam.PCollection:
        """`EvidenceRow`: one for each answer of a detector."""
        return self["evidence"]

    @property
    def evidence_frames(self) -> beam.PCollection:
        """`EvidenceFrameRow`: small pictures of suspicious files."""
        return self["evidence_frames"]

    @property
    def failures(self) -> beam.PCollection:
        """`FailureRow`: one for each file of which nothing could be read."""
        return self["failures"]

    @property
    def skipped(self) -> beam.PCollection:
        """`SkippedRow`: one for each file that is not media."""
        return self["skipped"]


@dataclass
class ScoreMedia(beam.PTransform):
    """Scores media with the chosen detectors. Takes elements that name files, yields `MediaTables`.

    An element is a URI (str, bytes or a path), what `beam.io.fileio` gives (`FileMetadata`, `ReadableFile`), a
    `MediaFile` of `ListMedia`, or a row or dict with a column `uri` or with only one column. What cannot be read is a
    row in `failures`, and what is not media is a row in `skipped`. A tar or zip is a row in `skipped`, and its members
    are files of their own. A file that is named several times is scored once; in a streaming pipeline, once in each
    window.

    Raises:
        TypeCheckError: the elements are of another type, as far as that is known when the pipeline is made.
        UsageError: a detector is unknown or its weights are missing; at work, an element names no file.
    """

    detectors: Sequence[str | DetectorSpec] | None = None
    """Names or specs; None: every detector that is ready."""
    reading: Reading = field(default_factory=Reading)
    calibration: Calibration = field(default_factory=load_calibration)
    build: Callable[[DetectorSpec, Weights], Detector] = registry.make
    """Makes a detector. Called on the worker."""
    spool: str | None = None
    """Local folder for staged files; None: the system's temporary folder."""
    weights: Mapping[str, Weights] | None = None
    """As in `AssessMedia`."""
    listing: ListingOptions = field(default_factory=ListingOptions)
    """How elements that are not a `MediaFile` yet are looked up: limits of archives, identity."""

    def __post_init__(self) -> None:
        super().__init__()

    @classmethod
    def from_options(cls, options: PipelineOptions) -> ScoreMedia:
        """The step as `AuditOptions` among a pipeline's options describe it.

        Raises:
            UsageError: a detector, calibration or weights file is unknown.
        """
        config = config_of(options)
        listing = ListingOptions(identity=config.identity, limits=config.archives)
        return cls(config.detectors, config.reading, config.calibration, weights=config.weights, listing=listing)

    def expand(self, pcoll):
        specs, weights = chosen_detectors(self.detectors, self.weights)
        spool = self.spool or tempfile.gettempdir()
        results = (
            pcoll
            | "FindMedia" >> FindMedia(self.listing)
            | "AssessMedia" >> AssessMedia(specs, self.reading, self.calibration, self.build, spool, weights)
            | "MakeRows" >> beam.Map(rows_of, fingerprint(specs, self.reading))
        )
        return MediaTables(
            {
                table: results | f"Rows of {table}" >> beam.FlatMap(_rows, table).with_output_types(kind)
                for table, kind in ROW_TYPES.items()
            }
        )

    def display_data(self):
        return shown_settings(self.detectors, self.reading, self.calibration)


def _rows(tables: Mapping[str, Sequence[Any]], table: str) -> Iterator[Any]:
    yield from tables[table]
