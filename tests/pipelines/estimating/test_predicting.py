"""The sample and what is computed from it, on made-up archives whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from deephotlink.pipelines.estimating import predicting
from deephotlink.pipelines.estimating.amounts import Amount
from deephotlink.pipelines.estimating.measuring import Group, Sampled, groups_of
from deephotlink.pipelines.estimating.predicting import Fleet, makespan, predict, ranged, refined, total
from deephotlink.pipelines.estimating.strata import Files, Stratum, entries_at, files_of, stratify
from deephotlink.pipelines.workers.cost import Cost
from deephotlink.transforms.plan import UnitLimits, plan_media
from deephotlink.transforms.storage.sources import Planned, skipped
from deephotlink.transforms.tables.id_sets import SortedIds
from deephotlink.transforms.tables.unit_sizes import CLIP_BYTES, UnitSizes, clips_by_size, unit_sizes
from tests.builders import make_media_file

NOTHING = SortedIds.from_batches([])


def archive_of(sizes: np.ndarray, names: str = "{}.mp4") -> list[Planned]:
    return [
        Planned(make_media_file(f"/a/{names.format(f'{n:06d}')}", size_bytes=int(size))) for n, size in enumerate(sizes)
    ]


def long_tailed(count: int, seed: int = 0) -> np.ndarray:
    """Bytes of uploads: most are small, some are films of hours."""
    return (np.random.default_rng(seed).lognormal(15, 1.6, count)).astype(int) + 100_000


def sample_of(files: Files, plan, sample: int, cost) -> tuple[list[Stratum], list[Group]]:
    """The strata, and groups whose worker_seconds are the sum of `cost(size)` of their files."""
    strata, groups = stratify(files, sample, decoded=True), []
    for number, stratum in enumerate(strata):
        rows = files.rows[stratum.files[stratum.chosen]].tolist()
        entries = entries_at(plan, rows)
        for group in groups_of(
            number, [entries[row] for row in rows], stratum.guesses[stratum.chosen].tolist(), 16, True
        ):
            seconds = sum(cost(entry.file) for entry in group.files)
            clips = tuple(2 for _ in group.files)
            groups.append(Group(number, group.files, group.guess, Amount(worker_seconds=seconds), clips))
    return strata, groups


def test_every_file_is_in_one_stratum_and_the_sample_is_spread():
    entries = archive_of(long_tailed(3000)) + archive_of(long_tailed(300, 1), "{}.mp3")
    entries += [skipped(make_media_file("/a/notes.txt", size_bytes=10), "not_media")]
    with plan_media(entries, NOTHING) as plan:
        files = files_of(plan)
        strata = stratify(files, 48, decoded=True)
        again = stratify(files_of(plan), 48, decoded=True)
        found = entries_at(plan, files.rows[[0, 1500, 3299]].tolist())
    assert np.array_equal(np.sort(np.concatenate([s.files for s in strata])), np.arange(3300))
    assert {s.kind for s in strata} == {"film", "sound"}
    chosen = sum(len(s.chosen) for s in strata)
    assert 40 <= chosen <= 70 and all(len(s.chosen) >= min(2, len(s.files)) for s in strata)
    assert all(np.array_equal(a.chosen, b.chosen) for a, b in zip(strata, again, strict=True))
    films = [s for s in strata if s.kind == "film"]
    work = [float(s.guesses.sum()) for s in films]
    assert len(films) > 5 and max(work) < 4 * np.median(work)
    largest = max(films, key=lambda s: int(files.size_bytes[s.files].max()))
    assert len(largest.files) < len(films[0].files) / 10  # few long films, many short ones
    assert [found[row].file.size_bytes for row in sorted(found)] == files.size_bytes[[0, 1500, 3299]].tolist()


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_small_archive_is_audited_whole(count):
    with plan_media(archive_of(long_tailed(count)), NOTHING) as plan:
        files = files_of(plan)
        strata, groups = sample_of(files, plan, 48, lambda file: 3.0)
    assert sum(len(s.chosen) for s in strata) == count
    value, error, _ = total(strata, groups, "worker_seconds")
    assert value == pytest.approx(3.0 * count) and error == 0


def test_the_truth_lies_in_the_interval_about_as_often_as_it_says():
    """200 archives whose films differ three times in bitrate, and in cost by whatever else is in them."""
    inside, ratios = 0, []
    for seed in range(200):
        noise = np.random.default_rng(seed)
        entries = archive_of(long_tailed(2000, seed))
        costs = {
            e.file.media_id: max(1.0, e.file.size_bytes / CLIP_BYTES * noise.uniform(0.5, 1.5)) * noise.uniform(1, 3)
            for e in entries
        }
        with plan_media(entries, NOTHING) as plan:
            strata, groups = sample_of(files_of(plan), plan, 48, lambda file, costs=costs: costs[file.media_id])
        value, error, _ = total(strata, groups, "worker_seconds")
        found, truth = ranged(value, error), sum(costs.values())
        inside += found.low <= truth <= found.high
        ratios.append(value / truth)
    assert inside >= 0.9 * 200
    assert abs(np.mean(ratios) - 1) < 0.02 and np.quantile(np.abs(np.array(ratios) - 1), 0.9) < 0.2


def test_guesses_learn_how_many_bytes_a_clip_has():
    entries = archive_of(np.array([300_000, 600_000, 900_000, 1_200_000, 1_500_000, 9_000_000]))
    with plan_media(entries, NOTHING) as plan:
        files = files_of(plan)
        strata, groups = sample_of(files, plan, 48, lambda file: 1.0)
    clips = lambda group: tuple(e.file.size_bytes // 100_000 for e in group.files)  # noqa: E731
    groups = [Group(g.stratum, g.files, g.guess, g.amount, clips(g)) for g in groups]
    better, regrouped = refined(files, strata, groups)
    assert sum(float(s.guesses.sum()) for s in better) == pytest.approx(135)
    assert sum(g.guess for g in regrouped) == pytest.approx(135)
    few = [Group(g.stratum, g.files, g.guess, g.amount, tuple(1 for _ in g.files)) for g in groups]
    assert refined(files, strata, few)[1] == few


def test_the_longest_film_is_the_least_time():
    sizes = UnitSizes(np.ones(9, int), np.array([10] * 8 + [10_000]), np.ones(9))
    seconds = np.array([1.0] * 8 + [100.0])
    assert makespan(seconds, sizes, 2, 1, 0.5) == (pytest.approx(108 + 5 * 0.5), 5)
    assert makespan(seconds, sizes, 2, 4, 0.5) == (100.5, 9)
    assert makespan(seconds, sizes, 2, 64, 0.5)[0] == 100.5


def sampled(groups: list[Group]) -> Sampled:
    zero, wave = Cost(0.0, 0.0), Cost(0.5, 0.25)
    return Sampled(tuple(groups), 2, Cost(2.0, 2.0), zero, wave, zero, 1000, 5000, 0.5, "{}", 100.0, 0, 0)


def test_a_fleet_divides_the_time_and_not_the_work():
    with plan_media(archive_of(long_tailed(2000)), NOTHING, UnitLimits(workers=8)) as plan:
        files, sizes = files_of(plan), unit_sizes(plan)
        strata, groups = sample_of(files, plan, 48, lambda file: float(clips_by_size(np.array([file.size_bytes]))[0]))
    made = [
        predict(
            files,
            strata,
            sampled(groups),
            sizes,
            Fleet(machines, 2, 1, price_per_hour=2.0, price_per_gb=1.0),
            wave_size=2,
            begin_seconds=10.0,
            begin_cpu_seconds=10.0,
            plan_bytes=1234,
        )
        for machines in (1, 4)
    ]
    one, four = made
    assert 3 < (one.wall_seconds.value - 10) / (four.wall_seconds.value - 10) < 4.2
    assert one.machine_cost.value == pytest.approx(one.wall_seconds.value / 3600 * 2)
    assert four.machine_cost.value == pytest.approx(4 * four.wall_seconds.value / 3600 * 2)
    assert four.gpu_seconds.value == pytest.approx(4 * four.wall_seconds.value)
    assert four.cpu_seconds.value < 1.1 * one.cpu_seconds.value + 40
    assert one.wall_seconds.low < one.wall_seconds.value < one.wall_seconds.high
    assert one.table_bytes.value >= 1234 + 1000 * sizes.media.size
    assert one.transfer_cost.value == 0  # nothing came from a store


def test_noise_of_the_machine_is_in_every_interval():
    """Also where all files were audited, nobody knows the next run to the second."""
    with plan_media(archive_of(long_tailed(4)), NOTHING) as plan:
        files, sizes = files_of(plan), unit_sizes(plan)
        strata, groups = sample_of(files, plan, 48, lambda file: 5.0)
    options = {"wave_size": 2, "begin_seconds": 0.0, "begin_cpu_seconds": 0.0, "plan_bytes": 0}
    found = predict(files, strata, sampled(groups), sizes, Fleet(), **options).wall_seconds
    assert found.high - found.low == pytest.approx(2 * 1.96 * predicting.SPREAD * found.value)
