"""Debian's chromium, headless, on the pages of a `make serve` that runs in a copy of the checkout."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.browser.ui import UI, SecondUI
from tests.flows.conftest import TINY
from tests.product.conftest import ROOT, Served, start, stop

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# AutoNPO that warns as soon as it may, once a min_gain of 1 is typed into the form.
WATCHED = {
    "control": {
        "trigger": {"ema": 0.5, "window": 2, "min_gain": -1.0, "min_entropy_drop": -1.0, "warm_up": 8},
        "pool": {"max_pass_rate": 0.5},
    },
    "probe": {"prompts": 16, "samples": 2, "min_solved": 0.0, "min_prompts": 1},
    "choice": {"max_delta": 8},
    "cooldown": 16,
    "max_interventions": 1,
}


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Skipped where there is no chromium; CI sets NPO_NEED_PROGRAMS=1 and fails instead."""
    chromium = shutil.which("chromium")
    if chromium is None:
        how = "chromium is not installed: apt-get install chromium"
        pytest.fail(how) if os.environ.get("NPO_NEED_PROGRAMS") else pytest.skip(how)
    expect.set_options(timeout=120_000)  # it would be five seconds
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout, whose source may be edited, with a demo preset that takes seconds."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in ("flows", "tasks", "npo_core", "deployments"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "prefect.yaml", copy)
    (copy / "deployments/configs/demo.yaml").write_text(yaml.safe_dump(TINY | {"name": "demo", "auto": WATCHED}))
    return copy


@pytest.fixture(scope="session")
def served(
    browser: Browser, checkout: Path, prefect_database: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """`make serve` in that copy; only where there is a browser to look at it."""
    running = start(tmp_path_factory.mktemp("served"), prefect_database, checkout=checkout)
    yield running
    stop(running)


@pytest.fixture
def page(browser: Browser, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Page]:
    """A window of its own; what it shows at the end of a test is kept, for when the test failed."""
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(120_000)
    yield page
    page.screenshot(path=tmp_path / f"{request.node.name}.png")
    page.close()


@pytest.fixture
def ui(page: Page, served: Served) -> UI:
    return UI(page, served)


@pytest.fixture
def second(page: Page, served: Served) -> SecondUI:
    return SecondUI(page, served)
