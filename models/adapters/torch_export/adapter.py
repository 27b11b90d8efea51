"""`torch:FILE.pt2`: runs a program exported by torch.export, with a small JSON file beside it (settings.py).

Only graphs of plain tensor operators and raw tensors are loaded (pt2_check.py): no pickles, machine code or custom
objects. To make such a file: `torch.export.save(torch.export.export(model.eval(), (rows,), dynamic_shapes=…),
"model.pt2")`. A program with a fixed batch size runs in passes of that size.
"""

from __future__ import annotations

import io
from pathlib import Path

import torch
from torch import Tensor

from ...base import Detector, DetectorSpec
from ...batches import dtype_of
from ...weights.files import Weights, WeightsError
from ..detector_spec import describe_settings, files_beside
from ..items import Rows, SettingsDetector, check_row_shape
from .pt2_check import Program, check_pt2

ARCHITECTURE = "torch.export program"


def files_of(reference: str, cache: Path) -> dict[str, str]:
    """The program (`weights`) and the JSON file beside it (`settings`): FILE.pt2.json or FILE.json.

    Raises:
        WeightsError: one of them is missing or too large. The message says what to do.
    """
    return files_beside(reference, "torch", (".pt2",), "torch.export.save")


def describe(name: str, weights: Weights) -> DetectorSpec:
    """The spec that the settings describe.

    Raises:
        WeightsError: the settings are not valid.
    """
    return describe_settings(name, weights, ARCHITECTURE)[0]


def make(spec: DetectorSpec, weights: Weights) -> Detector:
    return TorchExportDetector(spec, weights, describe_settings(spec.name, weights, ARCHITECTURE)[1])


class TorchExportDetector(SettingsDetector):
    """A program loaded from checked bytes."""

    def build_network(self) -> Rows:
        name = Path(self.weights.files["weights"].path).name
        program = check_pt2(self.weights.read("weights"), name)
        check_row_shape(program.input_shape, self.settings, name)
        if program.input_dtype != dtype_of(self.settings.precision):
            raise WeightsError(
                f"{name}: its settings say 'precision' {self.settings.precision!r}, "
                f"but the program takes {program.input_dtype}"
            )
        return ExportedRows(program, self.device, name)


class ExportedRows(Rows):
    """Runs rows in a checked program on a device. The program's first output is the answer."""

    def __init__(self, program: Program, device: torch.device, name: str) -> None:
        super().__init__(program.least_rows, program.most_rows, program.input_dtype)
        try:
            exported = torch.export.load(io.BytesIO(program.archive))
            if device.type != "cpu":
                from torch.export.passes import move_to_device_pass

                exported = move_to_device_pass(exported, device)
            # In a tuple, so that `.to()` does not cast weights that the graph needs unchanged.
            self.held = (exported.module(),)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            message = " ".join(f"{type(error).__name__}: {error}".split())
            raise WeightsError(
                f"expected a program for torch {torch.__version__} in {name}: export it again ({message[-300:]})"
            ) from error

    def run(self, batch: Tensor) -> Tensor:
        answers = self.held[0](batch)
        first = answers[0] if isinstance(answers, tuple) else answers
        if not isinstance(first, Tensor):
            raise RuntimeError(f"expected a tensor from the program, got {type(first).__name__}")
        return first
