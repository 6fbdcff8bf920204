"""Everything that decides a run, in one model."""

from collections.abc import Iterator
from typing import Literal, Self

from pydantic import Field, JsonValue, model_validator

from npo_core.config.closed import Closed
from npo_core.config.control import AutoNPO
from npo_core.config.engine import EngineSettings
from npo_core.config.methods import methods, read_method, with_method
from npo_core.config.mix import Mix
from npo_core.config.model import BuiltInModel, Model
from npo_core.config.problems import ChainProblems, DataProblems, Problems
from npo_core.config.tracking import Tracking
from npo_core.config.training import (
    EarlyBootstrap,
    Evaluation,
    Execution,
    Guidance,
    Injection,
    RolloutCorrection,
    Training,
)
from npo_core.config.verifier import LengthVerifier, TaskVerifier, leaves
from npo_core.errors import ConfigError


class RunConfig(Closed):
    """Everything that decides a run. `seed` alone makes another replicate of it."""

    name: str = Field("run", pattern=r"^[a-z0-9][a-z0-9.-]*$", description="lower-case letters, digits, dots, dashes")
    seed: int = Field(0, ge=0, description="data order and sampling")
    method: str | None = Field(
        None,
        exclude_if=lambda method: method is None,
        description="a mixed-policy method (docs/mix.md), which sets what you leave at its default: "
        f"{', '.join(sorted(methods()))}; or a YAML file of your own",
        json_schema_extra={"examples": list[JsonValue](sorted(methods()))},
    )
    problems: Problems = ChainProblems()
    model: Model = BuiltInModel()
    training: Training = Training()
    injection: Injection = Injection()
    mix: Mix = Field(Mix(), exclude_if=lambda mix: mix == Mix(), description="what is mixed in besides a cache")
    guidance: Guidance = Guidance()
    bootstrap: EarlyBootstrap = EarlyBootstrap()
    auto: AutoNPO = AutoNPO()
    evaluation: Evaluation = Evaluation()
    engine: EngineSettings = EngineSettings()
    execution: Execution = Execution()
    retention: Literal["all", "needed"] = Field(
        "all",
        exclude_if=lambda kept: kept == "all",
        description="which snapshots stay. needed: what nothing needs any more is deleted before a training stage and "
        "after the report, as `npo prune` does; all: everything",
    )
    tracking: Tracking = Field(
        Tracking(),
        exclude_if=lambda tracking: tracking == Tracking(),
        description="experiment trackers that are told of the run (docs/tracking.md)",
    )

    @model_validator(mode="before")
    @classmethod
    def _default_kinds(cls, values: object) -> object:
        """`kind` may be left out where the built-in one is meant."""
        if not isinstance(values, dict):
            return values
        kinds = {"problems": "chain", "model": "built-in"}
        filled = {f: {"kind": kind, **values[f]} for f, kind in kinds.items() if isinstance(values.get(f), dict)}
        return values | filled

    @model_validator(mode="before")
    @classmethod
    def _method_below(cls, values: object) -> object:
        """The method's fields, below those that are given."""
        if not isinstance(values, dict) or not values.get("method"):
            return values
        try:
            return with_method(values, read_method(values["method"])[1], cls)
        except ConfigError as error:
            raise ValueError(str(error).removesuffix(".")) from None

    @property
    def recipe(self) -> str | None:
        """The recipe that the method is for; None: any, or its file is gone, of a run that has its fields."""
        try:
            return read_method(self.method)[0] if self.method else None
        except ConfigError:
            return None

    @property
    def scout_steps(self) -> int:
        """Optimizer updates that the scout of an early bootstrapping runs ahead."""
        return self.training.steps if self.bootstrap.far_future else self.bootstrap.scout_steps

    @property
    def guide_steps(self) -> list[int]:
        """The scout's steps whose snapshots guide, rising."""
        return sorted(set(self.bootstrap.ladder)) or [self.scout_steps]

    @model_validator(mode="after")
    def _all_agree(self) -> Self:
        """Every contradiction between settings, not the first alone."""
        checks = (
            self._steps_agree,
            self._processes_divide,
            self._enough_problems,
            self._engine_can_do_it,
            self._mix_fits,
            self._rescue_fits,
            self._teacher_fits,
            self._second_opinion_fits,
            self._tasks_score_their_own,
            self._penalty_is_in_reach,
        )
        if wrong := [sentence for check in checks for sentence in check()]:
            raise ValueError("\n  ".join(wrong))
        return self

    def _steps_agree(self) -> Iterator[str]:
        every, scout = self.training.snapshot_every, self.scout_steps
        for name, value in [
            ("bootstrap.scout_steps", scout),
            ("training.steps", self.training.steps),
            ("evaluation.every", self.evaluation.every),
        ]:
            if value % every:
                yield (
                    f"{name} = {value} is no multiple of training.snapshot_every = {every}, so there "
                    "would be no snapshot to use: change either"
                )
        if scout > self.training.steps:
            yield (
                f"bootstrap.scout_steps = {scout} is more than training.steps = {self.training.steps}: "
                "the replay would outlast the run; shorten the scout or train longer"
            )
        for step in self.bootstrap.ladder:
            if step % every or not 0 < step <= scout:
                yield (
                    f"bootstrap.ladder has {step}: guides are snapshots of the scout, at multiples of "
                    f"{every} from {every} to {scout}"
                )

    def _processes_divide(self) -> Iterator[str]:
        processes, per_update = self.execution.processes, self.training.batch // self.training.updates_per_batch
        if per_update % processes:
            yield (
                f"execution.processes = {processes} does not divide the {per_update} completions of one update "
                "(prompts_per_step x group_size / updates_per_batch): choose a divisor"
            )
        elif (share := per_update // processes) % min(self.training.micro_batch, share):
            yield (
                f"training.micro_batch = {self.training.micro_batch} does not divide the {share} completions of one "
                f"update that each of execution.processes = {processes} trains on: choose a divisor"
            )
        each = processes // self.execution.nodes
        if processes % self.execution.nodes:
            yield (
                f"execution.nodes = {self.execution.nodes} does not divide execution.processes = {processes}, which "
                "are those of all machines together: choose a multiple of it"
            )
        elif self.execution.nodes > 1 and self.engine.rollouts and each % self.engine.tensor_parallel:
            yield (
                f"engine.tensor_parallel = {self.engine.tensor_parallel} does not divide the "
                f"{each} processes on each of execution.nodes = {self.execution.nodes}: "
                "vLLM splits rollouts inside one machine, choose a divisor"
            )
        if self.execution.sharding != "none" and processes == 1:
            yield (
                f"execution.sharding = {self.execution.sharding} needs processes to split the model among: set "
                "execution.processes to 2 or more, or sharding: none"
            )

    def _enough_problems(self) -> Iterator[str]:
        if isinstance(self.problems, ChainProblems) and self.problems.train < self.training.prompts_per_step:
            yield (
                f"problems.train = {self.problems.train} is less than training.prompts_per_step = "
                f"{self.training.prompts_per_step}: an epoch would have no batch"
            )
        if isinstance(self.problems, ChainProblems) and self.training.max_completion_tokens < self.problems.operands:
            yield (
                f"training.max_completion_tokens = {self.training.max_completion_tokens} is too short for the "
                f"{self.problems.operands - 1} results and the end token of a chain of problems.operands = "
                f"{self.problems.operands}: set at least {self.problems.operands}"
            )
        if isinstance(self.model, BuiltInModel) and not isinstance(self.problems, ChainProblems):
            yield (
                "model.kind = built-in knows only the built-in task: set problems.kind = chain, or "
                "model.kind = pretrained with a path"
            )

    def _engine_can_do_it(self) -> Iterator[str]:
        if self.engine.rollouts and getattr(self.model, "lora", None) is not None:
            yield (
                "engine.rollouts = true would merge the adapters of model.lora into the base at every update and take "
                "them out again, after which it is no longer the same base: set engine.rollouts to false, or train "
                "all weights"
            )
        if getattr(self.model, "lora", None) is not None and self.execution.sharding != "none":
            yield (
                "execution.sharding = fsdp2 splits no adapters (model.lora), which are small: set it to none, so that "
                "each process holds the base and all adapters"
            )
        if self.engine.rollouts and self.execution.processes % self.engine.tensor_parallel:
            yield (
                f"engine.tensor_parallel = {self.engine.tensor_parallel} does not divide execution.processes = "
                f"{self.execution.processes}, among which rollouts split the model: choose a divisor"
            )
        if not self.engine.rollouts and self.training.rollout_correction != RolloutCorrection():
            yield (
                "training.rollout_correction is for completions that vLLM samples, and engine.rollouts = false: leave "
                "it out, or set engine.rollouts to true"
            )
        yield from self._lengths_fit()

    def _lengths_fit(self) -> Iterator[str]:
        most, completion = self.engine.max_model_len, self.training.max_completion_tokens
        prompt = getattr(self.problems, "max_prompt_tokens", None) or 1
        if self.engine.kind == "vllm" and most is not None and most < prompt + completion:
            yield (
                f"engine.max_model_len = {most} has no room for a prompt of {prompt} and a completion of {completion} "
                f"tokens: set at least {prompt + completion}"
            )

    def _mix_fits(self) -> Iterator[str]:
        beside = "mix.replay" if self.mix.replay else "injection.place = append" * (self.injection.place == "append")
        if beside and self.training.kl_coef:
            yield (
                f"{beside} trains on rows beside the batch's groups, which no KL to the base is computed for: set "
                f"training.kl_coef = 0 (now {self.training.kl_coef})"
            )
        if beside and self.training.loss == "bnpo":
            yield (
                f"{beside} with training.loss = bnpo: rows beside the batch would change the weight of each micro "
                "batch; set training.loss to dapo, grpo or dr_grpo"
            )
        yield from self._guide_fits()
        if self.injection.importance_sampling.startswith("shaped") and self.training.kl_coef:
            yield (
                f"injection.importance_sampling = {self.injection.importance_sampling} reshapes log-probabilities, of "
                f"which no KL can be taken: set training.kl_coef = 0 (now {self.training.kl_coef})"
            )
        if self.injection.gate != "pass_rate" and self.injection.tau_gate != Injection().tau_gate:
            yield (
                f"injection.tau_gate = {self.injection.tau_gate} is for injection.gate = pass_rate, and gate = "
                f"{self.injection.gate}: leave one of them out"
            )

    def _rescue_fits(self) -> Iterator[str]:
        now, behind, kinds = self.auto.choice.now, self.auto.probe.behind, {part.kind for part in self.mix.sources}
        if now and "extra-samples" in kinds:
            yield (
                "auto.choice.now = true would draw extra samples of failures, and mix.sources has extra-samples all "
                "the time: leave out one of them"
            )
        if (now or behind) and any(part.kind == "dynamic-sampling" for part in self.mix.prompts):
            name = "auto.choice.now = true" if now else f"auto.probe.behind = {behind}"
            yield (
                f"{name} brings failures back to be rescued, and dynamic-sampling of mix.prompts drops them: leave out "
                "one of them"
            )

    def _teacher_fits(self) -> Iterator[str]:
        teacher, training = self.mix.self_teacher, self.training
        if teacher is None:
            return
        if training.snapshot_every % teacher.sync_every or teacher.sync_every % training.updates_per_batch:
            yield (
                f"mix.self_teacher.sync_every = {teacher.sync_every} has to divide training.snapshot_every = "
                f"{training.snapshot_every}, and to be a multiple of training.updates_per_batch = "
                f"{training.updates_per_batch}, so that a run that is taken up has the same teacher: change one of them"
            )
        if self.execution.sharding != "none":
            yield (
                f"mix.self_teacher computes with whole weights, and execution.sharding = {self.execution.sharding} "
                "splits them: set it to none"
            )

    def _guide_fits(self) -> Iterator[str]:
        guide, every = self.mix.guide, self.training.snapshot_every
        if guide is None:
            return
        for name in ("step", "from_step", "every"):
            if getattr(guide, name, 0) % every:
                yield (
                    f"mix.guide.{name} = {getattr(guide, name)} is no multiple of training.snapshot_every = {every}, "
                    "so there would be no snapshot: change either"
                )
        if guide.from_step >= self.training.steps:
            yield (
                f"mix.guide.from_step = {guide.from_step} leaves nothing of training.steps = {self.training.steps} to "
                "be guided: begin earlier, or train longer"
            )
        if guide.kind == "snapshot" and guide.step > guide.from_step:
            yield (
                f"mix.guide.step = {guide.step} is later than mix.guide.from_step = {guide.from_step}, where the run "
                "has no such snapshot yet: early-bootstrap is what takes guides from ahead"
            )
        if guide.kind == "extrapolated" and guide.step >= guide.from_step:
            yield (
                f"mix.guide.step = {guide.step} is not before mix.guide.from_step = {guide.from_step}, so there is no "
                "line to go on along: choose an earlier step"
            )
        if guide.kind == "extrapolated" and getattr(self.model, "lora", None) is not None:
            yield (
                "mix.guide.kind = extrapolated goes on along a line of weights, and adapters (model.lora) are factors "
                "of them: train all weights, or choose another guide"
            )
        if guide.kind == "traces" and self.injection.importance_sampling in ("guide", "shaped_guide"):
            yield (
                f"injection.importance_sampling = {self.injection.importance_sampling} needs the log-probabilities of "
                "who wrote a completion, and mix.guide.kind = traces has none: set it to off or shaped_policy"
            )

    def _second_opinion_fits(self) -> Iterator[str]:
        if self.guidance.verifier is not None and isinstance(self.problems, ChainProblems):
            yield (
                f"guidance.verifier = {self.guidance.verifier.kind}, but the built-in task (problems.kind = chain) is "
                "verified exactly and needs no second opinion: leave it out, or set problems.kind = data"
            )

    def _tasks_score_their_own(self) -> Iterator[str]:
        if not isinstance(self.problems, DataProblems):
            return
        opinion = [] if self.guidance.verifier is None else [self.guidance.verifier]
        for verifier in [self.problems.verifier, *self.problems.verifiers.values(), *opinion]:
            if any(isinstance(leaf, TaskVerifier) for leaf in leaves(verifier)):
                yield (
                    "a verifier is of kind task, but rows of problems.kind = data belong to no task that could score "
                    "them: take another kind, or function for a scorer of your own"
                )

    def _penalty_is_in_reach(self) -> Iterator[str]:
        most = self.training.max_completion_tokens
        if isinstance(self.problems, ChainProblems):
            return
        for leaf in (leaf for v in [self.problems.verifier, *self.problems.verifiers.values()] for leaf in leaves(v)):
            if isinstance(leaf, LengthVerifier) and leaf.max_tokens - leaf.buffer >= most:
                yield (
                    f"problems.verifier: a length penalizes from {leaf.max_tokens - leaf.buffer} tokens on, but "
                    f"training.max_completion_tokens = {most} is no more: lower its max_tokens or raise its buffer"
                )
