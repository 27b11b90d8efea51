"""Working ahead inside a bundle: later elements are begun while earlier ones are still being consumed downstream.

Beam hands a DoFn one element at a time; a decoder that only started then would leave the detectors waiting, and they
would leave it waiting in turn (1.4-1.5 times slower, measured). So work is started when an element arrives and given
out in order, by a later `process` or by `finish_bundle`: nothing is held from one bundle to the next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from typing import Any, Generic, TypeVar

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

Started = TypeVar("Started")
Given = TypeVar("Given")


class InOrder(Generic[Started, Given]):
    """A window of work in flight, given out strictly in the order in which it was begun.

    `give(work, wait)` yields what is there of one piece of work and returns whether that was all of it; with
    `wait=False` it must not block. Only its own word counts: work may well end between two looks at it.
    """

    def __init__(self, most: int, give: Callable[[Started, bool], Generator[Given, None, bool]]):
        self.most = most
        self.give = give
        self.pending: deque[Started] = deque()

    def begin(self, work: Started) -> Iterator[Given]:
        """Adds work, then yields whatever can be had; blocks only while more than `most` pieces are in flight."""
        self.pending.append(work)
        while self.pending:
            full = len(self.pending) > self.most
            ended = yield from self.give(self.pending[0], full)
            if not ended:
                break
            self.pending.popleft()

    def finish(self) -> Iterator[Given]:
        """Yields all that is left, waiting for it."""
        while self.pending:
            yield from self.give(self.pending[0], True)
            self.pending.popleft()

    def finish_bundle(self) -> Iterator[Any]:
        """`finish`, in the form in which Beam wants what a DoFn's `finish_bundle` gives out."""
        for value in self.finish():
            if isinstance(value, beam.pvalue.TaggedOutput):
                yield beam.pvalue.TaggedOutput(value.tag, _global(value.value))
            else:
                yield _global(value)


def _global(value: Any) -> WindowedValue:
    return WindowedValue(value, GlobalWindow().max_timestamp(), (GlobalWindow(),))
