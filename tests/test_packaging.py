"""The wheel holds all packages and the files they read, nothing else, and works when installed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import deephotlink
from deephotlink.models.embedded.files import MAX_BYTES, MAX_FILE_BYTES
from deephotlink.models.extras import PACKAGES

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("pipelines", "transforms", "models")
MADE = "made-for-the-test"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree, in a folder with another name, because building writes into the tree."""
    copy = tmp_path_factory.mktemp("packaging") / "any name"
    copy.mkdir()
    ours = {
        *ROOMS,
        "tests",
        "__init__.py",
        "_version.py",
        "py.typed",
        "setup.py",
        "pyproject.toml",
        "README.md",
        "LICENSE",
    }
    left_out = shutil.ignore_patterns("__pycache__")
    for name in sorted(ours):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=left_out)
        else:
            shutil.copy(ROOT / name, copy / name)
    for suffix in (".safetensors", ".json", ".md"):
        (copy / "models/embedded" / f"{MADE}{suffix}").write_text("{}")
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Built offline, with the setuptools of the environment."""
    pytest.importorskip("setuptools", minversion="77", reason="building needs setuptools: pip install -e '.[dev]'")
    work = tmp_path_factory.mktemp("wheel")
    options = [
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--disable-pip-version-check",
        "--wheel-dir",
        str(work),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *options, str(source)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [built] = work.glob("deephotlink-*.whl")
    return zipfile.ZipFile(built)


def package_files(wheel: zipfile.ZipFile) -> set[str]:
    return {name.removeprefix("deephotlink/") for name in wheel.namelist() if name.startswith("deephotlink/")}


def test_the_wheel_holds_every_module_and_data_file(source: Path, wheel: zipfile.ZipFile) -> None:
    expected = {"__init__.py", "_version.py", "py.typed"}
    for room in ROOMS:
        expected |= {str(path.relative_to(source)) for path in (source / room).rglob("*.py")}
    expected |= {
        str(path.relative_to(source))
        for path in (source / "models/embedded").iterdir()
        if path.suffix not in ("", ".py")
    }
    page = source / "pipelines/outputs/report"
    expected |= {str(path.relative_to(source)) for path in page.rglob("*") if path.is_file() and path.suffix != ".py"}
    assert package_files(wheel) == expected


def test_embedded_weights_come_with_the_wheel_and_are_small(source: Path, wheel: zipfile.ZipFile) -> None:
    # In the copy of the tree lies a file of weights, whether or not the repository has any yet.
    weights = {info.filename: info.file_size for info in wheel.infolist() if info.filename.endswith(".safetensors")}
    assert f"deephotlink/models/embedded/{MADE}.safetensors" in weights
    for name in weights:
        for suffix in (".json", ".md"):
            assert name.replace(".safetensors", suffix) in wheel.namelist(), f"{name} without {suffix}"
    assert max(weights.values()) <= MAX_FILE_BYTES and sum(weights.values()) <= MAX_BYTES


def test_nothing_else_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    others = {name for name in wheel.namelist() if not name.startswith("deephotlink/")}
    assert all(name.startswith(f"deephotlink-{deephotlink.__version__}.dist-info/") for name in others), others
    assert any(name.endswith("/LICENSE") for name in others)
    [entry_points] = [wheel.read(name).decode() for name in others if name.endswith("entry_points.txt")]
    assert "deephotlink = deephotlink.pipelines.cli:main" in entry_points


def test_the_wheel_can_be_imported_from_where_it_lies(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path)
    code = (
        "import deephotlink, deephotlink.models.base, deephotlink.transforms.records;"
        "import deephotlink.pipelines.samples.synthetic_media;"
        "print(deephotlink.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
    )
    assert Path(done.stdout.strip()) == tmp_path / "deephotlink" / "__init__.py"


def requirements(wheel: zipfile.ZipFile) -> dict[str, set[str]]:
    """Names of required packages by extra; `""` holds those that everybody gets."""
    [metadata] = [wheel.read(name).decode() for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    found: dict[str, set[str]] = {}
    for line in re.findall(r"^Requires-Dist: (.*)$", metadata, re.M):
        extra = re.search(r"extra == ['\"](\w+)['\"]", line)
        found.setdefault(extra[1] if extra else "", set()).add(project(line))
    return found


def project(line: str) -> str:
    """The name in a requirement, in the form in which PyPI compares names."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^A-Za-z0-9._-]", line)[0]).lower()


def test_constraints_pin_every_requirement_once(wheel: zipfile.ZipFile) -> None:
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line[:1] not in ("", "#")]
    names = [project(line) for line in pins]
    assert len(set(names)) == len(names) and all("==" in line for line in pins)
    missing = set[str]().union(*requirements(wheel).values()) - set(names)
    assert not missing, f"constraints.txt lacks {sorted(missing)}"


def test_what_only_some_need_is_an_extra(wheel: zipfile.ZipFile) -> None:
    """Extras are as `models/extras.py` reports them, and the tests require all of them."""
    wanted = requirements(wheel)
    for extra, packages in PACKAGES.items():
        assert set(packages.values()) <= wanted[extra], extra
        assert not wanted[""] & set(packages.values()), extra
    everything = set[str]().union(*(names for extra, names in wanted.items() if extra not in ("", "dev", "chaos")))
    assert everything <= wanted["dev"]
    mission = {"apache-beam", "pyarrow", "decord2", "torch", "ffmpeg-python", "fsspec", "av"}
    assert mission <= wanted[""]


@pytest.mark.parametrize(
    ("there", "chosen"),
    [(("3.11", "3.12", "3.13"), "3.13"), (("3.11", "3.12"), "3.12"), (("3.11",), "3.11"), (("3.14",), "")],
    ids=str,
)
def test_make_takes_the_newest_python_that_is_there(there: tuple[str, ...], chosen: str, tmp_path: Path) -> None:
    """Uses fake Pythons that only report their version, on an otherwise empty PATH."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("sh", "pwd", "cksum", "cut", "mkdir", "touch", "make"):
        (tools / tool).symlink_to(shutil.which(tool))  # type: ignore[arg-type]
    for version in there:
        (tools / f"python{version}").write_text(f'#!/bin/sh\n[ "$1" = -m ] && echo {version} > made\nexit 0\n')
        (tools / f"python{version}").chmod(0o755)
    # One that is there and cannot make an environment, as Debian's without python3-venv.
    broken = tools / f"python3.{13 if len(there) < 3 else 10}"
    if not broken.exists():
        broken.write_text("#!/bin/sh\nexit 1\n")
        broken.chmod(0o755)
    stamp = re.search(r"^(\.venv/made-)", (ROOT / "Makefile").read_text(), re.M)
    assert stamp
    here = subprocess.run("pwd -P | cksum | cut -d' ' -f1", shell=True, capture_output=True, text=True, cwd=tmp_path)
    (tmp_path / ".venv").mkdir()
    done = subprocess.run(
        [tools / "make", f"{stamp[1]}{here.stdout.strip()}"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PATH": str(tools)},
    )
    if chosen:
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "made").read_text().strip() == chosen
    else:
        assert done.returncode == 2 and "expected python3.13, python3.12 or python3.11" in done.stderr
