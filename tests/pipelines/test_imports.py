"""A command imports only what it computes with, and says what to do if a package is not installed.

Each runs in an interpreter of its own: this one has imported everything long ago.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from deephotlink.models.extras import PACKAGES, lacking
from deephotlink.models.weights.files import LocalFile
from deephotlink.pipelines import cli
from tests.builders import make_audio

HEAVY = ("torch", "apache_beam", "scipy", "sklearn", "transformers", "matplotlib")
RUN = """
import json, sys
for name in {absent!r}:
    sys.modules[name] = None
from deephotlink.pipelines.cli import main
code = main(sys.argv[1:])
print(json.dumps([code, sorted(name for name in {heavy!r} if sys.modules.get(name))]), file=sys.stderr)
"""


def run(*arguments: str | Path, absent: tuple[str, ...] = ()) -> tuple[int, list[str], str]:
    """Exit code of a command, which of HEAVY it imported, and what it printed, where `absent` are not installed."""
    code = RUN.format(absent=absent, heavy=HEAVY)
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=300, check=True
    )
    *said, last = done.stderr.strip().splitlines()
    assert "Traceback" not in done.stderr
    found, imported = json.loads(last)
    return found, imported, done.stdout + "\n".join(said)


@pytest.fixture(scope="module")
def output(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("audited")
    make_audio(folder / "archive" / "a.flac", seconds=1)
    arguments = ["audit", folder / "archive", "--output", folder / "out", "--detectors", "metadata", "--quiet"]
    assert cli.main([str(argument) for argument in arguments]) == cli.DONE
    return folder / "out"


@pytest.mark.parametrize(
    ("arguments", "prints"),
    [
        (("--help",), "quarantine"),
        (("--version",), "deephotlink "),
        (("audit", "--help"), "--max-pixels"),
        (("query", "OUT", "select count(*) as media from files"), "media"),
        (("query", "OUT", "select count(*) as media from files", "--json"), '"media"'),
        (("report", "OUT"), "report.html: 1 file"),
        (("explain", "OUT", "a.flac"), "What could not be judged"),
        (("check", "OUT"), "every planned file is in exactly one table"),
        (("detectors",), "lip_sync"),
        (("detectors", "ufd", "meso4_df"), "CLIP ViT-L/14"),
        (("detectors", "--json"), '"syncnet_v2"'),
        (("quarantine", "OUT"), "uri"),
        (("weights", "verify"), "facial"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_who_does_not_compute_imports_nothing_for_it(arguments, prints, output):
    code, imported, said = run(*(output if argument == "OUT" else argument for argument in arguments))
    assert code == cli.DONE and prints in said
    assert not imported


def test_each_command_has_its_arguments():
    """They are added when the command is asked for; `--help` names every command all the same."""
    parser = cli.build_parser()
    [commands] = [action for action in parser._actions if isinstance(action.choices, dict)]
    shown = parser.format_help()
    assert set(commands.choices) == set(cli._COMMANDS) and all(f"\n    {name}" in shown for name in commands.choices)
    for name, command in commands.choices.items():
        assert len(command.format_help().splitlines()) > 5, name
        assert command.format_help().count("-h, --help") == 1


def absence(capsys, monkeypatch, modules: tuple[str, ...], *arguments: str | Path) -> str:
    """The line that a command ends with where modules are not installed."""
    for name in modules:
        monkeypatch.setitem(sys.modules, name, None)
    assert cli.main([str(argument) for argument in arguments]) == cli.USAGE
    said = capsys.readouterr().err.strip()
    assert len(said.splitlines()) == 1
    return said


def test_evaluate_and_calibrate_name_their_extra(output, tmp_path, capsys, monkeypatch):
    labels = tmp_path / "labels.csv"
    labels.write_text("uri,label\na.flac,real\n")
    plots = ("evaluate", output, "--labels", labels, "--plots", tmp_path / "plots")
    said = absence(capsys, monkeypatch, ("matplotlib",), *plots)
    assert said == "deephotlink: plots need matplotlib: pip install 'deephotlink[evaluate]'"
    assert not (tmp_path / "plots").exists()
    said = absence(capsys, monkeypatch, ("sklearn",), *plots)
    assert said == "deephotlink: `evaluate` needs scikit-learn: pip install 'deephotlink[evaluate]'"
    said = absence(capsys, monkeypatch, (), "calibrate", output, "--real-only", "--output", tmp_path / "c.json")
    assert said == "deephotlink: `calibrate` needs scikit-learn: pip install 'deephotlink[evaluate]'"


@pytest.mark.parametrize(
    ("model", "module", "says"),
    [
        ("hf:FOLDER", "transformers", "transformers: pip install 'deephotlink[hf]'"),
        ("onnx:FOLDER/a.onnx", "onnxruntime", "onnxruntime: pip install 'deephotlink[onnx]'"),
        ("ufd", "transformers", "ufd needs transformers: pip install 'deephotlink[hf]'"),
        ("meso4_df", "h5py", "meso4_df needs h5py: pip install 'deephotlink[hdf5]'"),
    ],
)
def test_a_detector_names_its_extra(model, module, says, output, tmp_path):
    named = model.replace("FOLDER", str(tmp_path))
    archive = output.parent / "archive"
    code, _, said = run("audit", archive, "--output", tmp_path / "out", "--detectors", named, absent=(module,))
    assert code == cli.USAGE and says in said and len(said.strip().splitlines()) == 1


def test_pulling_from_the_hub_names_its_extra(tmp_path, capsys, monkeypatch):
    command = ("weights", "pull", "hf:owner/model", "--weights-cache", tmp_path)
    said = absence(capsys, monkeypatch, ("huggingface_hub",), *command)
    assert said.endswith("pulling hf:owner/model needs huggingface-hub: pip install 'deephotlink[hf]'")


def test_forging_names_its_extra(tmp_path, capsys, monkeypatch):
    make_audio(tmp_path / "a.flac", seconds=1)
    said = absence(capsys, monkeypatch, ("pyworld",), "forge", tmp_path, "--output", tmp_path / "forged")
    assert said == "deephotlink: forging needs pyworld: pip install 'deephotlink[train]'"


def test_without_its_package_a_detector_is_no_part_of_the_default(monkeypatch, tmp_path):
    """Its weights are at hand, and the others are run all the same; `detectors` says what it lacks."""
    from deephotlink.models import registry
    from deephotlink.pipelines.weights.catalogue import catalogue
    from deephotlink.pipelines.weights.detector_choice import choose

    spec = registry.installed()["meso4_df"]
    (file,) = spec.weights
    cached = tmp_path / "meso4_df" / file.file_name
    cached.parent.mkdir()
    cached.write_bytes(bytes(file.size_bytes))
    held = LocalFile(str(cached), file.sha256, size_bytes=file.size_bytes)
    monkeypatch.setattr("deephotlink.pipelines.weights.detector_choice.at_hand", lambda *_: held)
    [row] = catalogue(["meso4_df"], str(tmp_path))
    assert row["status"] == "ready" and "meso4_df" in {s.name for s in choose(None, cache=str(tmp_path)).specs}
    monkeypatch.setitem(sys.modules, "h5py", None)
    [row] = catalogue(["meso4_df"], str(tmp_path))
    assert row["status"] == "not ready: pip install 'deephotlink[hdf5]'"
    chosen = {s.name for s in choose(None, cache=str(tmp_path)).specs}
    assert "facial" in chosen and "meso4_df" not in chosen


def test_the_sample_archive_names_its_extra(tmp_path):
    code = "import sys; sys.modules['matplotlib'] = None; import runpy; sys.argv = ['archive', sys.argv[1]]; "
    code += "runpy.run_module('deephotlink.pipelines.samples.archive', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], capture_output=True, text=True)
    assert done.returncode == cli.USAGE
    assert "matplotlib: pip install 'deephotlink[samples]'" in done.stderr and "Traceback" not in done.stderr


def test_a_default_audit_needs_no_extra(tmp_path, output):
    """Every module of every extra is absent; our own detectors of sound, and all that reads the tables, run."""
    # Without pandas: pyarrow takes the None that stands for it here for the module itself.
    absent = tuple(sorted({module for modules in PACKAGES.values() for module in modules} - {"pandas"}))
    out = tmp_path / "out"
    code, _, said = run("audit", output.parent / "archive", "--output", out, "--quiet", absent=absent)
    assert code == cli.DONE, said
    code, _, said = run("query", out, "select distinct detector from evidence order by 1", absent=absent)
    assert code == cli.DONE and "audio" in said
    assert run("check", out, absent=absent)[0] == cli.DONE
    assert run("detectors", absent=absent)[0] == cli.DONE


def test_what_is_installed_is_not_lacking():
    assert all(lacking("this needs", extra) is None for extra in PACKAGES)
    assert lacking("this needs", "of another package") is None
