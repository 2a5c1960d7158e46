"""A real Chromium for tests of pages: the machine's, or the one that the Makefile unpacks."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from playwright.async_api import Page, async_playwright

_UNPACKED = Path(sys.prefix) / "chromium" / "usr"
_QUIET = (  # what would call home
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--no-first-run", "--disable-gpu"),
)


def _found() -> tuple[str, dict[str, str]] | None:
    """Where it is, and the environment it needs."""
    unpacked = _UNPACKED / "lib" / "chromium" / "chromium"
    if unpacked.is_file():
        libraries = next((_UNPACKED / "lib").glob("*-linux-gnu"))
        return str(unpacked), {"LD_LIBRARY_PATH": f"{libraries}:{libraries}/pulseaudio"}
    installed = shutil.which("chromium") or shutil.which("google-chrome")
    return (installed, {}) if installed else None


@asynccontextmanager
async def page() -> AsyncIterator[Page]:
    """An empty page; the test is skipped where there is no browser."""
    found = _found()
    if found is None:
        pytest.skip("no Chromium: see .venv/.chromium in the Makefile")
    path, environment = found
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=path,
            args=[*_QUIET, *(["--no-sandbox"] if os.geteuid() == 0 else [])],
            env={**os.environ, **environment},
        )
        try:
            yield await browser.new_page(viewport={"width": 1100, "height": 1400})
        finally:
            await browser.close()
