"""The commands about decisions, on a real tiny run: `npo decide`, `signals`, `approve`, and `run` of both."""

import json
import shutil
import sys
import types
from pathlib import Path

import pytest
from typer.testing import CliRunner

from npo_core.cli.app import app
from npo_core.control.records import Decisions
from npo_core.stages.workspace import Workspace
from tests.flows.conftest import TINY

runner = CliRunner()
WIDE = {"COLUMNS": "200"}


def call(*arguments: object, code: int = 0) -> str:
    result = runner.invoke(app, [*map(str, arguments)], env=WIDE)
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.output


@pytest.fixture
def copy(auto, tmp_path) -> Path:
    return shutil.copytree(auto.uri, tmp_path / "copy")


def second(auto) -> object:
    return Decisions(auto.store).get(2)


def test_decide_shows_both_and_that_they_are_the_same(auto):
    made = second(auto)
    text = call("decide", auto.uri, "--at", made.step)
    for said in (made.reason, "chosen", "trigger.min_gain", "replay-2 against replay-1", "the same"):
        assert said in text
    data = json.loads(call("decide", auto.uri, "--at", made.step, "--json"))
    assert data["same"] and data["recorded"] == data["recomputed"] and data["outcome"]["number"] == 2


def test_decide_with_other_thresholds_says_what_would_have_been(auto):
    made = second(auto)
    text = call("decide", auto.uri, "--at", made.step, "--set", "auto.probe.min_solved=1.0")
    assert "With auto.probe.min_solved=1.0: do not intervene" in text and "Recorded: roll back by" in text
    assert "no threshold" in call("decide", auto.uri, "--at", made.step, "--set", "auto.probe.samples=1", code=64)


def test_decide_exits_with_1_where_the_records_were_altered(auto, copy):
    made = second(auto)
    file = copy / "decisions/0002.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"pool_q": 0.123}))
    text = call("decide", copy, "--at", made.step, code=1)
    assert "1 fields differ" in text and "pool_q" in text and "0.123" in text


def test_decide_where_nothing_was_decided(auto):
    text = call("decide", auto.uri, "--at", 23)
    assert "Nothing was decided at step 23 of branch replay-2." in text and "nothing was probed here" in text
    assert "No update 99 is recorded" in call("decide", auto.uri, "--at", 99, code=65)


def test_signals_are_drawn_and_listed(auto, copy, tmp_path):
    text = call("signals", copy)
    assert (copy / "report/signals.png").read_bytes()[:4] == b"\x89PNG" and "report/signals.png" in text
    assert "main, abandoned" in text and "warning" in text and second(auto).reason in text
    out = tmp_path / "own.png"
    data = json.loads(call("signals", copy, "--out", out, "--json"))
    assert out.read_bytes() == (copy / "report/signals.png").read_bytes()
    trained = sum(s.t1 - s.t0 for s in auto.timeline.segments())
    assert [u["number"] for u in data["updates"]] == list(range(1, trained + 1))  # abandoned ones too
    kept = [u["step"] for u in data["updates"] if u["kept"]]
    assert kept == list(range(1, TINY["training"]["steps"] + 1))  # the way to the result, once
    first = data["decisions"][0]
    assert first["number_of_update"] == first["step"] == 4
    at = next(u for u in data["updates"] if u["number"] == data["decisions"][1]["number_of_update"])
    assert (at["branch"], at["step"]) == ("replay-1", second(auto).step)
    assert "cannot be written" in call("signals", copy, "--out", tmp_path / "no/such.png", code=64)


def test_signals_of_a_decision_are_those_that_it_recorded(auto):
    from npo_core.reporting.signals import read_signals

    found = read_signals(auto, auto.config().auto.control.trigger)
    for made in Decisions(auto.store).all():
        at = next(u for u in found.updates if u.number == found.number_of(made))
        recorded = made.signals["reading"]
        assert {name: getattr(at, name) for name in recorded} == recorded


def test_signals_of_plain_grpo_with_other_thresholds(start, tmp_path):
    workspace = start("grpo", tmp_path / "grpo", {"auto.control.trigger.window": 10})
    text = call("signals", workspace.uri, "--set", "auto.control.trigger.window=3", "--out", tmp_path / "a.png")
    assert "Signals at snapshots" in text and "over 3 updates" in text
    assert "over 10 updates" in call("signals", workspace.uri)
    assert "auto.control.trigger" in call("signals", workspace.uri, "--set", "auto.choice.max_delta=3", code=64)
    shutil.rmtree(tmp_path / "grpo/segments")
    assert "no signals yet" in call("signals", workspace.uri, code=65)


@pytest.fixture
def waiting(copy) -> Path:
    """The run before its second intervention was carried out, when it still waited for an answer."""
    config = json.loads((copy / "config.json").read_text())
    config["auto"]["approval"] = "ask"
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "decisions/0002-outcome.json").unlink()
    return copy


def test_approve_shows_what_waits_and_takes_one_answer(auto, waiting):
    assert second(auto).reason in call("approve", waiting)
    assert "Delta = 99 is no candidate" in call("approve", waiting, "--delta", 99, code=65)
    call("approve", waiting, "--accept", "--decline", code=2)
    assert Decisions(Workspace(waiting).store).approval(2) is None
    other = next(c.delta for c in second(auto).candidates if c.delta != second(auto).delta)
    assert f"Delta {other} chosen instead" in call("approve", waiting, "--delta", other)
    kept = Decisions(Workspace(waiting).store).approval(2)
    assert (kept.answer, kept.delta) == ("other", other)
    assert "No decision of" in call("approve", waiting, "--accept", code=65)
    assert f"Delta {other} chosen instead" in call("decide", waiting, "--at", second(auto).step)


def test_nobody_is_asked_where_approval_is_auto(auto):
    assert "Its setting auto.approval is auto" in call("approve", auto.uri, "--accept", code=65)


@pytest.fixture
def started(monkeypatch, auto) -> dict:
    """Stands in for the flows; what it was asked."""
    asked: dict = {}

    def run_flow(flow_name, config, workspace, baseline, **settings):
        from npo_core.reporting.report import figures
        from npo_core.reporting.run_data import load

        asked.update(flow=flow_name, config=config, workspace=workspace, baseline=baseline, **settings)
        return figures(load(auto), None, None)

    monkeypatch.setitem(sys.modules, "flows.run", types.SimpleNamespace(run_flow=run_flow))
    return asked


def test_run_auto_npo(started, tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("{}")
    call("run", "auto-npo", "--config", file, "--workspace", "w", "--seed", 3, "--set", "auto.max_interventions=1")
    assert (started["flow"], started["config"].seed, started["config"].auto.max_interventions) == ("auto-npo", 3, 1)


def test_run_plateau_breakthrough_takes_its_own_settings(started, auto, tmp_path):
    run = ("run", "plateau-breakthrough", "--workspace", auto.uri)
    options = ("--branch", "main", "--rollback-step", 4, "--guide-step", 8, "--until", 12)
    call(*run, *options, "--set", "plateau.guided=false", "--set", "plateau.trigger.window=7", "--baseline", "b")
    plateau = started["plateau"]
    assert (plateau.branch, plateau.rollback_step, plateau.guide_step, plateau.until) == ("main", 4, 8, 12)
    assert plateau.guided is False and plateau.trigger.window == 7
    assert (started["flow"], started["config"], started["baseline"]) == (
        "plateau-breakthrough",
        None,
        str(Path("b").absolute()),
    )
    file = tmp_path / "c.yaml"
    file.write_text("{}")
    call(*run[:-1], tmp_path / "new", "--config", file, "--set", "training.steps=100", "--seed", 2)
    assert (started["config"].training.steps, started["config"].seed, started["plateau"].rollback_step) == (
        100,
        2,
        None,
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--guide-step", "4", "--rollback-step", "8"],
            "plateau.guide_step = 4 is not after plateau",
        ),
        (["--rollback-step", "-1"], "plateau.rollback_step = -1: Input should be greater than or equal to 0"),
        (["--set", "plateau.trigger.window=none"], "plateau.trigger.window = 'none'"),
        (["--set", "plateau.guide=4"], "plateau.guide: there is no such field"),
        (["--set", "training.steps=4"], "training.steps: without --config the run keeps the settings that it has"),
        (["--seed", "4"], "seed: without --config"),
    ],
)
def test_wrong_plateau_settings_are_named(started, arguments, said):
    text = call("run", "plateau-breakthrough", "--workspace", "w", *arguments, code=64)
    assert said in text and started == {}
