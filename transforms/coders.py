"""Coders for the records that hold frames or sound: Beam may ask for their size, and must not pickle them to know it.

For its byte counters Beam encodes the first elements of each step: for an 80 MB clip that costs more than decoding it.
These coders know the size at once. They can still encode, in case a runner ever splits the stage in two.
"""

from __future__ import annotations

from typing import Any, ClassVar

from apache_beam import coders

from .records import AudioWindow, Clip


class BigRecordCoder(coders.Coder):
    """Takes the size from the arrays; encodes as Beam would without this coder."""

    _plain: ClassVar[coders.Coder] = coders.FastPrimitivesCoder()

    def encode(self, value: Any) -> bytes:
        return self._plain.encode(value)

    def decode(self, encoded: bytes) -> Any:
        return self._plain.decode(encoded)

    def estimate_size(self, value: Any) -> int:
        return record_bytes(value)

    def is_deterministic(self) -> bool:
        return False

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(type(self))


def record_bytes(record: Any) -> int:
    """Bytes of the arrays in a Clip or AudioWindow; `size_bytes` of any other record."""
    if isinstance(record, Clip):
        return record.frames.nbytes + (record.sound.nbytes if record.sound is not None else 0)
    if isinstance(record, AudioWindow):
        return record.samples.nbytes
    return int(record.size_bytes)


for _record in (Clip, AudioWindow):
    coders.registry.register_coder(_record, BigRecordCoder)
