"""The same small job, written for each peer as its own documents say: `python -m tests.bench.peer_jobs PEER IN OUT`.

For each film: one clip of 16 frames for every ten seconds, decoded and scaled as deephotlink does it, one embedded
network over each clip, one Parquet row a film. Decoding, sampling and network are the same functions in all of them,
called in the worker's own process without a sandbox; only what brings work to the cores differs. Scripts are naive
about broken files where the documents' examples are.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

NETWORK = "synthetic"
SCHEMA = pa.schema([("uri", pa.string()), ("clips", pa.int64()), ("logit", pa.float64()), ("error", pa.string())])


class Scorer:
    """The network of one process; made once for each."""

    def __init__(self) -> None:
        import torch

        from deephotlink.models import registry
        from deephotlink.pipelines.weights.detector_choice import choose

        torch.set_num_threads(1)
        chosen = choose([NETWORK])
        self.spec = chosen.specs[0]
        self.detector = registry.make(self.spec, chosen.weights[NETWORK])
        self.detector.load("cpu")
        if folder := os.environ.get("PEER_PIDS"):  # whom to kill
            (Path(folder) / str(os.getpid())).touch()

    def score(self, path: str) -> dict[str, Any]:
        from deephotlink.models.base import ClipItem
        from deephotlink.pipelines.audit import clip_geometry
        from deephotlink.transforms.clips import Sampling, plan_decoding
        from deephotlink.transforms.decode import decode_request
        from deephotlink.transforms.media import probe_file
        from deephotlink.transforms.media.decoders import decode_file
        from deephotlink.transforms.media.protocol import DecodedClip, Limits
        from deephotlink.transforms.probe import probe_from_facts
        from tests.builders import make_media_file

        limits = Limits()
        facts = probe_file.probe(path, limits)
        probe = probe_from_facts(make_media_file(path, size_bytes=os.path.getsize(path)), path, facts, None)
        plan = plan_decoding(probe, Sampling(), lambda p: clip_geometry(p, [self.spec]), False, lambda p: ())
        clips = [i for i in decode_file.decode_items(decode_request(plan), limits) if isinstance(i, DecodedClip)]
        items = [ClipItem(clip.frames, clip.pts_seconds, None, 0.0) for clip in clips]
        logits = [answer.logit for item in items for answer in self.detector.score([item]) if answer.logit is not None]
        return {"uri": path, "clips": len(clips), "logit": max(logits, default=None), "error": None}


_scorer: list[Scorer] = []


def scorer() -> Scorer:
    """This process's."""
    if not _scorer:
        _scorer.append(Scorer())
    return _scorer[0]


def cores() -> int:
    return len(os.sched_getaffinity(0))


def loop(paths: Sequence[str], out: str) -> None:
    """One process, one file after the other."""
    rows = [scorer().score(path) for path in paths]
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), f"{out}/rows.parquet")


def _caught(path: str) -> dict[str, Any]:
    try:
        return scorer().score(path)
    except Exception as error:
        return {"uri": path, "clips": 0, "logit": None, "error": f"{type(error).__name__}: {error}"}


def pool(paths: Sequence[str], out: str) -> None:
    """`concurrent.futures` as a good engineer writes it: the network is loaded once for each process, a fault of a file
    is a row, and rows are written as they come."""
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from multiprocessing import get_context

    with (
        ProcessPoolExecutor(cores(), mp_context=get_context("spawn"), initializer=scorer) as executor,
        pq.ParquetWriter(f"{out}/rows.parquet", SCHEMA) as writer,
    ):
        for future in as_completed([executor.submit(_caught, path) for path in paths]):
            writer.write_table(pa.Table.from_pylist([future.result()], SCHEMA))


class RayScorer(Scorer):
    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return self.score(row["item"])


def ray_data(paths: Sequence[str], out: str) -> None:
    """Ray Data, "Offline batch inference": a class, an actor for each core."""
    import ray

    ray.init(num_cpus=cores(), include_dashboard=False, log_to_driver=False)
    data = ray.data.from_items(list(paths), override_num_blocks=len(paths))
    strategy = ray.data.ActorPoolStrategy(size=cores())
    data.map(RayScorer, compute=strategy, num_cpus=1).write_parquet(out)


def daft(paths: Sequence[str], out: str) -> None:
    """Daft, "Stateful class UDFs": a class, a process for each core."""
    import daft as df

    kind = df.DataType.struct({field.name: df.DataType.from_arrow_type(field.type) for field in SCHEMA})

    @df.cls(max_concurrency=cores(), use_process=True)
    class DaftScorer:
        def __init__(self) -> None:
            self.scorer = Scorer()

        @df.method(return_dtype=kind)
        def score(self, path: str) -> dict[str, Any]:
            return self.scorer.score(path)

    frame = df.from_pydict({"path": list(paths)}).into_batches(1)
    frame.select(DaftScorer().score(df.col("path")).alias("row")).write_parquet(out)


def beam(paths: Sequence[str], out: str) -> None:
    """Apache Beam with naive transforms: a DoFn with a set-up, Beam's own processes and its own sink."""
    import apache_beam
    from apache_beam.options.pipeline_options import PipelineOptions

    class Score(apache_beam.DoFn):
        def setup(self) -> None:
            self.scorer = Scorer()

        def process(self, path: str) -> Any:
            yield self.scorer.score(path)

    options = PipelineOptions(direct_running_mode="multi_processing", direct_num_workers=cores(), runner="FnApiRunner")
    with apache_beam.Pipeline(options=options) as pipeline:
        _ = (
            pipeline
            | apache_beam.Create(list(paths))
            | apache_beam.Reshuffle()
            | apache_beam.ParDo(Score())
            | apache_beam.io.WriteToParquet(f"{out}/rows", SCHEMA, file_name_suffix=".parquet")
        )


PEERS: dict[str, Callable[[Sequence[str], str], None]] = {
    "loop": loop,
    "pool": pool,
    "ray": ray_data,
    "daft": daft,
    "beam": beam,
}


def main() -> None:
    name, source, out = sys.argv[1:]
    Path(out).mkdir(parents=True, exist_ok=True)
    PEERS[name](sorted(str(path) for path in Path(source).iterdir()), out)


if __name__ == "__main__":
    main()
