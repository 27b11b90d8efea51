"""Checks an untrusted `.pth` before torch reads it. Takes bytes, returns bytes; runs and builds nothing.

`torch.load(weights_only=True)` runs no code from a file, and yet two hundred bytes keep it busy for ever. A dictionary
key of nested tuples is hashed leaf by leaf, 2^40 of them, or deeper than the C stack. `bytearray` takes any number, and
a zip expands a thousandfold. So every opcode is checked here: globals must be on a short list, and tuples stay small. A
zip is rewritten from the checked members, so that torch's reader cannot find others in it.
"""

from __future__ import annotations

import io
import pickletools
import re
import tarfile
import zipfile
from typing import Any

ALLOWED_GLOBALS = re.compile(
    r"""(?x)
    collections[ ](OrderedDict|defaultdict) | _codecs[ ]encode | (__builtin__|builtins)[ ]dict
    | torch._utils[ ]_rebuild_(tensor|tensor_v2|parameter) | torch.nn.parameter[ ]Parameter
    | torch(.storage|.cuda)?[ ]\w*Storage | torch[ ](device|b?float\d*|u?int\d+|double|half|long|bool)
    | numpy(._?core.multiarray)?[ ](dtype|scalar)
    """
)
"""Globals that tensors, their names and a training loop's plain values need; nothing else is allowed."""
MOST_LEAVES = 200
"""In one tuple, at any depth. A tensor's tuples hold its sizes."""
MOST_OPCODES = 2_000_000
MOST_MEMBERS = 200_000
LEGACY = 5
"""Pickles at the start of a file from torch before 1.6: a magic number, a protocol, the machine, the tensors, keys."""
_ZIP = b"PK\x03\x04"
_MARK = object()


class _Tuple(tuple[Any, ...]):
    leaves: int


class _Global(str):
    __slots__ = ()


def checked_pickle(data: bytes) -> bytes:
    """The same tensors, safe for `torch.load(weights_only=True)`.

    Raises:
        ValueError, or what the standard library raises: it is not such a file, or holds something that no tensors need.
    """
    if data[:4] == _ZIP:
        return _zip(data)
    if tarfile.is_tarfile(io.BytesIO(data)):
        raise ValueError("it is a tar archive, written by a torch before 0.1.10: save it again")
    stream = io.BytesIO(data)
    for _ in range(LEGACY):
        _look(stream)
    return data


def _zip(data: bytes) -> bytes:
    whole = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(whole, "w") as plain:
        infos = archive.infolist()
        if len(infos) > MOST_MEMBERS or sum(info.file_size for info in infos) > len(data):
            raise ValueError("its members are larger than the file, or too many")
        names = {info.filename for info in infos}
        if len(names) < len(infos) or any(info.compress_type != zipfile.ZIP_STORED for info in infos):
            raise ValueError("a member of it is compressed, or appears twice: torch stores each once, uncompressed")
        if any(name.endswith(("constants.pkl", ".py")) for name in names):
            raise ValueError("it is a TorchScript program, not a file of tensors: save its state_dict()")
        for info in infos:
            held = archive.read(info)
            if info.filename.endswith(".pkl"):
                _look(io.BytesIO(held))
            plain.writestr(zipfile.ZipInfo(info.filename), held)
    return whole.getvalue()


def _look(stream: io.BytesIO) -> None:
    """Walks through one pickle to its end, with placeholders instead of values: strings, tuples, or None."""
    stack: list[Any] = []
    memo: dict[Any, Any] = {}
    argument: Any
    for seen, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if seen > MOST_OPCODES:
            raise ValueError(f"it has more than {MOST_OPCODES} opcodes")
        match opcode.name:
            case "MARK":
                stack.append(_MARK)
            case "GLOBAL":
                if not ALLOWED_GLOBALS.fullmatch(argument):
                    raise ValueError(f"it asks for {argument.replace(' ', '.')[:200]}, which no tensors need")
                stack.append(_Global(argument))
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "BINUNICODE":
                stack.append(argument)
            case "EMPTY_TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3" | "TUPLE":
                stack.append(_tuple(_taken(stack, opcode)))
            case _:
                taken = _taken(stack, opcode)
                if opcode.name == "REDUCE" and taken[0] == "_codecs encode" and taken[1][1:] != ("latin1",):
                    raise ValueError("it asks for a text in an encoding that numpy does not use")
                stack += [None] * len(opcode.stack_after)


def _taken(stack: list[Any], opcode: pickletools.OpcodeInfo) -> list[Any]:
    """What an opcode pops from the stack, without the mark."""
    before = opcode.stack_before
    if pickletools.stackslice not in before:
        count = len(before)
        if len(stack) < count:
            raise ValueError(f"{opcode.name} on an empty stack")
        taken, stack[len(stack) - count :] = stack[len(stack) - count :], []
        return taken
    at = len(stack) - 1
    while stack[at] is not _MARK:  # an IndexError if there is none
        at -= 1
    below = before.index(pickletools.markobject)
    taken = stack[at - below : at] + stack[at + 1 :]
    del stack[at - below :]
    return taken


def _tuple(values: list[Any]) -> _Tuple:
    made = _Tuple(values)
    made.leaves = 1 + sum(value.leaves if isinstance(value, _Tuple) else 1 for value in values)
    if made.leaves > MOST_LEAVES:
        raise ValueError(f"a tuple in it has more than {MOST_LEAVES} parts")
    return made
