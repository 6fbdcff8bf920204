"""Steps that run nothing and count: what `npo plan` and `npo status` show is what a recipe makes of them."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from npo_core.config import Plateau, RunConfig
from npo_core.control.decision import Budget, Decision
from npo_core.control.probe import Candidate, ProbeResult
from npo_core.control.records import Decisions
from npo_core.names import AUTO_NPO, FORK, FORK_FILE, PLATEAU, RECIPE_NAMES
from npo_core.recipes import follow
from npo_core.recipes.run import Run, require_recipe
from npo_core.recipes.steps import Guidance, Probed, Report
from npo_core.recipes.work import Work, measure
from npo_core.recipes.workspace_steps import WorkspaceSteps
from npo_core.reporting.costs import label
from npo_core.reporting.records import Stage
from npo_core.stages.launch import StageResult
from npo_core.stages.results import (
    RESULTS,
    BaseResult,
    EvaluateResult,
    GuideResult,
    ProbeStageResult,
    Result,
    TrainResult,
)
from npo_core.stages.specs import GuideSpec, ProbeSpec, Spec, TrainSpec
from npo_core.stages.workspace import Workspace
from npo_core.timeline import Fork, SnapshotRef

NOWHERE = "not-begun"  # a workspace that is never read or written
FLOWS = RECIPE_NAMES


def count(config: RunConfig, recipe: str, folder: Path | None = None) -> list[Work]:
    """The stages of a recipe in order, at most: every intervention that can happen does, as far back as it may.

    Args:
        folder: of a workspace that was forked: the rest from there; any other is not looked at.

    Raises:
        ConfigError: there is no such recipe, or it refuses the configuration.
    """
    require_recipe(config, recipe)
    steps = CountingSteps(Run(config, Workspace(NOWHERE)), most=True)
    if recipe == FORK and folder is not None and (folder / FORK_FILE).exists():
        steps = CountingSteps(Run(config, Workspace(folder)), done={}, most=True)
    follow(recipe, steps)
    return [work for work in steps.works if work.stage != "base"]


class CountingSteps(WorkspaceSteps):
    """Finds what each stage gave, or makes up what it might give.

    Args:
        done: stages of the workspace that have a result, by their folder.
        most: make up all interventions that can happen, rather than none.
    """

    def __init__(self, run: Run, done: Mapping[str, Stage] | None = None, most: bool = False):
        super().__init__(run)
        self.done, self.most = done, most  # done None: the workspace is not looked at
        self.works: list[Work] = []
        self.sure, self.interventions = True, 0
        self.step_of: dict[str, int] = {}
        self.opened: dict[str, dict[int, str]] = {}  # branch -> step -> snapshot
        self.trained: dict[str, list[tuple[str, int, int]]] = {}  # branch -> segments with t0 and t1

    @property
    def forked(self) -> Fork:
        if self.done is None:  # no workspace is known: a fork of the base at most
            return Fork(workspace=NOWHERE, step=0, snapshot="base", branch="main", last=None)
        return super().forked

    def stage(self, spec: Spec, label: str) -> StageResult:
        found = (self.done or {}).get(spec.folder)
        if found is None:
            result, reused = self.made_up(spec), False
        else:
            result, reused = RESULTS[spec.stage].model_validate(found.result), True
        self._note(spec, result)
        return StageResult(spec.stage, spec.fingerprint, result, 0.0, reused)

    def _note(self, spec: Spec, result: Result) -> None:
        """Add the stage to what is counted, and what it made to what is known."""
        until = result.step if isinstance(result, TrainResult) else 0
        if isinstance(result, BaseResult):
            self.step_of[result.snapshot] = 0
        if isinstance(spec, TrainSpec) and isinstance(result, TrainResult):
            t0 = self.step_of[spec.start]
            self.step_of |= {id_: step for step, id_ in result.snapshots.items()}
            self._branch(spec.branch).update(result.snapshots)
            self.trained.setdefault(spec.branch, []).append((result.segment, t0, result.step))
        record = {"result": result.as_json()}  # a warning may have ended it early
        stage = Stage(spec.folder, spec.stage, spec.fingerprint, spec.model_dump(mode="json"), record)
        work = Work(spec.stage, label(stage, self.step_of), spec.folder, sure=self.sure)
        self.works.append(replace(work, **measure(spec, self.config, self.step_of, until)))

    def made_up(self, spec: Spec) -> Result:
        """What a stage might give."""
        if isinstance(spec, TrainSpec):
            return self._segment(spec)
        if isinstance(spec, GuideSpec):
            return GuideResult(cache=f"cache of {spec.fingerprint}", rows=0, coverage=None, asked=0, skipped=0)
        if isinstance(spec, ProbeSpec):
            return ProbeStageResult(probe=self._estimates(spec))
        if spec.stage == "base":
            return BaseResult(snapshot="base", made=False, bytes=0)
        return EvaluateResult(scores=[])

    def _segment(self, spec: TrainSpec) -> TrainResult:
        """A segment up to its end, or to a warning."""
        every, start = self.config.training.snapshot_every, self.step_of[spec.start]
        warned = self._warning(spec, start) if self.most and spec.control else None
        end = spec.until if warned is None else warned
        steps = [*range((start // every + 1) * every, end, every), end]
        snapshots = {step: f"{spec.branch}@{step}" for step in steps}
        ended = "until" if warned is None else "warning"
        cost = {"updates": float(end - start)}
        values = {"segment": spec.fingerprint, "end": snapshots[end], "step": end, "ended": ended}
        return TrainResult(**values, snapshots=snapshots, cost=cost)

    def _warning(self, spec: TrainSpec, start: int) -> int | None:
        """Where a watched segment warns: as late as leaves room for all further interventions; None: nowhere."""
        auto, every = self.config.auto, self.config.training.snapshot_every
        later = auto.max_interventions - self.interventions - 1
        apart = (auto.cooldown // every + 1) * every
        trigger, per_batch = auto.control.trigger, self.config.training.updates_per_batch
        first = max(spec.quiet_until + 1, start + 1, trigger.warm_up, trigger.window * per_batch + 1)
        step = max((spec.until - later * apart) // every, -(-first // every)) * every
        return step if spec.quiet_until < step <= spec.until else None

    def _estimates(self, spec: ProbeSpec) -> ProbeResult:
        at = self.step_of[spec.snapshot]
        unknown = dict.fromkeys(("q", "kl", "kl_k3", "length"))
        candidates = [
            Candidate(step=step, snapshot=id_, delta=at - step, prompts=0, **unknown)
            for id_ in spec.candidates
            for step in [self.step_of[id_]]
        ]
        return ProbeResult(pool=0, prompts=0, samples=spec.probe.samples, q=None, tokens=0, candidates=candidates)

    def branch(self, name: str, at: SnapshotRef, reason: str, guidance: Guidance | None = None) -> None:
        left = next((b for b, states in self.opened.items() if at.snapshot in states.values()), None)
        self.step_of[at.snapshot] = at.step
        self.opened[name] = {at.step: at.snapshot}
        if left is not None:
            self.opened[name] |= {step: id_ for step, id_ in self.opened[left].items() if step < at.step}
            self.trained[name] = [segment for segment in self.trained.get(left, []) if segment[1] < at.step]
        self.opened[name] = dict(sorted(self.opened[name].items()))

    def _branch(self, name: str) -> dict[int, str]:
        """Its snapshots; of a branch that was opened before this recipe, those of the timeline."""
        if name not in self.opened:
            timeline = self.run.workspace.timeline
            self.opened[name] = timeline.states(name)
            self.trained[name] = [(segment.id, segment.t0, segment.t1) for segment in timeline.path(name)]
            self.step_of |= {id_: step for step, id_ in self.opened[name].items()}
        return self.opened[name]

    def branches(self) -> list[str]:
        return sorted(self.opened)

    def final(self) -> str | None:
        if self.opened:
            return list(self.opened)[-1]
        return None if self.done is None else super().final()

    def snapshots(self, branch: str) -> dict[int, str]:
        return dict(sorted(self._branch(branch).items()))

    def segments(self, branch: str, after: int) -> list[str]:
        self._branch(branch)
        return [id_ for id_, _, t1 in self.trained.get(branch, []) if t1 > after]

    def decide(self, number: int, branch: str, at: SnapshotRef, probed: Probed | None, budget: Budget) -> Decision:
        recorded = None if self.done is None else Decisions(self.run.workspace.store).get(number)
        if recorded is not None:
            return recorded
        most = [c for c in probed.result.candidates if c.delta <= self.config.auto.choice.max_delta] if probed else []
        able = [c for c in most if budget.updates is None or c.delta <= budget.updates]
        chosen = max(able, key=lambda c: c.delta, default=None) if self.most and budget.interventions else None
        rollback = None if chosen is None else SnapshotRef(step=chosen.step, snapshot=chosen.snapshot)
        self.interventions += rollback is not None
        return self._assume(assumed(AUTO_NPO, number, branch, at, rollback, {}))

    def _assume(self, decision: Decision) -> Decision:
        self.sure = not decision.intervene  # until its outcome, nothing is sure to happen
        return decision

    def planned(self, plateau: Plateau) -> Decision | None:
        return next((d for d in self._plans(plateau) if d.intervene), None)

    def _plans(self, plateau: Plateau) -> list[Decision]:
        wanted = plateau.model_dump(mode="json")
        recorded = [] if self.done is None else Decisions(self.run.workspace.store).all()
        return [d for d in recorded if d.flow == PLATEAU and d.thresholds == wanted]

    def plan_rollback(self, plateau: Plateau, branch: str, guide: SnapshotRef) -> Decision:
        if plans := self._plans(plateau):
            return plans[-1]
        step = plateau.rollback_step if plateau.rollback_step is not None or not self.most else 0
        rollback = None if step is None else SnapshotRef(step=step, snapshot=self.snapshots(branch)[step])
        return self._assume(assumed(PLATEAU, 1, branch, guide, rollback, plateau.model_dump(mode="json")))

    def approve(self, decision: Decision) -> Decision:
        recorded = None if self.done is None else Decisions(self.run.workspace.store).approval(decision.number)
        return decision if recorded is None else decision.answered(recorded.answer, recorded.delta)

    def outcome(self, decision: Decision, replay: str) -> None:
        self.sure = decision.flow == AUTO_NPO  # it goes on as it would have without the intervention

    def report(self) -> Report:
        return {}


def assumed(
    flow: str, number: int, branch: str, at: SnapshotRef, rollback: SnapshotRef | None, thresholds: dict[str, Any]
) -> Decision:
    """A decision that nobody made yet."""
    return Decision(
        number=number,
        flow=flow,
        branch=branch,
        step=at.step,
        snapshot=at.snapshot,
        intervene=rollback is not None,
        reason="Assumed.",
        delta=None if rollback is None else at.step - rollback.step,
        rollback=rollback,
        signals={},
        thresholds=thresholds,
        probe=None,
        pool_q=None,
        candidates=[],
        left=Budget(),
        expected={},
    )
