"""Which units are handed out next."""

from __future__ import annotations

import numpy as np

from deephotlink.pipelines.workers.queue import OpenBlocks, UnitQueue
from deephotlink.transforms.tables.unit_sizes import UnitSizes

SIZES = UnitSizes(np.ones(200, int), np.arange(200) % 7, np.ones(200))


def waves(queue: UnitQueue) -> list[list[int]]:
    found = []
    while units := queue.take():
        found.append(units)
    return found


def test_one_process_takes_them_as_they_come():
    assert waves(UnitQueue([5, 1, 3, 4, 2], SIZES, 2, 1)) == [[1, 2], [3, 4], [5]]


def test_several_get_the_largest_first_and_less_towards_the_end():
    found = waves(UnitQueue(range(200), SIZES, 4, 2))
    units = [unit for wave in found for unit in wave]
    assert sorted(units) == list(range(200))
    # Blocks of 64 units are published as they are complete, so they keep their order.
    assert [unit // 64 for unit in units] == sorted(unit // 64 for unit in units)
    for block in range(4):
        inside = [int(SIZES.size_bytes[unit]) for unit in units if unit // 64 == block]
        assert inside == sorted(inside, reverse=True)
    lengths = [len(wave) for wave in found]
    assert lengths == sorted(lengths, reverse=True) and lengths[0] == 4 and lengths[-16:] == [1] * 16


def test_what_is_put_back_comes_first():
    queue = UnitQueue(range(6), SIZES, 2, 1)
    taken = queue.take()
    queue.put_back(taken)
    assert len(queue) == 6 and queue.take() == taken == [0, 1]


def test_a_block_is_complete_when_its_last_unit_is():
    blocks = OpenBlocks([62, 63, 64, 65])
    assert [blocks.done(units) for units in ([63], [64], [62], [65])] == [False, False, True, True]
    assert OpenBlocks([63, 64]).done([63, 64])
