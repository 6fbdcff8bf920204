"""What all who take a recipe's steps share: specifications of the stages, and an account of what was spent."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from npo_core.config import RunConfig
from npo_core.control.decision import Budget
from npo_core.recipes.run import Run, forked_from
from npo_core.recipes.steps import Guidance, Probed
from npo_core.stages.launch import StageResult
from npo_core.stages.results import EvaluateResult, TrainResult
from npo_core.stages.specs import Spec
from npo_core.timeline import Fork, SnapshotRef


class WorkspaceSteps(ABC):
    """Steps whose stages are those of a workspace; who inherits says what becomes of a stage."""

    def __init__(self, run: Run):
        self.run = run
        self.updates = self.tokens = 0.0  # of everything but evaluations

    @abstractmethod
    def stage(self, spec: Spec, label: str) -> StageResult:
        """Run a stage to its end, or find what it gave."""

    @property
    def config(self) -> RunConfig:
        return self.run.config

    @property
    def budget(self) -> Budget:
        auto = self.config.auto
        return Budget(
            updates=None if auto.budget_updates is None else max(auto.budget_updates - int(self.updates), 0),
            tokens=None if auto.budget_tokens is None else max(auto.budget_tokens - int(self.tokens), 0),
        )

    @property
    def forked(self) -> Fork:
        return forked_from(self.run.workspace)

    def _spend(self, result: StageResult) -> StageResult:
        self.updates += result.cost.updates or 0.0
        self.tokens += result.cost.tokens_generated or 0.0
        return result

    def base(self) -> SnapshotRef:
        result = self._spend(self.stage(self.run.base(), "base model")).result
        return SnapshotRef(step=0, snapshot=result.snapshot)

    def train(
        self,
        branch: str,
        start: SnapshotRef,
        until: int,
        *,
        guidance: Guidance | None = None,
        fresh: int = 0,
        quiet_until: int | None = None,
        token_limit: int | None = None,
        rescue: bool = False,
    ) -> TrainResult:
        spec = self.run.train(
            branch=branch,
            start=start.snapshot,
            until=until,
            cache=None if guidance is None else guidance.cache,
            fresh=fresh,
            quiet_until=quiet_until,
            token_limit=token_limit,
            rescue=rescue,
        )
        label = f"train {branch} to {until}" + (" guided" if guidance else " with extra samples" if rescue else "")
        return self._spend(self.stage(spec, label)).result

    def guide(
        self, guides: Sequence[SnapshotRef], rollback: SnapshotRef, branch: str, pool_only: bool = False
    ) -> Guidance:
        ids = [guide.snapshot for guide in guides]
        segments = self.segments(branch, rollback.step)
        spec = self.run.guide(guides=ids, rollback=rollback.snapshot, segments=segments, pool_only=pool_only)
        return Guidance(self._spend(self.stage(spec, "generate guidance")).result.cache, ids)

    def guide_ahead(self, guides: Sequence[SnapshotRef], start: SnapshotRef, until: int) -> Guidance:
        ids = [guide.snapshot for guide in guides]
        spec = self.run.guide(guides=ids, rollback=start.snapshot, segments=[], until=until)
        return Guidance(self._spend(self.stage(spec, "generate guidance")).result.cache, ids)

    def guide_failures(self, guide: SnapshotRef, at: SnapshotRef) -> Guidance:
        ids = [guide.snapshot]
        spec = self.run.guide(guides=ids, rollback=at.snapshot, segments=[], failures=True)
        return Guidance(self._spend(self.stage(spec, "generate guidance")).result.cache, ids)

    def probe(self, number: int, at: SnapshotRef, candidates: Sequence[str]) -> Probed:
        spec = self.run.probe(snapshot=at.snapshot, candidates=list(candidates))
        found = self._spend(self.stage(spec, f"probe {number} at step {at.step}"))
        return Probed(found.result.probe, found.fingerprint)

    def evaluate(self, *branches: str) -> EvaluateResult:
        chosen = self.evaluated(*(branches or self.branches()))
        return self.stage(self.run.evaluate(chosen), "evaluate").result

    def evaluated(self, *branches: str) -> list[str]:
        """The snapshots to evaluate on the way to some branches' tips: every `evaluation.every` steps, and the tip."""
        every = self.config.evaluation.every
        chosen: dict[str, int] = {}
        for branch in branches:
            states = self.snapshots(branch)
            chosen |= {id_: step for step, id_ in states.items() if step % every == 0 or step == max(states)}
        return sorted(chosen, key=chosen.__getitem__)

    def branches(self) -> list[str]:
        return [branch.name for branch in self.run.workspace.timeline.branches()]

    def final(self) -> str | None:
        branch = self.run.workspace.timeline.final()
        return None if branch is None else branch.name

    def snapshots(self, branch: str) -> dict[int, str]:
        return self.run.workspace.timeline.states(branch)

    def segments(self, branch: str, after: int) -> list[str]:
        """The ids of the segments on the way to a branch's tip that reach beyond a step."""
        return [segment.id for segment in self.run.workspace.timeline.path(branch) if segment.t1 > after]
