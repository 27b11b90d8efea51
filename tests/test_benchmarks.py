"""The tests do not run the benchmarks and studies, but all of them must still import."""

from __future__ import annotations

import importlib
import pkgutil

from tests import bench


def test_all_can_be_imported():
    names = [module.name for module in pkgutil.walk_packages(bench.__path__, "tests.bench.")]
    assert len(names) > 20
    for name in names:
        importlib.import_module(name)
