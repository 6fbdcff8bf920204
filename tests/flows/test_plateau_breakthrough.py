"""Plateau breakthrough on a run that plain GRPO trained earlier: by hand, by detection, again, and what is refused."""

import shutil
from pathlib import Path

import pytest

from npo_core.config import Plateau, Trigger
from npo_core.control.recompute import decide_again
from npo_core.control.records import Decisions
from npo_core.errors import ConfigError, DataError
from npo_core.stages.workspace import Workspace
from npo_core.timeline.segments import read_outcomes
from tests.flows.conftest import ALWAYS, artifacts, outcome

NEVER = Trigger(ema=0.5, window=3, min_gain=-1.0)
BY_HAND = Plateau(rollback_step=8, guide_step=16)


@pytest.fixture(scope="module")
def grpo(local, tmp_path_factory) -> Path:
    """A finished run of plain GRPO."""
    return Path(local("grpo", tmp_path_factory.mktemp("runs") / "grpo", {}).uri)


@pytest.fixture
def run(grpo, tmp_path) -> Path:
    return shutil.copytree(grpo, tmp_path / "run")


@pytest.fixture(scope="module")
def by_hand(start, grpo) -> Workspace:
    return start("plateau-breakthrough", shutil.copytree(grpo, grpo.parent / "by-hand"), None, plateau=BY_HAND)


def late(workspace: Workspace) -> list[str]:
    return [branch.name for branch in workspace.timeline.branches() if branch.name.startswith("late-")]


def stages(workspace: Workspace) -> list[str]:
    return [p.parent.name for p in Path(workspace.uri).glob("stages/*/result.json")]


def test_by_hand_it_rolls_back_replays_guided_and_goes_on(by_hand, grpo):
    timeline = by_hand.timeline
    main = timeline.states("main")
    assert main == Workspace(grpo).timeline.states("main")  # what was there stays
    [name] = late(by_hand)
    branch = timeline.branch(name)
    assert name.startswith("late-8-16-") and (branch.parent, branch.guide) == (main[8], [main[16]])
    replay, rest = (s for s in timeline.segments() if s.branch == name)
    assert (replay.t0, replay.t1, replay.cache) == (8, 16, branch.cache) and branch.cache
    assert (rest.t0, rest.t1, rest.cache) == (16, 24, None) and timeline.final().name == name
    rows = {s.id: read_outcomes(by_hand.store, s).to_pylist() for s in (replay, rest, timeline.path("main")[0])}
    replayed, abandoned = rows[replay.id], [r for r in rows[timeline.path("main")[0].id] if 8 < r["step"] <= 16]
    assert [r["prompt_id"] for r in replayed] == [r["prompt_id"] for r in abandoned]
    assert any(r["injected"] for r in replayed) and not any(r["injected"] for r in rows[rest.id])


def test_the_decision_and_its_outcome_are_recorded(by_hand):
    kept = Decisions(by_hand.store)
    [made] = kept.all()
    assert (made.flow, made.step, made.delta, made.rollback.step) == ("plateau-breakthrough", 16, 8, 8)
    assert made.reason == "The rollback to step 8 was given." and made.candidates == [] and made.probe is None
    found = kept.result(1)
    assert (found.t0, found.t1, found.abandoned.branch, found.replay.branch) == (8, 16, "main", late(by_hand)[0])
    assert found.groups_injected > 0
    again = decide_again(by_hand.store, by_hand.config(), 16, None, {})
    assert again["same"], again["differences"]
    other = decide_again(by_hand.store, by_hand.config(), 16, None, {"plateau.rollback_step": 4})
    assert other["recomputed"]["rollback"]["step"] == 4 and not other["same"]


def test_the_decision_has_an_artifact_with_a_picture(by_hand, environment):
    found = artifacts(environment)
    for key, said in (("tiny-decision-0001", "step 16 to step 8"), ("tiny-decision-0001-outcome", "abandoned")):
        assert "data:image/png;base64," in found[key] and said in found[key]


def test_the_same_settings_are_the_same_intervention(by_hand, start):
    before, ran = outcome(by_hand.uri), sorted(stages(by_hand))
    start("plateau-breakthrough", Path(by_hand.uri), None, plateau=BY_HAND)
    assert outcome(by_hand.uri) == before and sorted(stages(by_hand)) == ran
    assert len(Decisions(by_hand.store).all()) == 1


def test_by_detection_it_finds_where_to_roll_back_to(run, local):
    trigger = Trigger(**ALWAYS | {"min_gain": 0.0})
    workspace = local("plateau-breakthrough", run, None, plateau=Plateau(trigger=trigger, until=28))
    [made] = Decisions(workspace.store).all()
    assert made.step == 24 and "nearly reached at update" in made.reason
    [name] = late(workspace)
    tip = max(workspace.timeline.states(name))
    assert workspace.timeline.branch(name).parent_step == made.rollback.step and tip == 28
    assert decide_again(workspace.store, workspace.config(), 24, None, {})["same"]


def test_without_a_plateau_nothing_is_rolled_back_however_often_it_is_asked(run, local):
    for _ in range(2):
        workspace = local("plateau-breakthrough", run, None, plateau=Plateau(trigger=NEVER))
        [made] = Decisions(workspace.store).all()
        assert not made.intervene and made.reason.startswith("No plateau") and late(workspace) == []
    assert not any(name.startswith("guide") for name in stages(workspace))


def test_without_guidance_the_replay_is_the_abandoned_branch_bit_for_bit(run, local):
    workspace = local("plateau-breakthrough", run, None, plateau=BY_HAND.model_copy(update={"guided": False}))
    [name] = late(workspace)
    assert workspace.timeline.states(name) == workspace.timeline.states("main")
    assert Decisions(workspace.store).result(1).difference == 0 and not workspace.store.list("guidance")


def test_a_second_intervention_starts_from_the_first(by_hand, local, tmp_path):
    workspace = local(
        "plateau-breakthrough",
        shutil.copytree(by_hand.uri, tmp_path / "twice"),
        None,
        plateau=Plateau(rollback_step=16, guide_step=20),
    )
    first, second = Decisions(workspace.store).all()
    assert (second.number, second.branch) == (2, late(by_hand)[0])
    assert workspace.timeline.final().parent == workspace.timeline.states(second.branch)[16]


def test_a_later_guide_is_trained_first(run, local):
    workspace = local("plateau-breakthrough", run, None, plateau=Plateau(rollback_step=20, guide_step=30))
    assert max(workspace.timeline.states("main")) == 30
    assert Decisions(workspace.store).all()[0].snapshot == workspace.timeline.states("main")[30]
    assert max(workspace.timeline.states(late(workspace)[0])) == 30


@pytest.mark.parametrize(
    ("plateau", "error", "said"),
    [
        (Plateau(rollback_step=10), ConfigError, "plateau.rollback_step = 10: there is no snapshot"),
        (Plateau(rollback_step=24), ConfigError, "plateau.rollback_step = 24: there is no snapshot before the guide"),
        (Plateau(rollback_step=26, guide_step=40), ConfigError, "plateau.rollback_step = 26: .* 28, 32, 36"),
        (
            Plateau(guide_step=10),
            ConfigError,
            "plateau.guide_step = 10: branch main has snapshots of the steps 0, 4, 8",
        ),
        (Plateau(guide_step=20, until=16), ConfigError, "plateau.until = 16 is before plateau.guide_step = 20"),
        (Plateau(branch="other"), DataError, "There is no branch 'other'"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_trained(run, local, plateau, error, said):
    before = sorted(stages(Workspace(run)))
    with pytest.raises(error, match=said):
        local("plateau-breakthrough", run, None, plateau=plateau)
    assert sorted(stages(Workspace(run))) == before and Decisions(Workspace(run).store).all() == []


def test_the_command_takes_steps_and_settings(run, call):
    command = ("run", "plateau-breakthrough", "--workspace", run, "--rollback-step")
    assert "plateau.rollback_step = 10" in call(*command, 10, code=64).stderr
    done = call(*command, 12, "--set", "plateau.guided=false")
    [made] = Decisions(Workspace(run).store).all()
    assert (made.rollback.step, made.step, made.thresholds["guided"]) == (12, 24, False)
    assert f"The report is in {run}/report/report.md" in done.stdout
