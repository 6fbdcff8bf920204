"""How it is trained, guided, evaluated, and where its stages run."""

from typing import Literal, Self

from pydantic import Field, model_validator

from npo_core.config.closed import Closed
from npo_core.config.verifier import OpinionVerifier


class RolloutCorrection(Closed):
    """Importance sampling of completions that vLLM sampled: the ratio of the trainer's probability to vLLM's is a
    weight in the loss; see docs/engines.md."""

    level: Literal["off", "token", "sequence"] = Field(
        "sequence", description="whose ratio. token: each token's; sequence: a completion's; off: no correction"
    )
    beyond: Literal["truncate", "mask"] = Field(
        "mask", description="a ratio above cap counts as cap (truncate), or is not trained on (mask)"
    )
    cap: float = Field(3.0, ge=1, description="largest ratio that counts as it is")

    @model_validator(mode="after")
    def _off_has_no_cap(self) -> Self:
        if self.level == "off" and (self.beyond, self.cap) != ("mask", 3.0):
            raise ValueError(
                f"training.rollout_correction.level = off corrects nothing, so beyond = {self.beyond} and cap = "
                f"{self.cap:g} would have no effect: leave both out, or set level to token or sequence"
            )
        return self


class Training(Closed):
    """GRPO. Field names follow TRL where it has one."""

    steps: int = Field(200, ge=1, description="optimizer updates of the whole run (the abandoned scout not counted)")
    prompts_per_step: int = Field(32, ge=1, description="prompts (groups) of a generation batch")
    group_size: int = Field(8, ge=2, description="completions a prompt, n")
    updates_per_batch: int = Field(1, ge=1, description="optimizer updates on each generation batch")
    micro_batch: int = Field(256, ge=1, description="completions in one forward and backward pass of a process")
    generation_batch: int | None = Field(
        None,
        ge=1,
        exclude_if=lambda rows: rows is None,
        description="completions that a process samples at once in a rollout, which bounds its KV cache; none: all",
    )
    max_completion_tokens: int = Field(6, ge=1, description="tokens a completion may have, EOS included")
    learning_rate: float = Field(2e-4, gt=0, description="AdamW")
    lr_schedule: Literal["constant", "constant_with_warmup", "cosine", "linear"] = Field(
        "constant", description="course of the learning rate over training.steps"
    )
    warmup_steps: int = Field(0, ge=0, description="optimizer updates")
    weight_decay: float = Field(0.01, ge=0, description="AdamW")
    adam_beta2: float = Field(
        0.999, gt=0, lt=1, exclude_if=lambda beta: beta == 0.999, description="AdamW's memory of squared gradients"
    )
    max_grad_norm: float = Field(1.0, gt=0, description="norm to which larger gradients are scaled down")
    clip_low: float = Field(0.2, gt=0, description="epsilon below 1 of the clipped ratio")
    clip_high: float = Field(0.28, gt=0, description="epsilon above 1 of the clipped ratio")
    kl_coef: float = Field(0.0, ge=0, description="weight of the KL to the base model, TRL's beta")
    loss: Literal["dapo", "grpo", "dr_grpo", "bnpo"] = Field("dapo", description="dapo is the token mean")
    scale_rewards: Literal["group", "batch", "none"] = Field(
        "group", description="whose standard deviation the advantages are divided by"
    )
    rollout_correction: RolloutCorrection = Field(
        RolloutCorrection(),
        exclude_if=lambda correction: correction == RolloutCorrection(),
        description="how the loss corrects for vLLM's log-probabilities, where it samples (engine.rollouts)",
    )
    bf16: bool = Field(False, description="train in bfloat16 mixed precision")
    gradient_checkpointing: bool = Field(
        False, description="compute activations again in the backward pass, which saves memory and costs time"
    )
    snapshot_every: int = Field(20, ge=1, description="optimizer updates between snapshots")
    log_completions: int = Field(
        0,
        ge=0,
        exclude_if=lambda groups: groups == 0,
        description="groups of each generation batch whose completions are kept for `npo samples`; 0: none",
    )

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
    """How a trajectory enters a group: which groups take one (gate), where (place), and how its tokens enter the loss
    (importance_sampling); see docs/mix.md."""

    gate: Literal["pass_rate", "dead", "every"] = Field(
        "pass_rate",
        exclude_if=lambda gate: gate == "pass_rate",
        description="which groups take a trajectory. pass_rate: those below tau_gate; dead: those without a right "
        "completion; every: all",
    )
    tau_gate: float = Field(0.6, ge=0, le=1, description="a group takes guidance when its on-policy pass rate is below")
    start_above: float | None = Field(
        None,
        ge=0,
        le=1,
        exclude_if=lambda rate: rate is None,
        description="the gate stays shut in batches whose pass rate is not above this; none: it does not matter",
    )
    place: Literal["last", "random_wrong", "append"] = Field(
        "last",
        exclude_if=lambda place: place == "last",
        description="where it goes. last: the last completion gives way; random_wrong: one of the wrong ones; append: "
        "the group grows",
    )
    slots: int = Field(
        1,
        ge=1,
        exclude_if=lambda slots: slots == 1,
        description="trajectories a group takes, with place = append; a prompt with fewer takes none",
    )
    importance_sampling: Literal["off", "guide", "shaped_guide", "shaped_policy"] = Field(
        "off",
        description="ratio of its tokens. off: 1; guide: pi_policy / pi_guide from the stored log-probabilities, "
        "clipped; shaped_guide: x / (x + gamma) of that ratio, not clipped (ExGRPO); shaped_policy: the same of "
        "pi_policy (LUFFY)",
    )
    gamma: float = Field(0.1, gt=0, exclude_if=lambda gamma: gamma == 0.1, description="of the shaped ratios")
    baseline: Literal["mixed", "on_policy_only"] = Field(
        "mixed", description="whose mean the advantages are taken against"
    )

    @model_validator(mode="after")
    def _slots_are_appended(self) -> Self:
        if self.slots > 1 and self.place != "append":
            raise ValueError(
                f"injection.slots = {self.slots} is for injection.place = append, and place = {self.place} takes one "
                "completion's place: set slots to 1, or place to append"
            )
        return self


class Guidance(Closed):
    """How the guide's trajectories are sampled; always at temperature 1 and top_p 1."""

    samples: int = Field(8, ge=1, description="samples a prompt at most, k")
    samples_per_round: int = Field(2, ge=1, description="samples drawn before the verifier looks")
    keep: Literal["first", "shortest", "closest"] = Field(
        "first",
        description="which correct sample is kept; closest: highest mean log-probability under the rollback policy",
    )
    keep_most: int = Field(
        1, ge=1, exclude_if=lambda most: most == 1, description="correct samples kept a prompt at most, best by `keep`"
    )
    stop_at_first_correct: bool = Field(True, description="stop sampling a prompt at its first correct answer")
    skip_passed: bool = Field(True, description="skip prompts whose pass rate in the scout segment reached tau_gate")
    chunk_prompts: int = Field(
        512, ge=1, description="prompts a committed shard; a killed stage loses at most two of each process"
    )
    batch: int | None = Field(
        None,
        ge=1,
        exclude_if=lambda batch: batch is None,
        description="completions generated at once, of the prompts of a chunk; none: a round of all of them",
    )
    accept_fallback: bool = Field(
        False,
        exclude_if=lambda on: not on,
        description="take also samples that are right only by a verifier's fallback, their last number or formula",
    )
    verifier: OpinionVerifier | None = Field(
        None,
        exclude_if=lambda verifier: verifier is None,
        description="a second opinion: what the problems' verifier finds right is guidance only if this one does, too",
    )

    @model_validator(mode="after")
    def _keep_needs_samples(self) -> Self:
        if self.stop_at_first_correct and self.keep_most > 1:
            raise ValueError(
                f"guidance.keep_most = {self.keep_most} keeps several correct samples, but "
                "guidance.stop_at_first_correct = true draws no more after the first: set it to false, or keep_most: 1"
            )
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
    far_future: bool = Field(
        False,
        exclude_if=lambda on: not on,
        description="the scout runs to training.steps, whatever scout_steps says: its end guides the whole run",
    )
    guided: bool = Field(True, description="false: roll back and replay without guidance, a control")
    fresh_randomness: bool = Field(
        False, description="true: the replay samples anew instead of repeating the scout's random numbers"
    )


class Evaluation(Closed):
    """Pass rate on the held-out problems."""

    every: int = Field(20, ge=1, description="optimizer updates between evaluated snapshots")
    samples: int = Field(4, ge=1, description="samples a problem at temperature 1")
    batch: int = Field(2048, ge=1, description="completions generated at once")
    benchmarks: Literal["last", "all"] = Field(
        "last", description="which evaluated snapshots are asked problems.benchmarks as well"
    )
    target: float = Field(0.8, gt=0, lt=1, description="pass rate whose first crossing the report compares")


class Execution(Closed):
    """Where and how stages run."""

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: the GPU where there is one")
    processes: int = Field(
        1, ge=1, description="processes of a training stage, which share each batch: one a GPU, or that many on the CPU"
    )
    nodes: int = Field(
        1,
        ge=1,
        exclude_if=lambda number: number == 1,
        description="machines that the processes of a stage are spread over evenly; the others run `npo join`",
    )
    lost_after: float = Field(
        60.0,
        ge=5,
        exclude_if=lambda seconds: seconds == 60.0,
        description="seconds without a sign of another of the `nodes` after which the stage ends, to be tried again",
    )
    generation_processes: int | None = Field(
        None,
        ge=1,
        exclude_if=lambda number: number is None,
        description="processes of all machines that guidance, probes and evaluation are dealt out among, one a GPU, or "
        "for each engine.tensor_parallel of them; none: as many as there are GPUs, 1 a machine without one",
    )
    sharding: Literal["none", "fsdp2"] = Field(
        "none",
        description="none: each training process holds the whole model (DDP); fsdp2: weights, gradients and optimizer "
        "are split among them",
    )
    deterministic: bool = Field(
        False,
        exclude_if=lambda on: not on,
        description="true: on a GPU only kernels that add in a fixed order, so that a replay can be the original bit "
        "for bit; slower. On CPU every replay is",
    )
    threads: int = Field(1, ge=1, description="CPU threads of a stage, of each process where it has several")
    start: Literal["auto", "fork", "spawn"] = Field(
        "auto",
        description="fork: from one preloaded parent, starts in "
        "well under a second; spawn: a new interpreter; auto: fork on CPU",
    )
    verifier_workers: int = Field(
        2, ge=1, description="processes that verify answers of each process, where the verifier may hang or crash"
    )
    max_outages: float = Field(
        0.1, ge=0, lt=1, description="share of a batch's answers that may time out or crash before the stage stops"
    )
    accept_changed_functions: bool = Field(
        False,
        exclude_if=lambda on: not on,
        description="go on with a run though the module of a function that verifies changed since it began",
    )
    retries: int = Field(2, ge=0, description="how often an infrastructure failure of a stage is tried again")
    retry_delay: float = Field(5.0, ge=0, description="seconds between tries")
