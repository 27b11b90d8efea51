"""The package in docs/detectors.md, built from that page and installed beside deephotlink, audits a video."""

from __future__ import annotations

import json
import site
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pytest

from deephotlink.pipelines.samples.synthetic_media import encode, make_video

from .pages import ROOT, blocks_of


def files_of_page() -> dict[str, str]:
    """The files of the package as the page shows them."""
    return {block.name: block.text for block in blocks_of(ROOT / "docs" / "detectors.md") if block.name is not None}


def test_the_package_is_short():
    files = files_of_page()
    assert sorted(files) == ["deephotlink_frozen.py", "pyproject.toml"]
    assert sum(len(text.splitlines()) for text in files.values()) < 40


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh environment in which deephotlink and the package are installed; nothing is downloaded.

    deephotlink and its dependencies are found where this environment has them; only the package is in the new one.
    """
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder / "env", with_pip=False, symlinks=True)
    python = folder / "env" / "bin" / "python"
    mine = sysconfig.get_path("purelib", vars={"base": str(folder / "env"), "platbase": str(folder / "env")})
    theirs = list(dict.fromkeys([*site.getsitepackages(), sysconfig.get_path("purelib")]))
    # addsitedir, not a bare path: it follows the .pth files there, by which an editable install is found.
    lines = [f"import site; site.addsitedir({path!r})" for path in theirs if Path(path).is_dir()]
    (Path(mine) / "parent.pth").write_text("\n".join(lines) + "\n")
    source = folder / "deephotlink-frozen"
    source.mkdir()
    for name, text in files_of_page().items():
        (source / name).write_text(text, encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--disable-pip-version-check"]
    done = subprocess.run(
        [*pip, "--no-index", "--no-deps", "--no-build-isolation", str(source)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (Path(mine) / "deephotlink_frozen.py").is_file()
    return python


def deephotlink(python: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    code = "import sys; from deephotlink.pipelines.cli import main; sys.exit(main())"
    return subprocess.run(
        [str(python), "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=300, cwd=python.parent
    )


def held(seconds_held: float, fps: int = 15) -> Iterator[np.ndarray]:
    """A block that moves over a grey ramp, stands still for a while and moves on."""
    ramp = np.tile(np.linspace(40, 200, 192, dtype=np.uint8)[None, :, None], (144, 1, 3))
    place = 0
    for number in range(2 * fps):
        place += not 5 <= number < 5 + seconds_held * fps
        frame = ramp.copy()
        frame[40:100, 4 * place : 4 * place + 50] = 255
        yield frame


def test_it_is_listed_and_scores_a_video(environment, tmp_path):
    listed = deephotlink(environment, "detectors", "--json")
    assert listed.returncode == 0, listed.stderr
    row = {row["name"]: row for row in json.loads(listed.stdout)}["frozen_frames"]
    assert (row["origin"], row["status"], row["licence"]) == ("third party", "ready", "Apache-2.0")

    films = tmp_path / "films"
    films.mkdir()
    encode(films / "held.mp4", held(1.5), 2, 15, (192, 144), options={"crf": 18})
    encode(films / "moving.mp4", held(0), 2, 15, (192, 144), options={"crf": 18})
    make_video(films / "short.mp4", seconds=0.4, fps=10)
    done = deephotlink(
        environment, "audit", films, "--output", tmp_path / "out", "--detectors", "frozen_frames", "--quiet"
    )
    assert done.returncode == 0, done.stderr
    rows = ds.dataset(tmp_path / "out" / "evidence", partitioning="hive").to_table().to_pylist()
    said = {Path(row["uri"]).name: row for row in rows}
    assert len(rows) == 3 and {row["detector"] for row in rows} == {"frozen_frames"}
    assert said["held.mp4"]["logit"] > 0 > said["moving.mp4"]["logit"]
    assert said["short.mp4"]["logit"] is None and said["short.mp4"]["abstained"] == "too_short"


def test_this_environment_does_not_have_it(capsys):
    from deephotlink.pipelines import cli

    assert cli.main(["detectors", "--json"]) == 0
    assert "frozen_frames" not in capsys.readouterr().out
