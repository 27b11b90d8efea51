"""Weights on the machines of a cluster: put into a run's output once, and found again by every worker that loads them.

Workers never contact a hub. A process on the launching machine reads the files where they are. Elsewhere they come from
`OUT/_weights/<sha256>`, once a machine, or from the worker's own package if it has the same file.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ...models.embedded.files import FOLDER, own_copy
from ...models.weights.files import LocalFile, Weights
from ..failures import WorldError
from ..storage.downloads import OBJECTS, fetch
from ..storage.output_store import OutputStore

STAGED = "_weights"
"""Folder of an output for files of weights, each named by its sha256."""


def stage_weights(store: OutputStore, weights: Mapping[str, Weights]) -> dict[str, Weights]:
    """Puts each file into the output once, named by its checksum. Returns the same weights with their new addresses.

    Raises:
        WeightsError: a file was changed since it was chosen.
        UsageError, WorldError: the output cannot be written to.
    """

    def staged(file: LocalFile) -> LocalFile:
        name = f"{STAGED}/{file.sha256}"
        if not store.exists(name):
            store.put_new(name, file.read())
        return replace(file, address=store.path(name))

    return {
        detector: Weights({role: staged(file) for role, file in held.files.items()})
        for detector, held in weights.items()
    }


def localise(weights: Weights) -> Weights:
    """The same files under paths that exist on this machine. Called on the worker, before a detector is made.

    Raises:
        UsageError: a file is neither here nor where it was staged.
        WorldError: storage failed.
    """
    return Weights({role: _localised(file) for role, file in weights.files.items()})


def _localised(file: LocalFile) -> LocalFile:
    if (own := own_copy(file.sha256)) is not None:
        return replace(file, path=str(own))
    # Reading it checks its content. The size rules out another machine's file of the same name.
    with contextlib.suppress(OSError):
        # Another version of the package may have weights of the same size in the same place.
        here = Path(file.path).parent != FOLDER and file.size_bytes and os.stat(file.path).st_size == file.size_bytes
        if not file.address or here:
            return file
    root = _own_folder()
    there = root / OBJECTS / file.sha256
    with contextlib.suppress(OSError):
        if file.size_bytes and there.stat().st_size == file.size_bytes:
            return replace(file, path=str(there))
    return replace(file, path=fetch(file.address, root, sha256=file.sha256, size_bytes=file.size_bytes).path)


def _own_folder() -> Path:
    """A folder of this user on this machine, shared by all workers."""
    folder = Path(tempfile.gettempdir()) / f"deephotlink-weights-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise WorldError(f"cannot use {folder} for weights: other users may write to it; remove it or set TMPDIR")
    return folder
