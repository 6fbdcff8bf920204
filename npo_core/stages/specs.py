"""What each stage is asked to do: closed records whose fingerprint names the stage's work.

The fingerprint covers everything that decides the outcome and nothing else, so that the same work on the same inputs is
found done, on whatever machine and with whatever number of retries.
"""

import hashlib
import json
from typing import Any, ClassVar, Literal

from pydantic import Field

from npo_core import config
from npo_core.config import Closed


class Spec(Closed):
    """Fields of every stage."""

    stage: ClassVar[str]
    place: ClassVar[set[str]] = {"workspace", "execution"}  # where and how, not what
    looks: ClassVar[dict[str, set[str]]] = {"training": {"log_completions"}}  # fields of groups that only keep a record
    of_engine: ClassVar[str | None] = "kind"  # which of the engine's settings decides the outcome

    workspace: str
    execution: config.Execution
    engine: config.EngineSettings = config.EngineSettings()
    problems: config.Problems

    @property
    def fingerprint(self) -> str:
        """16 hex digits: stage name and all deciding fields."""
        content = json.dumps([self.stage, self.deciding()], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def deciding(self, *left_out: str) -> dict[str, Any]:
        """The fields that decide the outcome; of the engine only what is not the default."""
        values = self.model_dump(mode="json", exclude={**dict.fromkeys([*self.place, *left_out], True), **self.looks})
        engine, default = values.pop("engine"), config.EngineSettings().model_dump()
        if self.of_engine is None or engine.get(self.of_engine) == default.get(self.of_engine):
            return values
        return values | {"engine": engine.get(self.of_engine)}

    @property
    def machines(self) -> int:
        """How many machines take part."""
        several = self.generates and self.execution.generation_processes != 1
        return self.execution.nodes if several else 1

    @property
    def processes(self) -> int:
        """How many processes a launcher starts: to generate one on each machine, which starts those that compute."""
        return self.machines

    @property
    def reads(self) -> str | None:
        """A snapshot that has to be there."""
        return None

    @property
    def generates(self) -> bool:
        """Whether it asks engines, which may be in processes of their own."""
        return False

    @property
    def folder(self) -> str:
        """The stage's folder in the workspace."""
        return f"stages/{self.stage}-{self.fingerprint}"


class BaseSpec(Spec):
    """Make, or take in, the model that the run starts from: snapshot of step 0."""

    stage: ClassVar[str] = "base"
    of_engine: ClassVar[str | None] = None

    model: config.Model


class TrainSpec(Spec):
    """Train one segment of a branch: from a snapshot to a step, guided where a cache is given."""

    stage: ClassVar[str] = "train"
    of_engine: ClassVar[str | None] = "rollouts"

    training: config.Training
    injection: config.Injection
    mix: config.Mix = Field(config.Mix(), exclude_if=lambda mix: not mix.online)
    guidance: config.Guidance | None = Field(
        None, exclude_if=lambda it: it is None, description="what may be injected of the policy's own; none: all right"
    )
    seed: int
    sampling_seed: int
    branch: str
    start: str = Field(description="snapshot id")
    until: int = Field(description="optimizer update at which the segment ends")
    cache: str | None = None
    control: config.Control | None = Field(None, description="signals and mistake pool of a watched run; none: plain")
    quiet_until: int = Field(0, description="a warning at or before this update does not end the segment")
    token_limit: int | None = Field(None, description="generated tokens of the segment after which it ends")
    rescue: tuple[config.Rescue, float] | None = Field(
        None,
        exclude_if=lambda it: it is None,
        description="AutoNPO's intervention without a rollback, and the Q below which it is over",
    )

    @property
    def machines(self) -> int:
        """How many machines train."""
        return self.execution.nodes

    @property
    def processes(self) -> int:
        """How many processes train."""
        return self.execution.processes

    @property
    def reads(self) -> str:
        """Where it starts."""
        return self.start


class GuideSpec(Spec):
    """Generate the guidance for a segment from later snapshots."""

    stage: ClassVar[str] = "guide"

    training: config.Training
    guidance: config.Guidance
    tau_gate: float
    seed: int
    guides: list[str] = Field(description="snapshot ids, rising by step")
    rollback: str = Field(description="snapshot id that the replay starts from")
    segments: list[str] = Field(description="where the prompts between rollback and guides were met first")
    pool_only: bool = Field(False, description="guide only what the guide's mistake pool holds since the rollback")
    failures: bool = Field(
        False,
        exclude_if=lambda on: not on,
        description="instead of segments: guide what the mistake pool of the snapshot to go on from holds",
    )
    horizons: list[float] = Field(
        [],
        exclude_if=lambda it: not it,
        description="guide with weights that go on beyond two guides, in distances of the two",
    )
    by_kl: bool = Field(
        False, exclude_if=lambda on: not on, description="ask the guides that are nearest to the policy first"
    )
    outside: config.ModelGuide | config.TracesGuide | None = Field(
        None, exclude_if=lambda it: it is None, description="who guides instead of snapshots"
    )
    until: int | None = Field(
        None,
        exclude_if=lambda it: it is None,
        description="instead of segments: guide what the data's order asks between the rollback and this update",
    )

    @property
    def generates(self) -> bool:
        """Unless somebody wrote the completions: nothing samples or scores these."""
        return not isinstance(self.outside, config.TracesGuide)

    @property
    def reads(self) -> str:
        """Where the replay starts."""
        return self.rollback

    @property
    def drawn_outside(self) -> int:
        """Models outside the run that sample: a file of completions costs no tokens."""
        return int(isinstance(self.outside, config.ModelGuide))


class ProbeSpec(Spec):
    """One rollout of a watched snapshot on its mistake pool, scored by the snapshots it might be rolled back to."""

    stage: ClassVar[str] = "probe"

    control: config.Control
    probe: config.Probe
    max_completion_tokens: int
    bf16: bool = Field(False, exclude_if=lambda on: not on, description="compute in bfloat16, as training does")
    seed: int
    snapshot: str
    candidates: list[str] = Field(description="snapshot ids, rising by step")
    now: bool = Field(
        False, exclude_if=lambda on: not on, description="without candidates too: the policy may stay where it is"
    )

    @property
    def generates(self) -> bool:
        """It samples."""
        return True

    @property
    def reads(self) -> str:
        """The policy that is probed."""
        return self.snapshot


class EvaluateSpec(Spec):
    """Pass rate of snapshots on the held-out problems."""

    stage: ClassVar[str] = "evaluate"

    evaluation: config.Evaluation
    max_completion_tokens: int
    bf16: bool = Field(False, exclude_if=lambda on: not on, description="compute in bfloat16, as training does")
    snapshots: list[str]

    @property
    def generates(self) -> bool:
        """It samples."""
        return True

    @property
    def reads(self) -> str:
        """The first that is evaluated."""
        return self.snapshots[0]

    @property
    def protocol(self) -> str:
        """8 hex digits: everything that decides a snapshot's score but the snapshot."""
        return hashlib.sha256(json.dumps(self.deciding("snapshots"), sort_keys=True).encode()).hexdigest()[:8]


SPECS: dict[str, type[Spec]] = {spec.stage: spec for spec in (BaseSpec, TrainSpec, GuideSpec, ProbeSpec, EvaluateSpec)}
StageName = Literal["base", "train", "guide", "probe", "evaluate"]
