"""What operators do in the UI that opens by default, and where both UIs offer it, in the classic one as well."""

import re
import time
from pathlib import Path

import psutil
import pytest

from tests.browser.ui import UI, SecondUI
from tests.flows.conftest import outcome
from tests.product.conftest import Served

NAME = re.compile(r"early-bootstrap smoke seed 0, \d{4}-\d\d-\d\d \d\d:\d\d:\d\d")


@pytest.fixture(scope="module")
def quick(browser, served: Served) -> str:
    """A run of `smoke` that one click started, finished."""
    page = browser.new_page()
    page.set_default_timeout(60_000)
    run = SecondUI(page, served).quick_run("early-bootstrap/smoke")
    page.close()
    served.wait(run, {"COMPLETED"}, seconds=600)
    return run


def test_a_quick_run_and_where_its_result_is(second: SecondUI, served: Served, quick: str):
    """One click; then name, state, log, artifacts and tag say what and where it is."""
    workspace = served.home / "runs" / f"smoke-{quick[-8:]}"
    second.open_run(quick)
    second.see(NAME)
    second.see(f"Workspace: {workspace}")
    second.tab("Details")
    second.see(re.compile(r"Held-out 0\.\d{3} ± 0\.\d{3} after 24 steps"))
    tagged = served.ask("flow_runs/filter", {"flow_runs": {"tags": {"all_": [f"workspace:{workspace}"]}}})
    assert [run["id"] for run in tagged] == [quick]
    artifacts = served.artifacts(quick)
    assert all(f"`{workspace}`" in artifacts[key] for key in ("smoke-plan", "smoke-report"))
    second.open_artifact("runs")
    second.see("held-out pass rate")
    second.see(workspace.name)


def trains(served: Served, run: str, workspace: Path, marks: int) -> None:
    """Wait until a run trains and has committed some snapshots."""
    deadline = time.monotonic() + 600
    while not served.of_runs(run) or len(list(workspace.glob("segments/*/mark-*.json"))) < marks:
        assert time.monotonic() < deadline, (served.ask(f"flow_runs/{run}")["state"], served.logs(run))
        time.sleep(0.1)


def is_free(served: Served, run: str, workspace: Path) -> int:
    """Wait until nothing of a run is left; its committed snapshots."""
    _, alive = psutil.wait_procs(served.of_runs(run), timeout=60)
    assert not alive, [process.cmdline() for process in alive]
    return len(list(workspace.glob("segments/*/mark-*.json")))


def test_paused_from_outside_and_resumed(second: SecondUI, ui: UI, served: Served, tmp_path: Path):
    """One run at a time, paused in either UI: the stage ends, the next run starts, and both end as one another."""
    groups = {"training": {"steps": 400, "snapshot_every": 4}, "evaluation": {"every": 400}}
    config = served.preset("grpo/grpo", **groups)
    folders = [tmp_path / "first", tmp_path / "second"]
    first, other = (served.run("grpo/grpo", config=config, workspace=str(folder)) for folder in folders)
    second.open_run(first)
    trains(served, first, folders[0], marks=2)
    assert not served.of_runs(other)
    second.menu("Pause", "Pause Flow Run")
    assert served.wait(first, {"PAUSED"})["state"]["name"] == "Suspended"
    assert is_free(served, first, folders[0]) < 100
    assert "data:image/png" in served.artifacts(first)["demo-live-train-main-to-400"]
    trains(served, other, folders[1], marks=2)
    assert not served.of_runs(first)

    ui.open_run(other)
    ui.confirmed("Suspend", "Submit")
    served.wait(other, {"PAUSED"})
    assert is_free(served, other, folders[1]) < 100

    before = len(list(folders[0].glob("segments/*/mark-*.json")))
    second.open_run(first)
    second.menu("Resume", "Resume")
    trains(served, first, folders[0], marks=before + 1)
    ui.open_run(other)
    ui.confirmed("Resume", "Submit")
    served.wait(other, {"SCHEDULED"})
    assert not served.of_runs(other)
    for run in (first, other):
        served.wait(run, {"COMPLETED"}, seconds=900)
    assert outcome(folders[0]) == outcome(folders[1])


def test_a_quick_run_in_the_classic_ui(ui: UI, served: Served):
    """The click starts the run; it is cancelled at once."""
    ui.open_deployment("early-bootstrap/smoke")
    ui.click("Run")
    with ui.page.expect_response("**/create_flow_run") as answer:
        ui.page.get_by_text("Quick run").click()
    assert answer.value.status == 201
    run = answer.value.json()["id"]
    served.ask(f"flow_runs/{run}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})
    served.wait(run, {"CANCELLED"})


def test_the_form_begins_with_what_decides_most(second: SecondUI, served: Served):
    """Dotted titles in the order in which people fill it in; what the schema knows to be wrong starts no run."""
    second.open_form("early-bootstrap/smoke")
    titles = second.titles()
    first = ["workspace", "baseline", "config", "name", "seed", "training.steps", "bootstrap.scout_steps"]
    assert [title for title in titles if title in first] == first
    assert titles.index("evaluation.every") < titles.index("advanced") < titles.index("execution.retries")
    second.type("training.steps", 0)
    second.click("Submit")
    said = second.page.locator("input:invalid").evaluate("field => field.validationMessage")
    assert "greater than or equal to 1" in said
    assert "/run" in second.page.url


def test_contradictions_are_named_at_once(second: SecondUI, served: Served):
    """One sentence each, in the state and in the log, and no traceback."""
    second.open_form("early-bootstrap/smoke")
    second.type("training.steps", 26)
    second.type("bootstrap.scout_steps", 13)
    with second.page.expect_response("**/create_flow_run") as answer:
        second.click("Submit")
    run = answer.value.json()["id"]
    message = served.wait(run, {"FAILED"}, seconds=600)["state"]["message"]
    for named in ("training.steps = 26 is no multiple", "bootstrap.scout_steps = 13 is no multiple"):
        assert named in message
    assert not any("Traceback" in line for line in served.logs(run))
    second.open_run(run)
    second.see("training.steps = 26 is no multiple")


def test_no_plateau_is_said(second: SecondUI, served: Served, quick: str):
    """A run on another's workspace has its tag, and says why it changed nothing."""
    workspace = str(served.home / "runs" / f"smoke-{quick[-8:]}")
    run = served.run("plateau-breakthrough/plateau-breakthrough", workspace=workspace)
    done = served.wait(run, {"COMPLETED"}, seconds=600)
    assert f"workspace:{workspace}" in done["tags"]
    second.open_run(run)
    second.tab("Details")
    second.see("No plateau, so nothing is rolled back: a warm-up (trigger.warm_up) of 60 updates is longer than the")


def test_runs_side_by_side(second: SecondUI, served: Served, quick: str):
    workspace = str(served.home / "runs" / f"smoke-{quick[-8:]}")
    run = served.run("compare/compare", workspaces=[workspace, workspace])
    done = served.wait(run, {"COMPLETED"}, seconds=600)
    assert done["state"]["message"].startswith("Held-out: ")
    second.open_artifact("compare")
    second.see("2 runs side by side")
    picture = second.page.locator("img[alt='held-out curves']").first
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 300


def test_pages_ask_no_other_host(second: SecondUI, served: Served, quick: str):
    """By the browser's own log of requests: analytics are off, not only unsent."""
    asked: list[str] = []
    second.page.on("request", lambda request: asked.append(request.url))
    for path in ("dashboard", "deployments", f"runs/flow-run/{quick}"):
        with second.page.expect_response("**/api/**"):
            second.open(path)
        second.page.wait_for_load_state("networkidle")
    assert len(asked) > 20
    assert [url for url in asked if not url.startswith((served.url, "blob:", "data:"))] == []
