"""When a run intervenes: AutoNPO's settings, and those of a plateau breakthrough."""

from typing import Literal, Self

from pydantic import Field, model_validator

from npo_core.config.closed import Closed


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
        0.02, ge=0, le=1, description="pass rate on past failures below which no intervention is worth it"
    )
    min_prompts: int = Field(
        16, ge=1, description="probed failures since a snapshot below which it is no candidate: Q would be noise"
    )
    batch: int | None = Field(
        None,
        ge=1,
        exclude_if=lambda batch: batch is None,
        description="completions generated at once, which decides the memory; none: all of them",
    )
    behind: int = Field(
        0,
        ge=0,
        exclude_if=lambda number: number == 0,
        description="earlier snapshots that are asked as well, at most: candidates to guide without a rollback "
        "(Delta < 0)",
    )


class Choice(Closed):
    """What an intervention does: the candidate with the largest S = Q / V, or with the most solved a token."""

    rule: Literal["signal", "signal_per_price"] = Field(
        "signal",
        exclude_if=lambda rule: rule == "signal",
        description="signal: the largest S, as published; signal_per_price: the largest S x failures in reach / tokens",
    )
    now: bool = Field(
        False,
        exclude_if=lambda on: not on,
        description="Delta = 0 is a candidate: no rollback, more samples of the current policy for its failures",
    )
    max_delta: int = Field(120, ge=1, description="optimizer updates that a rollback goes back at most")
    kl_form: Literal["token", "sequence"] = Field(
        "token", description="V = exp(kl_scale x KL a token), or with the KL of a whole completion (mean length x KL)"
    )
    kl_scale: float = Field(1.0, ge=0, description="factor of the KL in V")
    kl_estimator: Literal["k1", "k3"] = Field(
        "k1",
        description="with log r = log p_snapshot - log p_current, k1 is the mean of -log r; k3, the mean of "
        "r - 1 - log r, is never negative, but a few unlikely tokens move it",
    )


class Rescue(Closed):
    """An intervention without a rollback: failures come again, and extra samples or an earlier snapshot guide them.

    It ends at the first snapshot at which all failures are solved, or Q has fallen below `probe.min_solved`: of the
    failures that came again in the last `window` batches, the share that a completion or a trajectory solved.
    """

    updates: int = Field(60, ge=1, description="optimizer updates that it lasts at most")
    share: float = Field(0.5, gt=0, le=1, description="share of training.prompts_per_step for failures, at most")
    chunks: int = Field(
        1, ge=1, description="Delta = 0: rounds of training.group_size samples of a dead group's prompt at most"
    )
    window: int = Field(10, ge=1, description="batches over which Q is looked at")


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
    rescue: Rescue = Field(Rescue(), exclude_if=lambda rescue: rescue == Rescue())
    cooldown: int = Field(
        40,
        ge=0,
        description="optimizer updates after a decision in which no warning counts; doubled by every decision in a row "
        "that did not intervene",
    )
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

    @model_validator(mode="after")
    def _unguided_is_a_rollback(self) -> Self:
        if not self.guided and (self.choice.now or self.probe.behind):
            field = "choice.now = true" if self.choice.now else f"probe.behind = {self.probe.behind}"
            raise ValueError(
                f"auto.{field} needs a guide, and auto.guided = false is the control that rolls back without one: "
                "leave out one of them"
            )
        return self


class Plateau(Closed):
    """Late-stage plateau breakthrough: where to roll back to, and which later snapshot guides."""

    guide_step: int | None = Field(
        None,
        ge=1,
        description="step of the snapshot that guides; the branch is trained on to it if need be; none: the branch's "
        "newest snapshot",
    )
    rollback_step: int | None = Field(
        None, ge=0, description="step of the snapshot to roll back to; none: where the plateau is found to begin"
    )
    branch: str | None = Field(None, description="branch to work on; none: the run's final one")
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
