"""A headless Chromium for the tests of the report: Debian's own, driven by Playwright, which downloads none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
MUST = "FAIL_WITHOUT_CHROMIUM"
"""Where this is set, as by .ci/run, a missing browser is a failure."""


def missing() -> str | None:
    """Why no browser can be started here; None where one can."""
    if not any(map(shutil.which, NAMES)):
        return f"no chromium on this machine: apt-get install chromium (set {MUST} to fail instead)"
    try:
        import playwright  # noqa: F401
    except ModuleNotFoundError:
        return f"playwright is not installed: pip install -e '.[dev]' (set {MUST} to fail instead)"
    return None


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser. Skips the test where there is none."""
    if (why := missing()) is not None:
        pytest.fail(why) if os.environ.get(MUST) else pytest.skip(why)
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, NAMES)))
    with sync_playwright() as driver:
        # Without its own sandbox, which needs another user than root: the page is one of ours.
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()
