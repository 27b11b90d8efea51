"""Plans: each file once, none that is done already, and units of bounded work."""

import hashlib
import random

import numpy as np
import pyarrow as pa
import pytest

from deephotlink.transforms.plan import UnitLimits, plan_media
from deephotlink.transforms.records import MediaFile
from deephotlink.transforms.storage.sources import Planned, skipped
from deephotlink.transforms.tables.id_sets import SortedIds
from deephotlink.transforms.tables.plan_table import Plan


def media_id(name: object) -> str:
    return hashlib.sha256(str(name).encode()).hexdigest()


def entry(name: str, size: int = 1000, **fields) -> Planned:
    return Planned(MediaFile(media_id(name), f"/archive/{name}", size, "v", **fields))


def units(entries: list[Planned]) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for file, _ in entries:
        found.setdefault(file.unit, []).append(file.uri.rpartition("/")[2])
    return found


NONE = SortedIds.from_batches([])


def test_sorted_ids() -> None:
    ids = [media_id(i) for i in range(1000)]
    done = SortedIds.from_batches(
        [ids[:300], pa.array(ids[200:400]), np.array(ids[400:500]), pa.array([], pa.string())]
    )
    assert len(done) == 500
    assert done.contains(ids).tolist() == [True] * 500 + [False] * 500
    assert ids[3] in done and ids[700] not in done and None not in done
    assert ids[0] not in NONE
    with pytest.raises(ValueError, match="64 hex digits"):
        SortedIds.from_batches([["abc"]])


def test_ids_that_agree_in_half_of_their_hash_are_told_apart() -> None:
    same = "ab" * 8
    ids = [same + f"{i:048x}"[::-1] for i in range(1, 6)]
    done = SortedIds.from_batches([ids[:3]])
    assert done.contains(ids).tolist() == [True] * 3 + [False] * 2


def test_duplicates_and_what_is_done_are_dropped_and_counted() -> None:
    listed = [entry("a"), entry("b"), entry("a"), entry("c"), entry("a")]
    plan = plan_media(listed, SortedIds.from_batches([[media_id("b")]]))
    assert [file.uri for file, _ in plan.entries] == ["/archive/a", "/archive/c"]
    assert (plan.duplicates, plan.already_done, plan.units) == (2, 1, 1)
    assert plan_media([], NONE).entries == []
    assert plan_media([], NONE).units == 0


def test_the_order_of_the_listing_does_not_matter() -> None:
    listed = [entry(f"{i:03}", size=i * 1000) for i in range(100)] + [
        skipped(entry(f"t{i}").file, "x") for i in range(9)
    ]
    listed += [Planned(entry("twin").file), Planned(MediaFile(media_id("twin"), "/archive/other", 5, "v"))]
    plan = plan_media(listed, NONE)
    random.Random(0).shuffle(listed)
    assert plan_media(listed, NONE) == plan
    assert plan.duplicates == 1
    assert len(plan.entries) == 110


def test_units_are_bounded() -> None:
    small = [entry(f"a{i:02}") for i in range(40)]
    assert [len(unit) for unit in units(plan_media(small, NONE).entries).values()] == [16, 16, 8]
    mixed = [entry("a", 30 << 20), entry("b", 30 << 20), entry("c", 30 << 20), entry("d", 900 << 20), entry("e", 5)]
    assert units(plan_media(mixed, NONE).entries) == {0: ["a", "b"], 1: ["c"], 2: ["d"], 3: ["e"]}
    known = [skipped(entry(f"{i:04}").file, "not_media") for i in range(2500)]
    plan = plan_media(known, NONE)
    assert plan.units == 3
    assert all(outcome is not None and outcome.file == file for file, outcome in plan.entries)


def test_units_for_several_workers_become_smaller_towards_the_end() -> None:
    """By what is left to be read: neither what is done, nor doubles, nor what the listing knows the end of counts."""

    def lengths(listed: list[Planned], done: SortedIds = NONE, limit: int | None = None, workers: int = 2) -> list[int]:
        plan = plan_media(listed, done, UnitLimits(workers=workers), limit)
        return [sum(outcome is None for _, outcome in unit) for unit in by_unit(plan).values()]

    few = [entry(f"a{i:02}") for i in range(64)]
    expected = [16, 12, 9, 7, 5, 4, 3, 2, 2, 1, 1, 1, 1]
    assert lengths(few) == expected
    others = [skipped(entry(f"b{i:03}").file, "x") for i in range(200)]
    before = [entry(f"c{i:03}") for i in range(300)]
    done = SortedIds.from_batches([[one.file.media_id for one in before]])
    assert [n for n in lengths([*few, *few, *others, *before], done) if n] == expected
    assert sum(lengths(before, limit=64)) == 64 and lengths(before, limit=64) == expected
    assert lengths(few, workers=16)[:8] == [2] * 8 and lengths(few, workers=1) == [16] * 4
    assert lengths(few[:1]) == [1] and lengths([]) == []


def by_unit(plan: Plan) -> dict[int, list[Planned]]:
    found: dict[int, list[Planned]] = {}
    for planned in plan.entries:
        found.setdefault(planned.file.unit, []).append(planned)
    return found


def test_units_count_from_zero_without_gaps() -> None:
    dice = random.Random(1)
    listed = [entry(str(i), dice.choice([0, 10, 1 << 20, 70 << 20])) for i in range(500)]
    plan = plan_media(listed, NONE, UnitLimits(max_media=5))
    numbers = [file.unit for file, _ in plan.entries]
    assert sorted(set(numbers)) == list(range(plan.units))
    assert numbers == sorted(numbers)


def test_members_stay_in_the_order_of_their_shard() -> None:
    names = ["z", "m", "a"]
    listed = [entry(n, shard="/s.tar", member=n, member_offset=512 * (i + 1)) for i, n in enumerate(names)]
    plan = plan_media([*reversed(listed), entry("x")], NONE)
    assert [file.uri[-1] for file, _ in plan.entries] == ["x", "z", "m", "a"]


def test_a_sample_is_the_same_each_time_and_grows() -> None:
    listed = [entry(str(i)) for i in range(100)]
    few = {file.media_id for file, _ in plan_media(listed, NONE, limit=10).entries}
    more = {file.media_id for file, _ in plan_media(reversed(listed), NONE, limit=20).entries}
    assert len(few) == 10
    assert few < more


def test_addresses_that_differ_only_in_what_no_table_holds() -> None:
    """`/get?id=1` and `/get?id=2` are one URI in the tables: two files there would be one, or `changed`."""

    def signed(name: str, query: str, version: str) -> Planned:
        file = MediaFile(
            media_id(name + version), f"https://h/{name}", 5, version, fetch_uri=f"https://h/{name}?{query}"
        )
        return Planned(file)

    listed = [signed("get", "id=1", "a"), signed("get", "id=2", "b"), entry("x")]
    listed += [signed("same.mp4", "sig=1", "a"), signed("same.mp4", "sig=2", "a"), signed("alone.mp4", "sig=1", "a")]
    listed += [signed("moved.mp4", "sig=1", "a"), signed("moved.mp4", "sig=1", "b")]
    plan = plan_media(listed, NONE)
    ends = [(file.uri, outcome.failure.error_class if outcome else None) for file, outcome in plan.entries]
    assert sorted(ends, key=str) == [
        ("/archive/x", None),
        ("https://h/alone.mp4", None),
        ("https://h/get", "unaddressable"),
        ("https://h/get", "unaddressable"),
        ("https://h/moved.mp4", None),
        ("https://h/moved.mp4", None),
        ("https://h/same.mp4", None),
    ]
    assert plan.duplicates == 1
    assert all(file.fetch_uri is None for file, _ in plan.entries)
