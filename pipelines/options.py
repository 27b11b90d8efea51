"""What an audit was asked to do, parsed once. No layer below `pipelines` sees argparse."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

from .. import __version__
from ..models.base import DetectorSpec
from ..models.calibration.calibration import Calibration, CalibrationError, load_calibration
from ..models.devices import best_device
from ..models.faces.mtcnn_weights import WEIGHTS_SHA256
from ..models.late import late
from ..models.weights.files import NO_WEIGHTS, Weights
from ..transforms.archives.members import ShardLimits
from ..transforms.failures import UsageError
from ..transforms.media.protocol import Limits
from ..transforms.storage.output_names import ICEBERG_NAMESPACE
from ..transforms.storage.sources import MAX_FILE_BYTES
from ..transforms.storage.uris import redact
from .limits import FileLimits, add_limit_arguments, budgets_of, limits_of, size
from .terminal.argument_types import error_classes, positive, positive_seconds, share
from .terminal.parser import Parser
from .weights.detector_choice import choose, split_names

# Late, because the steps import Beam, and `deephotlink audit --help` does not need it.
if TYPE_CHECKING:
    from ..transforms.clips import Sampling
else:
    Sampling = late("..transforms.clips:Sampling", __package__)

Sandbox = Literal["auto", "require", "off"]
Identity = Literal["version", "content"]
MiB = 1 << 20
SOURCES_HELP = "file, folder, glob, URI, tar or zip, or listing (column `uri`)"


@dataclass(frozen=True, slots=True)
class Reading:
    """How files are read and detectors are run: everything that the steps of the fused stage need to know.

    `decoders` and `device`, if left open, are decided on the worker, which may not be the launching machine.
    """

    sampling: Sampling = field(default_factory=Sampling)
    limits: Limits = field(default_factory=Limits)
    sandbox: Sandbox = "auto"
    decoders: int | None = None
    """Number of decoder children; None: the worker's cores less one, 1 to 8."""
    ahead_bytes: int = 256 * MiB
    """Bytes of decoded clips that may wait for the detectors."""
    device: str = "auto"
    max_bytes: int = MAX_FILE_BYTES
    """Most bytes in one file; larger files end as `too_large`."""
    max_spool_bytes: int | None = None
    """Most bytes of staged files at a time on each worker; None: half of the free space there."""
    pictures: bool = True
    """Whether small pictures of suspicious files are kept in `evidence_frames`. Changes no score, so it is in neither
    the fingerprint nor the resume key."""


def fingerprint_of(detectors: Sequence[DetectorSpec], reading: Reading) -> dict[str, Any]:
    """Everything that may change a logit by more than rounding. The calibration does not.

    Torch and the device are left out: CPU and GPU, and different torch releases, agree within each detector's
    tolerance, so an archive need not be read again when they change.
    """
    from ..transforms.clips import SAMPLING_VERSION
    from ..transforms.faces import FACES_VERSION

    needs = frozenset[str]().union(*(d.needs for d in detectors))
    return {
        "sampling": {"version": SAMPLING_VERSION, **asdict(reading.sampling)},
        "detectors": [
            {
                "name": d.name,
                "version": d.version,
                "weights_sha256": d.weights_sha256,
                "clip": asdict(d.clip) if d.clip else None,
                "audio": asdict(d.audio) if d.audio else None,
            }
            for d in detectors
        ],
        "decoders": {"av": version("av"), "decord2": version("decord2")},
        "faces": {"version": FACES_VERSION, "weights": dict(WEIGHTS_SHA256)} if "faces" in needs else None,
        "credentials": version("c2pa-python") if "credentials" in needs else None,
        "limits": budgets_of(reading.limits),
    }


def fingerprint(detectors: Sequence[DetectorSpec], reading: Reading) -> str:
    """16 hex digits of a hash of `fingerprint_of`."""
    text = json.dumps(fingerprint_of(detectors, reading), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class AuditConfig:
    sources: tuple[str, ...]
    output: str
    detectors: tuple[DetectorSpec, ...]
    reading: Reading
    calibration: Calibration
    archives: ShardLimits = field(default_factory=ShardLimits)
    weights: Mapping[str, Weights] = field(default_factory=dict)
    """Weights of the detectors that need any, by the detector's name."""
    licences_accepted: Mapping[str, str] = field(default_factory=dict)
    """Licences that forbid commercial use, by the detector's name."""
    warnings: tuple[str, ...] = ()
    """Printed before anything begins."""
    identity: Identity = "version"
    limit: int | None = None
    wave_size: int | None = None
    """Units of work (about a minute each on one machine) between two commits; None: as `waves.wave_size` chooses. One
    wave is one Beam job."""
    unit_size: int = 16
    """Most media in a unit."""
    workers: int | None = None
    """Processes that score on this machine; None: as many as its cores and memory and that of its GPUs allow."""
    retry_failures: tuple[str, ...] | None = None
    """Classes of failures to plan again, in ascending order; empty: all classes; None: no retry."""
    max_failure_rate: float | None = None
    """In [0, 1). If a larger share of the media fails, the exit code is 4; None: any share may fail."""
    iceberg: str | None = None
    """The Iceberg catalog in which the files are listed at the end; "": SQLite in the output; None: none."""
    iceberg_namespace: str = ICEBERG_NAMESPACE
    quiet: bool = False
    as_json: bool = False
    beam_args: tuple[str, ...] = ()

    def fingerprint_of(self) -> dict[str, Any]:
        return fingerprint_of(self.detectors, self.reading)

    @property
    def limits(self) -> FileLimits:
        return FileLimits(self.reading.limits, self.archives)

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.detectors, self.reading)

    def provenance(self) -> dict[str, Any]:
        """How the run was made, for its record. Holds no secrets: no source with a query, no environment variables."""
        packages = ("apache-beam", "av", "c2pa-python", "decord2", "numpy", "pyarrow", "torch")
        return {
            "deephotlink": __version__,
            "packages": {name: version(name) for name in packages},
            "fingerprint_of": self.fingerprint_of(),
            "sandbox_asked": self.reading.sandbox,
            "limits": self.limits.as_json(),
            "device": self.reading.device,
            "pictures": self.reading.pictures,
            "detectors": [
                {
                    "name": d.name,
                    "family": d.family,
                    "origin": d.origin,
                    "licence": d.licence,
                    "weights_sha256": d.weights_sha256,
                    "weights": self._files_of(d),
                }
                for d in self.detectors
            ],
            "licences_accepted": dict(self.licences_accepted),
        }

    def _files_of(self, spec: DetectorSpec) -> list[dict[str, Any]]:
        """The files that were loaded. A file that is not the one on record has no `url` and no `revision`."""
        record = {file.role: file for file in spec.weights}
        found: list[dict[str, Any]] = []
        for role, held in sorted(self.weights.get(spec.name, NO_WEIGHTS).files.items()):
            file = record.get(role)
            as_recorded = file is not None and file.sha256 in ("", held.sha256)
            found.append(
                {
                    "role": role,
                    "file": file.file_name if file is not None else role,
                    "sha256": held.sha256,
                    "size_bytes": held.size_bytes,
                    "url": redact(file.url) if file is not None and as_recorded else None,
                    "revision": file.revision if file is not None and as_recorded else None,
                    "sha256_on_record": (file.sha256 or None) if file is not None else None,
                }
            )
        return found


def add_audit_arguments(parser: Parser) -> None:
    add = parser.add_argument
    add("sources", nargs="+", metavar="SOURCE", help=SOURCES_HELP)
    add("--output", required=True, metavar="OUT", help="folder or URI for the tables")
    add_work_arguments(parser)
    add("--recommended", action="store_true", help="pull and run the best detectors on record; asks before it pulls")
    add("--yes", action="store_true", help="pull what is recommended without asking")
    add("--weights-from", metavar="URL", help="a mirror to pull recommended weights from (URL/NAME/FILE)")
    add(
        "--real",
        action="append",
        default=[],
        metavar="SOURCE",
        help="real files of your own: audit them too, calibrate on them, and rescore",
    )
    add(
        "--iceberg",
        metavar="CATALOG",
        help="at the end list the new files in Iceberg tables (--iceberg=CATALOG; default: SQLite in OUT)",
    )
    parser.bare_options["--iceberg"] = ""
    add("--iceberg-namespace", default=ICEBERG_NAMESPACE, metavar="NAME", help="of these tables (default deephotlink)")
    add("--dry-run", action="store_true", help="print what would be done and needed; write nothing")
    add(
        "--retry-failures",
        type=error_classes,
        metavar="CLASS,…",
        help="audit failed files again: all, or those of these classes (--retry-failures=CLASS,…)",
    )
    parser.bare_options["--retry-failures"] = ""
    add("--max-failure-rate", type=share, metavar="SHARE", help="exit with 4 if a larger share of files failed")


def add_work_arguments(parser: Parser) -> None:
    """What decides how files are read and scored, and what that costs: `audit` and `estimate` share it."""
    add = parser.add_argument
    add("--detectors", metavar="NAMES", help="comma-separated names (default: all that are ready)")
    add("--weights", action="append", default=[], metavar="NAME=PATH", help="weights of a detector (or NAME.ROLE=PATH)")
    add("--weights-cache", metavar="DIR", help="folder or URL of weights (default: $DEEPHOTLINK_WEIGHTS)")
    add("--allow-unpinned", action="append", default=[], metavar="NAME", help="allow weights that are not on record")
    add("--accept-licence", action="append", default=[], metavar="NAME", help="accept a non-commercial licence")
    add("--calibration", metavar="FILE", help="calibration file (default: the built-in one)")
    add("--clips", type=positive, metavar="N", help="at most N clips from each file")
    add("--frames", type=positive, metavar="N", help="frames in each clip (default: what the detectors need)")
    add("--every", type=positive_seconds, default=10.0, metavar="SECONDS", help="one clip every SECONDS (default 10)")
    add("--short-side", type=positive, metavar="PX", help="shorter side of frames (default 360, or as detectors need)")
    add("--no-pictures", action="store_true", help="keep no pictures of suspicious files (table evidence_frames)")
    add("--limit", type=positive, metavar="N", help="audit a sample of N files, the same every time")
    add("--identity", choices=("version", "content"), default="version", help="how files are recognised")
    add("--sandbox", choices=("auto", "require", "off"), default="auto", help="confinement of the decoder processes")
    add("--wave-size", type=positive, metavar="UNITS", help="units between commits (default 2; with --runner see docs)")
    add("--unit-size", type=positive, default=16, metavar="N", help="at most N files in a unit (default 16)")
    add("--workers", type=positive, metavar="N", help="processes that score (default: one a core, as memory allows)")
    add("--decoders", type=positive, metavar="N", help="decoder processes (default: cores less one, 1-8)")
    add("--ahead-mib", type=positive, default=256, metavar="MIB", help="decoded clips that may wait (default 256)")
    add(
        "--max-spool",
        type=size,
        metavar="SIZE",
        help="copies of remote files (default: half of what is free in TMPDIR)",
    )
    add("--device", default="auto", help="auto, cpu or cuda:N (default auto)")
    add("--quiet", action="store_true", help="print only errors")
    add("--json", action="store_true", dest="as_json", help="print only one JSON object at the end")
    add_limit_arguments(parser)


def audit_config(args: argparse.Namespace, beam_args: Sequence[str]) -> AuditConfig:
    """The parsed command as a frozen config.

    Raises:
        UsageError: a detector, calibration or option is unknown, or the device does not exist.
    """
    check_beam_args(beam_args)
    try:
        names = split_names(args.detectors) if args.detectors is not None else None
        calibration = load_calibration(args.calibration)
        if args.device != "auto" and not runner_named(beam_args):
            best_device(args.device)
    except (CalibrationError, ValueError) as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        raise UsageError(f"cannot read the calibration file {args.calibration!r}: {error.strerror}") from error
    limits = limits_of(args)
    if args.iceberg is not None:
        from .outputs.schema.iceberg import check_catalog

        # Now, because an audit may take days.
        check_catalog(args.output, args.iceberg or None, args.iceberg_namespace)
    chosen = choose(names, args.weights, args.weights_cache, args.accept_licence, args.allow_unpinned)
    return AuditConfig(
        sources=tuple(args.sources),
        output=args.output,
        detectors=chosen.specs,
        weights=chosen.weights,
        licences_accepted=chosen.licences_accepted,
        warnings=chosen.warnings,
        reading=Reading(
            sampling=Sampling(args.every, args.clips, args.frames, args.short_side),
            limits=limits.reading,
            max_bytes=limits.archives.max_bytes,
            max_spool_bytes=args.max_spool,
            sandbox=args.sandbox,
            decoders=args.decoders,
            ahead_bytes=args.ahead_mib * MiB,
            device=args.device,
            pictures=not args.no_pictures,
        ),
        calibration=calibration,
        archives=limits.archives,
        identity=args.identity,
        limit=args.limit,
        wave_size=args.wave_size,
        unit_size=args.unit_size,
        workers=args.workers,
        retry_failures=args.retry_failures,
        max_failure_rate=args.max_failure_rate,
        iceberg=args.iceberg,
        iceberg_namespace=args.iceberg_namespace,
        quiet=args.quiet or args.as_json,
        as_json=args.as_json,
        beam_args=tuple(beam_args),
    )


def runner_named(beam_args: Sequence[str]) -> bool:
    return any(arg.split("=")[0] == "--runner" for arg in beam_args)


def check_beam_args(beam_args: Sequence[str]) -> None:
    """Refuses an option that neither deephotlink nor Beam knows: Beam itself would silently ignore it.

    Raises:
        UsageError: an option is unknown; the message names it.
    """
    from apache_beam.options.pipeline_options import PipelineOptions

    parser = Parser(add_help=False, allow_abbrev=False)
    for options in {PipelineOptions, *_subclasses(PipelineOptions)}:
        if (add := vars(options).get("_add_argparse_args")) is not None:
            # Two of Beam's option classes may share a flag.
            with contextlib.suppress(argparse.ArgumentError):
                add.__get__(None, options)(parser)
    _, unknown = parser.parse_known_args(list(beam_args))
    if unknown:
        raise UsageError(f"unknown option {unknown[0]!r}, in deephotlink and in Beam; see `deephotlink audit -h`")


def _subclasses(kind: type) -> set[type]:
    children: list[type] = kind.__subclasses__()
    return {found for child in children for found in {child, *_subclasses(child)}}
