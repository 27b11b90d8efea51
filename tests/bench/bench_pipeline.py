"""The pipeline compared with a bare loop over the same children and models: CPU per clip, and the parent's memory."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from deephotlink.models import registry
from deephotlink.pipelines.audit import clip_geometry, pool_of
from deephotlink.pipelines.cli import build_parser
from deephotlink.pipelines.jobs import audit_archive
from deephotlink.pipelines.options import AuditConfig, audit_config
from deephotlink.transforms.clips import plan_decoding
from deephotlink.transforms.decode import DecodeTally, decode_request
from deephotlink.transforms.detect import judge, questions
from deephotlink.transforms.faces import shared_detector, track_faces
from deephotlink.transforms.media.protocol import ProbeRequest
from deephotlink.transforms.probe import probe_from_facts
from deephotlink.transforms.records import Clip
from deephotlink.transforms.sound_windows import plan_windows
from tests.bench.measure import FFMPEG, cost_of, cost_of_command, deephotlink, median
from tests.builders import make_face_video, make_media_file

AHEAD = 4


def config_of(*arguments: str) -> AuditConfig:
    args, rest = build_parser().parse_known_args(["audit", *arguments, "--quiet"])
    return audit_config(args, rest)


def bare_loop(paths: list[Path], config: AuditConfig) -> int:
    """Does what the pipeline does, without Beam, tables or commits; children decode ahead here too. Returns the
    answers."""
    pool, faces = pool_of(config.reading), shared_detector(config.reading.device)
    detectors = [registry.make(spec) for spec in config.detectors]
    for detector in detectors:
        detector.load(config.reading.device)
    answers = 0
    begun: list = []

    def consume() -> int:
        probe, plan, stream = begun.pop(0)
        said = 0
        for d in detectors:
            if d.spec.unit == "media":
                said += len(judge(d, [q.item for q in questions(probe, d.spec)]))
        tally = DecodeTally(plan)
        for item in stream:
            record = tally.add(item)
            if isinstance(record, Clip):
                tracked, _ = track_faces(record, faces)
                for d in detectors:
                    if d.spec.unit in ("clip", "face_track"):
                        said += sum(len(judge(d, [q.item])) for q in questions(tracked, d.spec))
        return said

    for path in paths:
        reply = pool.probe(ProbeRequest(str(path), path.suffix, True)).result()
        probe = probe_from_facts(make_media_file(path), str(path), reply["facts"], reply["credentials"])
        plan = plan_decoding(
            probe,
            config.reading.sampling,
            lambda p: clip_geometry(p, config.detectors),
            True,
            lambda p: plan_windows(p, config.detectors),
        )
        begun.append((probe, plan, pool.decode(decode_request(plan))))
        if len(begun) > AHEAD:
            answers += consume()
    while begun:
        answers += consume()
    return answers


def bench(folder: Path, quick: bool = False) -> list[tuple[str, str, str]]:
    rows = []
    clips = folder / "clips"
    one = make_face_video(folder / "one.mp4", 10, 25, (1280, 720), gop=50, options={"preset": "veryfast"})
    copies(one, clips, 16)
    paths = sorted(clips.iterdir())
    config = config_of(str(clips), "--output", str(folder / "warm"), "--wave-size", "8")
    audit_archive(config)  # loads the models, starts the children
    ratios = []
    for turn in range(3):
        config = config_of(str(clips), "--output", str(folder / f"timed-{turn}"), "--wave-size", "8")
        bare = cost_of(lambda config=config: bare_loop(paths, config)).wall_seconds
        piped = cost_of(lambda config=config: audit_archive(config)).wall_seconds
        ratios.append(bare / piped)
    rows.append(
        ("pipeline against a bare loop, 16 clips of 10 s, 720p (throughput)", f"{median(ratios):.2f}", ">= 0.9")
    )

    few = copies(one, folder / "few", 2)
    many = copies(one, folder / "many", 12)
    spent = {}
    for name, source in (("few", few), ("many", many)):
        command = deephotlink("audit", source, "--output", folder / f"cpu-{name}", "--quiet")
        spent[name] = cost_of_command(command, one_core=True).cpu_seconds
    rows.append(
        (
            "default audit: CPU-seconds a ten-second 720p clip, one core",
            f"{(spent['many'] - spent['few']) / 10:.2f}",
            "<= 4",
        )
    )
    rows.append(
        ("default audit: CPU-seconds to start and end", f"{spent['few'] - (spent['many'] - spent['few']) / 5:.1f}", "-")
    )
    if not quick:
        rows += memory(folder)
    return rows


def copies(one: Path, into: Path, count: int) -> Path:
    into.mkdir()
    for number in range(count):
        shutil.copy(one, into / f"{number:03d}.mp4")
    return into


def memory(folder: Path) -> list[tuple[str, str, str]]:
    """The parent's own peak (VmHWM) on one long film, and on the same amount in many files."""
    part = make_face_video(folder / "part.mp4", 18, 25, (640, 360), gop=50, options={"preset": "veryfast"})
    film = folder / "film" / "film.mp4"
    film.parent.mkdir()
    subprocess.run(
        [FFMPEG, "-v", "error", "-nostdin", "-stream_loop", "99", "-i", str(part), "-c", "copy", str(film)], check=True
    )
    files = copies(part, folder / "files", 100)
    # Not ru_maxrss: that of a child begins with the peak of the process which started it.
    code = (
        "import re, sys; from pathlib import Path; from deephotlink.pipelines.cli import main; code = main();"
        "print('peak', re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1], file=sys.stderr);"
        "sys.exit(code)"
    )
    peaks = {}
    for name, source in (("film", film.parent), ("files", files)):
        out = str(folder / f"mem-{name}")
        command = [str(deephotlink()[0]), "-c", code, "audit", str(source), "--output", out, "--quiet"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks[name] = int(re.findall(r"peak (\d+)", done.stderr)[-1]) / 1024
    ratio = max(peaks.values()) / min(peaks.values())
    return [
        (
            "parent's peak memory, 30-minute film / 100 files of 18 s",
            f"{peaks['film']:.0f} / {peaks['files']:.0f} MiB = within {ratio - 1:.0%}",
            "<= 20 %",
        )
    ]
