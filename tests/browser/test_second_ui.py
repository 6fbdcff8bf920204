"""What operators do in the UI that opens by default, and where both UIs offer it, in the classic one as well."""

import json
import re
import time
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import psutil
import pytest
from playwright.sync_api import expect

from tests.browser.ui import UI, SecondUI
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
    served.wait_for_log(quick, f"Workspace: {workspace}")
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
    expect(second.page.get_by_role("row").filter(has_text=workspace.name)).to_contain_text("finished")


def trains(served: Served, run: str, workspace: Path, more_than: int) -> None:
    """Wait until a run trains and has committed more snapshots than so many."""
    deadline = time.monotonic() + 600
    while len(marks(workspace)) <= more_than or not served.of_runs(run):
        assert time.monotonic() < deadline, (served.ask(f"flow_runs/{run}")["state"], served.logs(run))
        time.sleep(0.1)


def assert_gone(served: Served, run: str) -> None:
    """Nothing of a run is left."""
    _, alive = psutil.wait_procs(served.of_runs(run), timeout=60)
    assert not alive, [process.cmdline() for process in alive]


def marks(workspace: Path) -> dict[str, str]:
    """The snapshots that a run's marks name, by the mark."""
    found = sorted(workspace.glob("segments/*/mark-*.json"))
    return {path.name: json.loads(path.read_text())["snapshot"] for path in found}


def test_paused_from_outside_and_resumed(second: SecondUI, ui: UI, served: Served, tmp_path: Path):
    """One run at a time, paused in either UI: the stage ends, the next run starts, and both go on as one another."""
    groups = {"training": {"steps": 20_000, "snapshot_every": 4}, "evaluation": {"every": 20_000}}
    config = served.preset("grpo/grpo", **groups)
    folders = [tmp_path / "first", tmp_path / "second"]
    first, other = (served.run("grpo/grpo", config=config, workspace=str(folder)) for folder in folders)
    trains(served, first, folders[0], more_than=1)
    assert not served.of_runs(other)
    second.open_run(first)
    second.menu("Pause", "Pause Flow Run")
    assert served.wait(first, {"PAUSED"})["state"]["name"] == "Suspended"
    second.leave()
    assert_gone(served, first)
    second.open_artifact("demo-live-train-main-to-20000")
    assert second.width("train main to 20000") > 300
    second.leave()
    trains(served, other, folders[1], more_than=1)
    assert not served.of_runs(first)

    ui.open_run(other)
    ui.confirmed("Suspend", "Submit")
    served.wait(other, {"PAUSED"})
    ui.leave()
    assert_gone(served, other)

    before = [marks(folder) for folder in folders]
    second.open_run(first)
    second.menu("Resume", "Resume")
    ui.open_run(other)
    ui.confirmed("Resume", "Submit")
    ui.leave()
    for run, folder, had in ((first, folders[0], before[0]), (other, folders[1], before[1])):
        trains(served, run, folder, more_than=max(map(len, before)))
        assert [run] == [r for r in (first, other) if served.of_runs(r)]
        served.set_state(run, "CANCELLING", "Cancelling")
        served.wait(run, {"CANCELLED"})
        assert_gone(served, run)
        assert had.items() <= marks(folder).items()
    one, two = map(marks, folders)
    both = one.keys() & two.keys()
    assert len(both) > max(map(len, before)) and all(one[name] == two[name] for name in both)


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
    run = second.start()
    message = served.wait(run, {"FAILED"}, seconds=600)["state"]["message"]
    for named in ("training.steps = 26 is no multiple", "bootstrap.scout_steps = 13 is no multiple"):
        assert named in message
        served.wait_for_log(run, named)  # it arrives behind the state, and the page asks once
    assert not any("Traceback" in line for line in served.logs(run))
    second.open_run(run)
    second.see("training.steps = 26 is no multiple")


def test_an_announced_plateau_starts_a_run_that_says_why_it_changes_nothing(
    second: SecondUI, served: Served, quick: str
):
    """Its automation is on the list; the run has the tag of the workspace it works on."""
    workspace = str(served.home / "runs" / f"smoke-{quick[-8:]}")
    event = {"event": "npo.plateau.detected", "payload": {"workspace": workspace, "began": 12}}
    event |= {"resource": {"prefect.resource.id": f"npo.workspace.{workspace}"}, "id": str(uuid4())}
    served.ask("events", [event | {"occurred": datetime.now(UTC).isoformat()}])
    run = started(served, "plateau-breakthrough")
    second.open("automations")
    second.see("Plateau detected")
    second.leave()
    done = served.wait(run, {"COMPLETED"}, seconds=600)
    assert f"workspace:{workspace}" in done["tags"]
    second.open_run(run)
    second.tab("Details")
    second.see("No plateau, so nothing is rolled back: a warm-up (trigger.warm_up) of 60 updates is longer than the")


def started(served: Served, flow: str) -> str:
    """The first run of a flow that begins without a click."""
    deadline = time.monotonic() + 120
    while not (found := served.ask("flow_runs/filter", {"flows": {"name": {"any_": [flow]}}})):
        assert time.monotonic() < deadline, f"nothing started {flow}"
        time.sleep(0.5)
    return min(found, key=lambda run: run["expected_start_time"])["id"]


@pytest.mark.thorough
def test_a_schedule_that_was_made_by_clicks_fires(second: SecondUI, served: Served, quick: str):
    name = "breakthrough-sweep"
    deployment = served.ask(f"deployments/name/{name}/{name}")["id"]
    second.open_deployment(f"{name}/{name}")
    second.add_schedule(every=15, unit="Seconds")
    try:
        run = started(served, name)
        message = served.wait(run, {"COMPLETED"}, seconds=600)["state"]["message"]
    finally:
        second.leave()
        for schedule in served.ask(f"deployments/{deployment}/schedules"):
            if schedule["active"]:
                url = f"{served.url}/api/deployments/{deployment}/schedules/{schedule['id']}"
                urllib.request.urlopen(urllib.request.Request(url, method="DELETE"), timeout=60).close()
    assert "0 stand still and were not treated" in message
    second.open_run(run)
    second.tab("Details")
    second.see("0 stand still and were not treated")


@pytest.mark.thorough
def test_a_fork_from_the_form_beside_the_run_before(second: SecondUI, served: Served, quick: str):
    origin = str(served.home / "runs" / f"smoke-{quick[-8:]}")
    second.open_form("fork/fork")
    second.type("origin", origin)
    second.type("at", 20)
    second.type("changes", '{"training.learning_rate": 0.0001}')
    forked = second.start()
    done = served.wait(forked, {"COMPLETED"}, seconds=600)
    second.open_run(forked)
    second.see(re.compile(r"fork of smoke-\w+ at step 20, "))
    [place] = [tag.removeprefix("workspace:") for tag in done["tags"] if tag.startswith("workspace:")]

    run = served.run("compare/compare", workspaces=[origin, place])
    done = served.wait(run, {"COMPLETED"}, seconds=600)
    assert done["state"]["message"].startswith("Held-out: ")
    second.open_artifact("compare")
    second.see("2 runs side by side")
    second.see("training.learning_rate")
    assert second.width("held-out curves") > 300


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
