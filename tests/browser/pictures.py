"""The pictures of the documentation, made anew: `make pictures`.

    python -m tests.browser.pictures [--folder /tmp/npo] [--into docs/pictures]

It starts `make serve` in a new folder, whose name is seen in the pictures, lets AutoNPO run the demo there, and
photographs each page that docs/prefect.md, docs/tracking.md and docs/commands.md show. Needs chromium and trackio.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

from tests.browser.conftest import ARGUMENTS
from tests.browser.ui import SecondUI
from tests.product.conftest import ROOT, start, stop

LARGEST = 150_000  # bytes of a picture
SETTLE = 8000  # milliseconds until a page has drawn what it shows; a time line takes its time
BRANCH = "train main to 200"


@dataclass
class Camera:
    """A window whose pictures become small PNG files."""

    page: Page
    into: Path

    def take(self, name: str, height: int) -> None:
        """Save what a window of this height shows, in 256 colours.

        Raises:
            SystemExit: it is larger than `LARGEST`.
        """
        self.page.set_viewport_size({"width": 1400, "height": height})
        self.page.wait_for_timeout(SETTLE)
        shown = Image.open(BytesIO(self.page.screenshot())).convert("RGB")
        file = self.into / f"{name}.png"
        shown.quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)
        print(f"{file}: {file.stat().st_size:,} bytes", flush=True)
        if file.stat().st_size > LARGEST:
            sys.exit(f"Error: {file} is larger than {LARGEST:,} bytes: show less, or choose fewer colours.")


def main() -> None:
    """Make all pictures, or say what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/npo"), help="new folder of the server and its runs")
    parser.add_argument("--into", type=Path, default=ROOT / "docs/pictures", help="where the pictures go")
    asked = parser.parse_args()
    if (chromium := shutil.which("chromium")) is None:
        sys.exit("Error: chromium is not installed: apt-get install chromium")
    if asked.folder.exists():
        sys.exit(f"Error: --folder {asked.folder} exists: remove it, or name a new one.")
    os.environ["TRACKIO_DIR"] = str(asked.folder / "trackio")
    asked.folder.mkdir(parents=True)
    served = start(asked.folder, database=None)
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
            page = browser.new_page(color_scheme="dark")
            page.set_default_timeout(120_000)
            expect.set_options(timeout=120_000)
            photograph(Camera(page, asked.into), SecondUI(page, served))
            browser.close()
    finally:
        stop(served)


def photograph(camera: Camera, ui: SecondUI) -> None:
    """The pages, in the order in which a run comes to them."""
    served = ui.served
    config = served.preset("auto-npo/auto-npo", training={"log_completions": 2}, auto={"approval": "ask"})
    run = served.run("auto-npo/auto-npo", config=config | {"method": "auto-npo", "tracking": {"to": ["trackio"]}})
    deployments(camera, ui)
    served.wait_for_task(run, BRANCH, seconds=1800)
    ui.leave()
    running(camera, ui, run)
    served.wait(run, {"PAUSED"}, seconds=1800)
    approval(camera, ui, run)
    served.wait(run, {"COMPLETED"}, seconds=1800)
    result(camera, ui, run)
    workspace = served.home / "runs" / f"demo-{run[-8:]}"
    samples(camera, workspace)
    tracking(camera)


def deployments(camera: Camera, ui: SecondUI) -> None:
    ui.open("deployments?limit=25")
    ui.see("plateau-breakthrough")
    camera.take("ui-deployments", 1010)
    ui.open_form("early-bootstrap/smoke")
    ui.see("training.steps")
    camera.take("ui-form", 1000)
    ui.open_deployment("breakthrough-sweep/breakthrough-sweep")
    ui.click("Schedule")
    ui.see("Parameter Overrides")
    camera.take("ui-schedule", 800)


def running(camera: Camera, ui: SecondUI, run: str) -> None:
    """While the demo trains, a second run waits for it."""
    waits = ui.served.run("early-bootstrap/smoke")
    ui.page.wait_for_timeout(30_000)
    ui.open_run(run)
    ui.see("Workspace: ")
    camera.take("ui-running", 900)
    ui.open_run(waits)
    ui.tab("Details")
    ui.see("It waits for")
    camera.take("ui-late", 560)
    ui.open_artifact(f"demo-live-{BRANCH.replace(' ', '-')}")
    ui.width(BRANCH)
    camera.take("ui-live", 860)
    ui.leave()


def approval(camera: Camera, ui: SecondUI, run: str) -> None:
    """The question, and its answer by the same clicks."""
    ui.open_run(run)
    ui.page.locator("button[aria-haspopup=menu]").first.click()
    ui.page.get_by_role("menuitem", name="Resume", exact=True).click()
    ui.see("roll back by Delta")
    camera.take("ui-approval", 900)
    ui.page.get_by_role("dialog").get_by_role("button", name="Resume", exact=True).click()
    ui.see("Flow run resumed")
    ui.leave()


def result(camera: Camera, ui: SecondUI, run: str) -> None:
    ui.open_run(run)
    ui.see("Workspace: ")
    camera.take("ui-auto-npo", 760)
    ui.tab("Details")
    ui.see("Held-out")
    camera.take("ui-result", 1100)
    for name, key, height in (("decision", "demo-decision-0001", 1180), ("report", "demo-report", 1160)):
        ui.open_artifact(key)
        ui.page.locator("img[src^='data:']").first.wait_for()
        camera.take(f"ui-{name}", height)
    ui.open_artifact("runs")
    ui.see("held-out pass rate")
    camera.take("ui-runs", 760)


def samples(camera: Camera, workspace: Path) -> None:
    """Groups that took guidance, on the page that `npo samples --html` writes."""
    file = workspace.parent / "samples.html"
    command = [sys.executable, "-m", "npo_core", "samples", str(workspace), "--injected", "--html", str(file)]
    subprocess.run(command, cwd=ROOT, check=True)
    camera.page.emulate_media(color_scheme="light")
    camera.page.goto(file.as_uri())
    camera.take("samples-page", 800)


def tracking(camera: Camera) -> None:
    with dashboard() as address:
        camera.page.goto(address)
        camera.page.get_by_text("pass_rate").first.wait_for()
        camera.take("tracking-trackio", 860)


@contextmanager
def dashboard() -> Iterator[str]:
    """The address of `trackio show`."""
    command = [sys.executable, "-m", "trackio.cli", "show", "--project", "npo"]
    environment = {**os.environ, "BROWSER": "true", "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        told = iter(process.stdout.readline, "") if process.stdout else iter([])
        yield next(found[0] for line in told if (found := re.search(r"http://127\.0\.0\.1:\d+/\?project=\w+", line)))
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    main()
