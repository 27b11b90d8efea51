"""How near networks and listings come to what the machine and the store allow: `python -m tests.bench.bench_limits`.

A network's limit is its arithmetic: floating-point operations, counted by torch while it answers once, over what one
core does of them in a product of two large matrices. A listing's limit is the store: the same pages or folders, fetched
by the plainest client and thrown away.
"""

from __future__ import annotations

import http.client
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch
from urllib.parse import urlsplit

import torch
from torch.utils.flop_counter import FlopCounterMode

from deephotlink.models import registry
from deephotlink.transforms.listing import list_sources
from tests.bench.bench_detectors import item_of, weights_of
from tests.bench.bench_planning import make_bucket, make_flat
from tests.bench.measure import Row, print_rows

ENOUGH_SECONDS = 2.0
SIDE = 1024
FILES, KEYS = 20_000, 100_000


def operations_a_second() -> float:
    """Of one core, in float32: the best of some products."""
    one, other = torch.rand(SIDE, SIDE), torch.rand(SIDE, SIDE)
    best, until = 0.0, time.monotonic() + ENOUGH_SECONDS
    while time.monotonic() < until:
        begun = time.process_time()
        torch.mm(one, other)
        best = max(best, 2 * SIDE**3 / (time.process_time() - begun))
    return best


def network(name: str, folder: Path) -> tuple[float, float, float]:
    """(CPU-seconds an item, floating-point operations an item, operations a second of this core), on one thread."""
    torch.set_num_threads(1)
    spec = registry.specs([name])[0]
    item, (weights, _) = item_of(spec, folder), weights_of(spec, folder)
    detector = registry.make(spec, weights)
    detector.load("cpu")
    detector.score([item])
    counter = FlopCounterMode(display=False)
    with counter, patch.object(torch, "inference_mode", torch.no_grad):
        detector.score([item])
    begun, count = time.process_time(), 0
    while (spent := time.process_time() - begun) < ENOUGH_SECONDS:
        detector.score([item])
        count += 1
    return spent / count, float(counter.get_total_flops()), operations_a_second()


def networks(folder: Path) -> Iterator[Row]:
    context = multiprocessing.get_context("spawn")
    for spec in registry.specs(None):
        if spec.origin != "embedded" or not spec.weights:
            continue
        with context.Pool(1) as pool:
            seconds, operations, speed = pool.apply(network, (spec.name, folder))
        limit = operations / speed
        yield Row(
            f"{spec.name}: CPU-ms for one {spec.unit}",
            f"{1000 * seconds:.1f}",
            f"{1000 * limit:.1f}",
            f"{limit / seconds:.2f}",
            how=f"{operations / 1e9:.2f} GFLOP at {speed / 1e9:.0f} GFLOP/s (a product of float32 matrices, one core)",
        )


def _seconds(work: object) -> float:
    assert callable(work)
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def listing(folder: Path) -> Iterator[Row]:
    place = make_flat(folder, FILES)

    def plain() -> None:
        for entry in os.scandir(place):
            entry.stat()
            with open(entry.path, "rb") as file:
                file.read(4096)

    limit = min(_seconds(plain) for _ in range(3))
    ours = min(_seconds(lambda: sum(1 for _ in list_sources([place]))) for _ in range(3))
    yield _listed("a local folder", FILES, ours, limit, "scandir, stat and the first 4 KiB of each file, thrown away")

    source = make_bucket(folder, KEYS)
    endpoint = urlsplit(os.environ["AWS_ENDPOINT_URL"])

    def pages() -> None:
        client, token = http.client.HTTPConnection(endpoint.netloc), 0
        while True:
            client.request("GET", f"/films/?list-type=2&continuation-token={token}")
            body = client.getresponse().read()
            if b"<IsTruncated>true" not in body:
                return
            token += 1000

    limit = min(_seconds(pages) for _ in range(3))
    ours = min(_seconds(lambda: sum(1 for _ in list_sources([source]))) for _ in range(3))
    yield _listed("a bucket (S3)", KEYS, ours, limit, "the same pages of 1,000 keys by http.client, thrown away")


def _listed(what: str, count: int, ours: float, limit: float, how: str) -> Row:
    rates = f"{count / ours:,.0f}", f"{count / limit:,.0f}"
    return Row(f"listing {what}: files a second", *rates, f"{limit / ours:.2f}", how=how)


def bench(folder: Path) -> list[Row]:
    folder.mkdir(exist_ok=True)
    return [*networks(folder), *listing(folder)]


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="deephotlink-bench-") as name:
        print_rows(bench(Path(name) / "limits"))


if __name__ == "__main__":
    main()
