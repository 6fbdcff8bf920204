"""The configuration of a run: closed pydantic models, units in every description.

An unknown field, a value out of bounds or two settings that contradict each other stop a run before it starts.
`load_config` reads YAML; `RunConfig` is also the form that Prefect shows.
"""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from npo_core.errors import ConfigError


def in_order(schema: dict) -> None:
    """Forms show a model's fields as they are declared here, not by name."""
    for position, field in enumerate(schema.get("properties", {}).values()):
        field["position"] = position


class Closed(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False, json_schema_extra=in_order
    )


class ChainProblems(Closed):
    """The built-in task: chain arithmetic modulo 10, generated from a seed."""

    kind: Literal["chain"] = Field("chain", description="the built-in task")
    train: int = Field(8192, ge=8, description="training problems")
    held_out: int = Field(256, ge=1, description="held-out problems, disjoint from training")
    operands: int = Field(6, ge=2, le=16, description="numbers in a chain")
    difficulties: list[int] = Field([3, 4, 5], min_length=1, description="multiplications in a chain, taking turns")
    seed: int = Field(1, ge=0, description="seed that the problems are drawn from")

    @model_validator(mode="after")
    def _difficulty_fits(self) -> Self:
        for difficulty in self.difficulties:
            if not 0 <= difficulty < self.operands:
                raise ValueError(
                    f"problems.difficulties has {difficulty}, but a chain of {self.operands} operands has "
                    f"0 to {self.operands - 1} multiplications: use values in that range"
                )
        return self


class JsonlProblems(Closed):
    """Problems from JSON Lines with a final answer that is compared exactly."""

    kind: Literal["jsonl"] = Field(description="problems of your own")
    train_file: Path = Field(description="JSON Lines file with training problems")
    held_out_file: Path = Field(description="JSON Lines file with held-out problems")
    prompt_field: str = Field("question", description="key of the prompt")
    answer_field: str = Field("answer", description="key of the answer")
    answer_pattern: str = Field(
        r"####\s*(.+)$",
        description="regular expression whose group 1 is the final answer; "
        "the last match counts, in reference and completion alike",
    )
    prompt_template: str = Field("{prompt}", description="text given to the model; {prompt} is replaced")

    @model_validator(mode="after")
    def _patterns_work(self) -> Self:
        if "{prompt}" not in self.prompt_template:
            raise ValueError(
                f"problems.prompt_template = {self.prompt_template!r} does not contain {{prompt}}, so every "
                "problem would be the same: put it where the prompt belongs"
            )
        try:
            groups = re.compile(self.answer_pattern).groups
        except re.error as error:
            raise ValueError(
                f"problems.answer_pattern = {self.answer_pattern!r} is no regular expression: {error}"
            ) from None
        if groups != 1:
            raise ValueError(
                f"problems.answer_pattern = {self.answer_pattern!r} has {groups} groups: exactly one, the final "
                "answer, is needed; write other parentheses as (?:...)"
            )
        return self


Problems = Annotated[ChainProblems | JsonlProblems, Field(discriminator="kind", description="what is asked")]


class BuiltInModel(Closed):
    """A small Qwen3 causal LM trained on imperfect demonstrations of the built-in task."""

    kind: Literal["built-in"] = Field("built-in", description="a small model that is made here")
    layers: int = Field(4, ge=1, description="transformer blocks")
    width: int = Field(96, ge=16, multiple_of=8, description="hidden size")
    heads: int = Field(4, ge=1, description="attention heads, which split the width into even parts")
    steps: int = Field(900, ge=1, description="optimizer updates of supervised training")
    batch: int = Field(64, ge=1, description="demonstrations an update")
    learning_rate: float = Field(1.5e-3, gt=0, description="peak of a one-cycle schedule")
    seed: int = Field(0, ge=0, description="seed of weights, demonstrations and their errors")

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.width % self.heads or self.width // self.heads % 2:
            raise ValueError(
                f"model.heads = {self.heads} does not split model.width = {self.width} into even parts: choose "
                "a number of heads that does"
            )
        return self


class PretrainedModel(Closed):
    """A causal LM in the Hugging Face layout: a folder, or a hub id where the machine reaches a hub."""

    kind: Literal["pretrained"] = Field(description="a model of your own")
    path: str = Field(description="folder or hub id")
    dtype: Literal["float32", "bfloat16"] = Field("bfloat16", description="number format of the weights")


Model = Annotated[
    BuiltInModel | PretrainedModel, Field(discriminator="kind", description="the model that the run starts from")
]


class Training(Closed):
    """GRPO. Field names follow TRL where it has one."""

    steps: int = Field(200, ge=1, description="optimizer updates of the whole run (the abandoned scout not counted)")
    prompts_per_step: int = Field(32, ge=1, description="prompts (groups) of a generation batch")
    group_size: int = Field(8, ge=2, description="completions a prompt, n")
    updates_per_batch: int = Field(1, ge=1, description="optimizer updates on each generation batch")
    micro_batch: int = Field(256, ge=1, description="completions in one forward and backward pass of a process")
    max_completion_tokens: int = Field(6, ge=1, description="tokens a completion may have, EOS included")
    learning_rate: float = Field(2e-4, gt=0, description="AdamW")
    lr_schedule: Literal["constant", "constant_with_warmup", "cosine", "linear"] = Field(
        "constant", description="course of the learning rate over training.steps"
    )
    warmup_steps: int = Field(0, ge=0, description="optimizer updates")
    weight_decay: float = Field(0.01, ge=0, description="AdamW")
    max_grad_norm: float = Field(1.0, gt=0, description="norm to which larger gradients are scaled down")
    clip_low: float = Field(0.2, gt=0, description="epsilon below 1 of the clipped ratio")
    clip_high: float = Field(0.28, gt=0, description="epsilon above 1 of the clipped ratio")
    kl_coef: float = Field(0.0, ge=0, description="weight of the KL to the base model, TRL's beta")
    loss: Literal["dapo", "grpo", "dr_grpo", "bnpo"] = Field("dapo", description="dapo is the token mean")
    scale_rewards: Literal["group", "batch", "none"] = Field(
        "group", description="whose standard deviation the advantages are divided by"
    )
    bf16: bool = Field(False, description="train in bfloat16 mixed precision")
    gradient_checkpointing: bool = Field(
        False, description="compute activations again in the backward pass, which saves memory and costs time"
    )
    snapshot_every: int = Field(20, ge=1, description="optimizer updates between snapshots")

    @property
    def batch(self) -> int:
        """Completions of a generation batch."""
        return self.prompts_per_step * self.group_size

    @model_validator(mode="after")
    def _batches_divide(self) -> Self:
        if self.batch % self.updates_per_batch:
            raise ValueError(
                f"training.updates_per_batch = {self.updates_per_batch} does not divide the {self.batch} "
                "completions of a batch (prompts_per_step x group_size): choose a divisor"
            )
        per_update = self.batch // self.updates_per_batch
        if per_update % min(self.micro_batch, per_update):
            raise ValueError(
                f"training.micro_batch = {self.micro_batch} does not divide the {per_update} completions "
                "of one update: choose a divisor"
            )
        return self


class Injection(Closed):
    """How guidance enters a group."""

    tau_gate: float = Field(0.6, ge=0, le=1, description="a group takes guidance when its on-policy pass rate is below")
    importance_sampling: Literal["off", "guide"] = Field(
        "off", description="ratio of the guide's slot: 1, or pi_policy / pi_guide from the stored log-probabilities"
    )
    baseline: Literal["mixed", "on_policy_only"] = Field(
        "mixed", description="whose mean the advantages are taken against"
    )


class Guidance(Closed):
    """How the guide's trajectories are sampled; always at temperature 1 and top_p 1."""

    samples: int = Field(8, ge=1, description="samples a prompt at most, k")
    samples_per_round: int = Field(2, ge=1, description="samples drawn before the verifier looks")
    keep: Literal["first", "shortest", "closest"] = Field(
        "first",
        description="which correct sample is kept; closest: highest mean log-probability under the rollback policy",
    )
    stop_at_first_correct: bool = Field(True, description="stop sampling a prompt at its first correct answer")
    skip_passed: bool = Field(True, description="skip prompts whose pass rate in the scout segment reached tau_gate")
    chunk_prompts: int = Field(512, ge=1, description="prompts a committed shard; a killed stage loses at most one")

    @model_validator(mode="after")
    def _keep_needs_samples(self) -> Self:
        if self.stop_at_first_correct and self.keep != "first":
            raise ValueError(
                f"guidance.keep = {self.keep} chooses among several correct samples, but "
                "guidance.stop_at_first_correct = true draws no more after the first: set it to false, "
                "or keep: first"
            )
        return self


class EarlyBootstrap(Closed):
    """Early-stage bootstrapping: a scout runs ahead from the base, its checkpoint guides a restart from the base."""

    scout_steps: int = Field(60, ge=1, description="optimizer updates that the scout runs ahead, Delta")
    ladder: list[int] = Field(
        [],
        description="scout steps whose snapshots guide; each prompt takes the nearest later "
        "one that solves it. Empty: the scout's last snapshot alone",
    )
    guided: bool = Field(True, description="false: roll back and replay without guidance, a control")
    fresh_randomness: bool = Field(
        False, description="true: the replay samples anew instead of repeating the scout's random numbers"
    )

    @property
    def guide_steps(self) -> list[int]:
        return sorted(set(self.ladder)) or [self.scout_steps]


class Trigger(Closed):
    """AutoNPO's warning: the moving average of the reward stagnates and that of the entropy keeps falling."""

    ema: float = Field(
        0.9, ge=0, lt=1, description="weight of the past in the moving averages of pass rate and entropy, an update"
    )
    window: int = Field(60, ge=1, description="optimizer updates over which both averages are compared")
    min_gain: float = Field(
        0.04, ge=-1, le=1, description="the pass rate stagnates when it gained less than this over the window"
    )
    min_entropy_drop: float = Field(
        0.0,
        ge=-1,
        le=1,
        description="entropy keeps falling when it lost more than this share of itself over the window",
    )
    warm_up: int = Field(60, ge=0, description="optimizer updates before the first warning")


class Pool(Closed):
    """The mistake pool: prompts that the policy failed lately, part of every snapshot."""

    size: int = Field(2048, ge=1, description="prompts it holds at most; the oldest failures leave first")
    max_pass_rate: float = Field(
        0.25, ge=0, lt=1, description="a prompt is failed when the pass rate of its group is at most this"
    )


class Control(Closed):
    """What a watched run keeps track of."""

    trigger: Trigger = Trigger()
    pool: Pool = Pool()


class Probe(Closed):
    """AutoNPO's confirmation: one rollout of the current policy on the pool; every estimate comes from it."""

    prompts: int = Field(128, ge=1, description="prompts of the pool that are asked at most")
    samples: int = Field(4, ge=1, description="samples a prompt at temperature 1")
    min_solved: float = Field(
        0.1, ge=0, le=1, description="pass rate on past failures below which no intervention is worth it"
    )
    min_prompts: int = Field(
        16, ge=1, description="probed failures since a snapshot below which it is no candidate: Q would be noise"
    )


class Choice(Closed):
    """How far to roll back: the candidate snapshot with the largest S = Q / V."""

    max_delta: int = Field(120, ge=1, description="optimizer updates that a rollback goes back at most")
    kl_form: Literal["token", "sequence"] = Field(
        "token", description="V = exp(kl_scale x KL a token), or with the KL of a whole completion (mean length x KL)"
    )
    kl_scale: float = Field(1.0, ge=0, description="factor of the KL in V")


class AutoNPO(Closed):
    """When the run intervenes by itself, and how far it rolls back."""

    bootstrap: Literal["none", "scout"] = Field(
        "none", description="scout: begin with early-stage bootstrapping as the first intervention"
    )
    approval: Literal["auto", "ask"] = Field(
        "auto", description="ask: suspend before every intervention until somebody accepts or declines"
    )
    control: Control = Control()
    probe: Probe = Probe()
    choice: Choice = Choice()
    cooldown: int = Field(40, ge=0, description="optimizer updates after a decision in which no warning counts")
    max_interventions: int = Field(3, ge=0, description="interventions at most, the bootstrap not counted")
    guided: bool = Field(True, description="false: roll back and replay without guidance, a control")
    fresh_randomness: bool = Field(
        False, description="true: a replay samples anew instead of repeating the abandoned branch's random numbers"
    )
    budget_updates: int | None = Field(
        None, ge=1, description="optimizer updates of all branches together; none: training.steps alone ends the run"
    )
    budget_tokens: int | None = Field(
        None,
        ge=1,
        description="generated tokens of everything together: training, scout, probes, guidance; evaluations left out",
    )


class Plateau(Closed):
    """Late-stage plateau breakthrough: where to roll back to, and which later snapshot guides."""

    branch: str | None = Field(None, description="branch to work on; none: the run's final one")
    rollback_step: int | None = Field(
        None, ge=0, description="step of the snapshot to roll back to; none: where the plateau is found to begin"
    )
    guide_step: int | None = Field(
        None,
        ge=1,
        description="step of the snapshot that guides; the branch is trained on to it if need be; none: the branch's "
        "newest snapshot",
    )
    until: int | None = Field(
        None, ge=1, description="step at which the new branch ends; none: training.steps of the run, or guide_step"
    )
    trigger: Trigger = Field(Trigger(), description="what counts as a plateau where no rollback step is given")
    guided: bool = Field(True, description="false: roll back and replay without guidance, a control")
    fresh_randomness: bool = Field(
        False, description="true: the replay samples anew instead of repeating the old branch's random numbers"
    )

    @model_validator(mode="after")
    def _guide_is_later(self) -> Self:
        if self.rollback_step is not None and self.guide_step is not None and self.guide_step <= self.rollback_step:
            raise ValueError(
                f"plateau.guide_step = {self.guide_step} is not after plateau.rollback_step = {self.rollback_step}: "
                "a guide comes from the future of what it guides"
            )
        return self


class Evaluation(Closed):
    """Pass rate on the held-out problems."""

    every: int = Field(20, ge=1, description="optimizer updates between evaluated snapshots")
    samples: int = Field(4, ge=1, description="samples a problem at temperature 1")
    batch: int = Field(2048, ge=1, description="completions generated at once")
    target: float = Field(0.8, gt=0, lt=1, description="pass rate whose first crossing the report compares")


class Execution(Closed):
    """Where and how stages run."""

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: the GPU where there is one")
    threads: int = Field(1, ge=1, description="CPU threads of a stage")
    start: Literal["auto", "fork", "spawn"] = Field(
        "auto",
        description="fork: from one preloaded parent, starts in "
        "well under a second; spawn: a new interpreter; auto: fork on CPU",
    )
    retries: int = Field(2, ge=0, description="how often an infrastructure failure of a stage is tried again")
    retry_delay: float = Field(5.0, ge=0, description="seconds between tries")


class RunConfig(Closed):
    """Everything that decides a run. `seed` alone makes another replicate of it."""

    name: str = Field("run", pattern=r"^[a-z0-9][a-z0-9-]*$", description="lower-case letters, digits and dashes")
    seed: int = Field(0, ge=0, description="data order and sampling")
    problems: Problems = ChainProblems()
    model: Model = BuiltInModel()
    training: Training = Training()
    injection: Injection = Injection()
    guidance: Guidance = Guidance()
    bootstrap: EarlyBootstrap = EarlyBootstrap()
    auto: AutoNPO = AutoNPO()
    evaluation: Evaluation = Evaluation()
    execution: Execution = Execution()

    @model_validator(mode="before")
    @classmethod
    def _default_kinds(cls, values: object) -> object:
        """`kind` may be left out where the built-in one is meant."""
        if not isinstance(values, dict):
            return values
        kinds = {"problems": "chain", "model": "built-in"}
        filled = {f: {"kind": kind, **values[f]} for f, kind in kinds.items() if isinstance(values.get(f), dict)}
        return values | filled

    @model_validator(mode="after")
    def _steps_agree(self) -> Self:
        every, scout = self.training.snapshot_every, self.bootstrap.scout_steps
        for name, value in [
            ("bootstrap.scout_steps", scout),
            ("training.steps", self.training.steps),
            ("evaluation.every", self.evaluation.every),
        ]:
            if value % every:
                raise ValueError(
                    f"{name} = {value} is no multiple of training.snapshot_every = {every}, so there "
                    "would be no snapshot to use: change either"
                )
        if scout > self.training.steps:
            raise ValueError(
                f"bootstrap.scout_steps = {scout} is more than training.steps = {self.training.steps}: "
                "the replay would outlast the run; shorten the scout or train longer"
            )
        for step in self.bootstrap.ladder:
            if step % every or not 0 < step <= scout:
                raise ValueError(
                    f"bootstrap.ladder has {step}: guides are snapshots of the scout, at multiples of "
                    f"{every} from {every} to {scout}"
                )
        return self

    @model_validator(mode="after")
    def _enough_problems(self) -> Self:
        if isinstance(self.problems, ChainProblems) and self.problems.train < self.training.prompts_per_step:
            raise ValueError(
                f"problems.train = {self.problems.train} is less than training.prompts_per_step = "
                f"{self.training.prompts_per_step}: an epoch would have no batch"
            )
        if isinstance(self.problems, ChainProblems) and self.training.max_completion_tokens < self.problems.operands:
            raise ValueError(
                f"training.max_completion_tokens = {self.training.max_completion_tokens} is too short for the "
                f"{self.problems.operands - 1} results and the end token of a chain of problems.operands = "
                f"{self.problems.operands}: set at least {self.problems.operands}"
            )
        if isinstance(self.model, BuiltInModel) and not isinstance(self.problems, ChainProblems):
            raise ValueError(
                "model.kind = built-in knows only the built-in task: set problems.kind = chain, or "
                "model.kind = pretrained with a path"
            )
        return self


CHOSEN_BY_KIND = {("problems",), ("model",)}  # pydantic names the kind after these, which nobody writes


def explain(error: ValidationError, source: str) -> str:
    """One sentence a problem: field, value, what would be right."""
    lines = []
    for problem in error.errors():
        parts = problem["loc"][:1] + problem["loc"][2:] if problem["loc"][:1] in CHOSEN_BY_KIND else problem["loc"]
        field = ".".join(str(part) for part in parts) or "the configuration"
        if problem["type"] == "extra_forbidden":
            lines.append(f"{field}: there is no such field; `npo config` lists them")
        elif problem["type"] == "value_error":
            lines.append(problem["msg"].removeprefix("Value error, "))
        elif problem["type"] == "missing":
            lines.append(f"{field}: a value is needed; `npo config` explains the field")
        else:
            lines.append(f"{field} = {problem['input']!r}: {problem['msg']}")
    return f"{source} is not a valid configuration:\n  " + "\n  ".join(lines)


def parse_config(values: object, source: str = "The given configuration") -> RunConfig:
    """Validate plain values.

    Raises:
        ConfigError: one line for each wrong field.
    """
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(explain(error, source)) from None


def parse_plateau(values: dict[str, object]) -> Plateau:
    """Validate the settings of a plateau breakthrough, by field of `Plateau`.

    Raises:
        ConfigError: one line for each wrong field.
    """
    try:
        return TypeAdapter(dict[str, Plateau]).validate_python({"plateau": values})["plateau"]
    except ValidationError as error:
        raise ConfigError(explain(error, "The given plateau")) from None


def load_config(path: str | Path, overrides: dict | None = None) -> RunConfig:
    """Read a YAML file; `overrides` maps dotted fields to values that win over it.

    Raises:
        ConfigError: the file is missing, not YAML, or not a valid configuration.
    """
    try:
        values = yaml.safe_load(Path(path).read_text()) or {}
    except OSError as error:
        raise ConfigError(
            f"The configuration {path} cannot be read ({error.strerror}): name a YAML file, for example "
            "deployments/configs/demo.yaml."
        ) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"The configuration {path} is not YAML: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"The configuration {path} holds {type(values).__name__}, not fields with values.")
    return parse_config(override(values, overrides or {}), str(path))


def override(values: dict, changes: dict[str, object]) -> dict:
    """Set dotted fields in nested plain values, in place; the values.

    Raises:
        ConfigError: what should be a group of fields is a value.
    """
    for dotted, value in changes.items():
        *parents, leaf = dotted.split(".")
        node = values
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ConfigError(
                    f"{dotted}: {parent} is a value ({node!r}), not a group of fields; `npo config` lists them."
                )
        node[leaf] = value
    return values
