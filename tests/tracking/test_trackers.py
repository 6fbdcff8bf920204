"""Trackers are told a run once, whatever ends in between: each read back from where it keeps what it was told."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from npo_core.config import RunConfig, Tracking, parse_config
from npo_core.errors import ConfigError
from npo_core.recipes.run import look_first
from npo_core.stages.workspace import Workspace
from npo_core.tracking import followed, links, require_trackers
from npo_core.tracking.follow import Follower
from npo_core.tracking.ledger import FILE, Ledger, Part, open_ledger, read_ledger
from npo_core.tracking.story import Event, ends, events, named, rows, with_new_parts
from npo_core.tracking.sync import Teller
from npo_core.tracking.tracker import About
from tests.reporting.small_runs import CONFIG, add_segment, make_auto, make_bootstrap
from tests.tracking.readers import READERS


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No server, no account, no network, and a Trackio of its own."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "elsewhere"))
    for name in ("MLFLOW_TRACKING_URI", "TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "NPO_HOME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(params=READERS)
def tracker(request) -> str:
    if importlib.util.find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed: pip install 'npo-core[tracking]'")
    return request.param


def config(tmp_path: Path, *to: str) -> RunConfig:
    return parse_config(CONFIG | {"tracking": {"to": to, "folder": str(tmp_path / "told")}})


def test_updates_are_counted_over_all_branches(tmp_path):
    run = make_bootstrap(tmp_path / "run")
    ledger = with_new_parts(run, open_ledger(run.store))
    assert [(p.branch, p.t0, p.t1) for p in ledger.parts] == [
        ("scout", 0, 2),
        ("scout", 2, 4),
        ("replay", 0, 2),
        ("replay", 2, 4),
        ("replay", 4, 6),
        ("replay", 6, 8),
    ]
    assert ledger.updates == 12 and with_new_parts(run, ledger) is ledger
    told = list(rows(run, ledger, after=3))
    assert [update for update, _ in told] == list(range(4, 13))
    assert told[1][1]["replay/pass_rate"] == 0.1 and told[1][1]["all/step"] == 1 and "scout/reward" in told[0][1]
    found = [(e.update, e.title or e.values["evaluation/pass_rate"]) for e in events(run, ledger)]
    assert found == [
        (0, 0.2),
        (4, "rollback to step 0: branch replay"),
        *[(6, 0.6), (8, 0.7), (10, 0.85), (12, 0.95)],
    ]
    assert named("main", {"step": 1, "loss": float("nan"), "reward": None, "entropy": 2.0}) == {
        "main/entropy": 2.0,
        "all/step": 1.0,
    }


def test_decisions_and_outcomes_are_events(tmp_path):
    run = make_auto(tmp_path / "run")
    ledger = with_new_parts(run, open_ledger(run.store))
    found = [event for event in events(run, ledger) if event.title]
    titles = {event.title: event.update for event in found}
    assert list(titles).index("decision 2 at step 8: intervene") < list(titles).index(
        "rollback to step 4: branch replay-1"
    )
    assert [event.text for event in found if event.kind == "outcome"] == ["pass rate +0.050 against the branch it left"]
    assert titles["rollback to step 4: branch replay-1"] == 8
    assert titles["decision 1 at step 4: go on"] == 4 and titles["decision 2 at step 8: intervene"] == 8


def test_a_warning_is_an_event(tmp_path):
    part = Part(segment="s", branch="main", t0=4, t1=8, snapshot="x", ended="until")
    ledger = Ledger(id="i", parts=[part, part.model_copy(update={"segment": "t", "ended": "warning"})])
    [event] = ends(ledger)
    assert (event.update, event.kind, event.level) == (8, "warning", "warn")
    assert event.title == "a plateau warning ended a segment: main at step 8"


def test_each_tracker_has_every_update_once(tracker, tmp_path):
    """Told up to the scout's end, killed before that was noted, started again, told the rest, started once more."""
    whole, folder = make_bootstrap(tmp_path / "whole"), tmp_path / "told"
    run = Workspace(tmp_path / "run")
    shutil.copytree(whole.uri, run.uri, ignore=lambda place, names: [n for n in names if n.startswith("replay")])
    settings, about = config(tmp_path, tracker), {"recipe": "early-bootstrap", "flow_run_id": "f-1"}
    follower = Follower(settings, run, about)
    follower.end({"failed": True, "why": "The disk is full."})
    assert READERS[tracker](folder).steps("all/step") == [1, 2, 3, 4]
    ledger = read_ledger(run.store)
    assert ledger.told[tracker].updates == 4 and links(run.store)[tracker]
    # The kill between the two: the tracker has them, the ledger does not say so.
    run.store.write_json(FILE, ledger.model_copy(update={"told": {}}).model_dump(mode="json"))
    shutil.copytree(whole.uri, run.uri, dirs_exist_ok=True)
    for _ in range(2):
        with followed(settings, run, about | {"flow_run_id": "f-2"}):
            pass
    told = READERS[tracker](folder)
    again = 4 if tracker == "wandb" else 0  # offline it cannot be asked; the server drops steps that it has
    assert told.steps("all/step") == sorted([*range(1, 13), *range(1, again + 1)])
    assert told.steps("replay/pass_rate") == list(range(5, 13))
    assert told.value("replay/pass_rate", 12) == pytest.approx(0.8)
    assert [told.events.count(title) for title in ("the run stopped", "the run finished")] == [1, 1]
    assert told.events.count("rollback to step 0: branch replay") == 1
    assert len([name for _, name, _ in told.figures if name == "evaluation/pass_rate"]) >= 5
    assert told.config["workspace"] == run.uri and told.config["training.steps"] in (8, "8")
    assert told.config["flow_run_id"] in ("f-1", "f-2")


class Forgetful:
    """A tracker that keeps what it is told, and breaks when it is told to."""

    def __init__(self) -> None:
        self.link, self.kept, self.breaks_at = "nowhere", [], None

    def newest(self) -> int | None:
        return max((update for update, what in self.kept if what == "row"), default=None)

    def row(self, update, values) -> None:
        if update == self.breaks_at:
            raise OSError("the line is dead")
        self.kept.append((update, "row"))

    def event(self, event: Event) -> None:
        self.kept.append((event.update, event.title or "score"))

    def flush(self) -> None: ...

    def close(self, failed: bool) -> None:
        self.kept.append((failed, "closed"))


def test_a_tracker_that_fails_is_told_again_and_harms_no_other(tmp_path, monkeypatch):
    run, made, said = make_bootstrap(tmp_path / "run"), {"a": Forgetful(), "b": Forgetful()}, []
    monkeypatch.setattr("npo_core.tracking.sync.connect", lambda name, about: made[name])
    about = About("", "tiny", "npo", "tiny", tmp_path, {})
    teller = Teller(run, ("a", "b"), about, said.append)
    made["a"].breaks_at = 6
    assert not teller.sync() and "The tracker a could not be told" in said[0] and "the line is dead" in said[0]
    order = [what for what in made["b"].kept if what[1] != "score"]
    assert order == [
        *[(n, "row") for n in range(1, 5)],
        (4, "rollback to step 0: branch replay"),
        *[(n, "row") for n in range(5, 13)],
    ]
    made["a"].breaks_at = None
    assert teller.sync() and len(said) == 1
    assert [update for update, what in made["a"].kept if what == "row"] == list(range(1, 13))
    known = list(made["b"].kept)
    assert teller.sync() and made["b"].kept == known
    # What comes later has the next numbers, also where it belongs to another branch.
    add_segment(run, "replay", 8, 10)
    assert teller.sync()
    assert [update for update, what in made["b"].kept if what == "row"][-2:] == [13, 14]


def test_a_tracker_that_refuses_ends_a_run_before_it_begins(tmp_path):
    run = make_bootstrap(tmp_path / "run")
    (tmp_path / "told").mkdir()
    (tmp_path / "told/tensorboard").write_text("no folder")
    with pytest.raises(ConfigError, match="tracking.to = tensorboard: a tracker refuses .*log.txt"):
        with followed(config(tmp_path, "tensorboard"), run, {}):
            raise AssertionError("it began")


def test_what_is_missing_is_said_with_the_command(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install trackio mlflow-skinny") as caught:
        look_first(config(tmp_path, "trackio", "mlflow"), str(tmp_path / "run"))
    assert "npo-core[tracking]" in str(caught.value) and not (tmp_path / "run").exists()


def test_wandb_online_needs_a_key(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: SimpleNamespace())
    require_trackers(Tracking(to=("wandb",)))
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="wandb login"):
        require_trackers(Tracking(to=("wandb",)))
    monkeypatch.setenv("WANDB_API_KEY", "k")
    require_trackers(Tracking(to=("wandb",)))


def test_no_password_of_an_address_is_kept(tmp_path, monkeypatch):
    run, made = make_bootstrap(tmp_path / "run"), Forgetful()
    made.link, made.breaks_at, said = "https://me:secret@host/x, run tiny", 1, []
    monkeypatch.setattr("npo_core.tracking.sync.connect", lambda name, about: made)
    teller = Teller(run, ("mlflow",), About("", "tiny", "npo", "tiny", tmp_path, {}), said.append)
    assert links(run.store) == {"mlflow": "https://host/x, run tiny"}
    monkeypatch.setattr(made, "row", lambda *row: open("postgresql://me:secret@host/db"))
    assert not teller.sync() and "postgresql://host/db" in said[0] and "secret" not in said[0]


def test_tracking_decides_nothing(tmp_path):
    plain, tracked = parse_config(CONFIG), config(tmp_path, "tensorboard")
    assert "tracking" not in plain.model_dump(mode="json")
    workspace = make_bootstrap(tmp_path / "run")
    assert workspace.require_same(tracked) is None
    with pytest.raises(ConfigError, match="tracking.to"):
        parse_config({"tracking": {"to": ["neptune"]}})
    assert os.environ["WANDB_MODE"] == "offline"
