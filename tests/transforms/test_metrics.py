"""Counters of several processes add up in the reader."""

import subprocess
import sys

import pytest

from deephotlink.transforms import metrics


def test_processes_add_up(tmp_path, monkeypatch):
    monkeypatch.setenv(metrics.FOLDER_VARIABLE, str(tmp_path))
    metrics.inc_counter("frames_kept", 5)
    code = "from deephotlink.transforms.metrics import inc_counter; inc_counter('frames_kept', 7)"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert metrics.read_counters(tmp_path)["frames_kept"] == 12


def test_a_typo_counts_into_nothing_loudly():
    with pytest.raises(ValueError, match="not in tuple"):
        metrics.inc_counter("frames_kpet")
