"""Which units are handed out next."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable

from ...transforms.publish import BLOCK_UNITS
from ...transforms.tables.unit_sizes import UnitSizes


class UnitQueue:
    """The units of a run that are left, in waves of whole units.

    One worker gets them in their order. Several get the largest of a block first, and less at a time towards the end,
    so that all are done at about the same time; the blocks keep their order, for each is published when it is whole.
    """

    def __init__(self, units: Collection[int], sizes: UnitSizes, wave_size: int, workers: int):
        self._wave_size, self._workers = wave_size, workers
        order = sorted(units)
        if workers > 1:
            order.sort(key=lambda unit: (unit // BLOCK_UNITS, -int(sizes.size_bytes[unit]), unit))
        self._waiting = deque(order)

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self) -> list[int]:
        """The units of the next wave; none where none are left."""
        most = self._wave_size
        if self._workers > 1:
            most = max(1, min(most, len(self._waiting) // (8 * self._workers)))
        return [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]

    def put_back(self, units: Iterable[int]) -> None:
        """Units that were taken and are not committed come first again."""
        self._waiting.extendleft(reversed(list(units)))


class OpenBlocks:
    """Which blocks of the public tables wait for units of this command."""

    def __init__(self, units: Iterable[int]):
        self._left: dict[int, set[int]] = {}
        for unit in units:
            self._left.setdefault(unit // BLOCK_UNITS, set()).add(unit)

    def done(self, units: Iterable[int]) -> bool:
        """Takes note that these units are committed; whether that completes a block."""
        complete = False
        for unit in units:
            left = self._left[unit // BLOCK_UNITS]
            left.discard(unit)
            complete |= not left
        return complete
