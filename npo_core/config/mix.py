"""What is mixed into GRPO: sources of trajectories, rows beside the batch, and which prompts a batch asks."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from npo_core.config.closed import Closed, choices


class SnapshotGuide(Closed):
    """A past self: an earlier snapshot of this run writes a cache for what is asked from `from_step` on."""

    kind: Literal["snapshot"] = Field(description="an earlier snapshot of this run")
    step: int = Field(0, ge=0, description="its optimizer update; 0: the base")
    from_step: int = Field(ge=0, description="optimizer update up to which the run trains without it")


class NearestGuide(Closed):
    """Any past self: of each prompt, the nearest earlier snapshot of this run that solves it."""

    kind: Literal["nearest"] = Field(description="the nearest earlier snapshot that solves a prompt")
    by: Literal["time", "kl"] = Field(
        "time", description="time: the newest first; kl: by KL(snapshot || policy), measured on 64 prompts"
    )
    every: int = Field(20, ge=1, description="optimizer updates between snapshots that are asked")
    from_step: int = Field(ge=1, description="optimizer update up to which the run trains without it")


class ExtrapolatedGuide(Closed):
    """Weights beyond the present ones, on the line from an earlier snapshot: w_now + horizon x (w_now - w_step)."""

    kind: Literal["extrapolated"] = Field(description="weights extrapolated from two snapshots")
    step: int = Field(ge=0, description="optimizer update of the earlier snapshot; the later one is from_step's")
    horizons: tuple[float, ...] = Field(
        (1.0,), min_length=1, description="how far beyond, in distances of the two, asked in turn"
    )
    from_step: int = Field(ge=1, description="optimizer update up to which the run trains without it")

    @field_validator("horizons")
    @classmethod
    def _beyond(cls, horizons: tuple[float, ...]) -> tuple[float, ...]:
        if any(horizon <= 0 for horizon in horizons):
            raise ValueError(
                f"mix.guide.horizons = {list(horizons)}: each has to be above 0, where the later snapshot is"
            )
        return horizons


class ModelGuide(Closed):
    """An external teacher, with the tokenizer of the run's model."""

    kind: Literal["model"] = Field(description="another model, or this one with adapters")
    path: str = Field(description="folder or hub id")
    from_step: int = Field(0, ge=0, description="optimizer update up to which the run trains without it")


class TracesGuide(Closed):
    """Completions that somebody wrote: verified, and tokenized with the run's tokenizer and end token."""

    kind: Literal["traces"] = Field(description="a file of completions")
    path: str = Field(description="JSON Lines or Parquet file")
    prompt: str = Field("prompt", description="column with the prompt, as the model sees it, or a problem's id")
    completion: str = Field("completion", description="column with the text")
    origin: str | None = Field(None, description="column that says where a completion is from; none: the file's name")
    from_step: int = Field(0, ge=0, description="optimizer update up to which the run trains without it")


Guide = Annotated[
    SnapshotGuide | NearestGuide | ExtrapolatedGuide | ModelGuide | TracesGuide,
    Field(discriminator="kind", json_schema_extra=choices),
]


class ExtraSamples(Closed):
    """The current policy, asked again about prompts that it failed (Delta = 0): no rollback, no other weights."""

    kind: Literal["extra-samples"] = Field(description="more samples of the current policy")
    chunks: int = Field(
        1, ge=1, description="rounds of training.group_size samples a prompt at most; a solved prompt is asked no more"
    )
    from_step: int = Field(
        0, ge=0, exclude_if=lambda step: step == 0, description="optimizer update after which it begins"
    )
    budget: int | None = Field(None, ge=1, description="extra samples a batch at most; none: chunks alone bounds them")
    choice: Literal["all", "history", "bandit"] = Field(
        "all",
        description="whom to rescue first where the budget is short. all: in the order of the batch; history: the "
        "highest pass rate over earlier visits; bandit: the most successes a token among earlier samples",
    )
    decay: float = Field(0.9, ge=0, le=1, description="weight of an earlier visit in a prompt's history, a visit")


class PastSuccesses(Closed):
    """The policy's own correct completions of earlier updates, from the success store."""

    kind: Literal["past-successes"] = Field(description="what the success store holds")
    pick: Literal["newest", "likeliest"] = Field(
        "newest", description="likeliest: of the highest mean log-probability when it was sampled (ExGRPO's, estimated)"
    )


class PluginSource(Closed):
    """A source of your own: a class in a module that can be imported, see docs/mix.md."""

    kind: Literal["plugin"] = Field(description="a class of your own")
    path: str = Field(pattern=r"^[\w.]+:\w+$", description="module:class")
    settings: dict[str, Any] = Field({}, description="keyword arguments of the class")


Source = Annotated[ExtraSamples | PastSuccesses | PluginSource, Field(discriminator="kind", json_schema_extra=choices)]


class SuccessStore(Closed):
    """Correct completions of the policy by prompt, kept in every snapshot."""

    max_pass_rate: float = Field(
        0.25, gt=0, le=1, description="a group's correct completions are stored where its pass rate is at most this"
    )
    drop_above: float = Field(
        0.5, ge=0, le=1, description="a prompt leaves the store at a visit with a pass rate above this"
    )
    keep: int = Field(1, ge=1, description="completions a prompt, the newest")
    size: int = Field(20_000, ge=1, description="prompts at most; those not visited for longest leave first")

    @model_validator(mode="after")
    def _kept_is_not_dropped(self) -> Self:
        if self.drop_above < self.max_pass_rate:
            raise ValueError(
                f"mix.store.drop_above = {self.drop_above} is below mix.store.max_pass_rate = {self.max_pass_rate}: "
                "what is stored would be dropped at once; set drop_above to at least max_pass_rate"
            )
        return self


class Replay(Closed):
    """Replay of rare successes: stored completions trained on again, as rows beside the batch's groups."""

    rows: int = Field(8, ge=1, description="stored completions an update at most, of prompts outside the batch")
    weight: float = Field(
        2.0, gt=0, description="c: a row weighs as c times the one right completion of a group of training.group_size"
    )
    max_pass_rate: float = Field(0.25, gt=0, le=1, description="pass rate at the prompt's last visit, at most")
    max_age: int = Field(120, ge=1, description="updates since it was sampled, at most")
    ratio: Literal["off", "clip"] = Field(
        "off", description="clip: the clipped ratio to the log-probabilities recorded when it was sampled"
    )


class SelfTeacher(Closed):
    """RLSD (arXiv 2604.03128): the policy itself, with the reference answer in its prompt, weighs each token."""

    weight: float = Field(0.5, gt=0, le=1, description="lambda: the teacher's part of an advantage at the beginning")
    decay_steps: int = Field(50, ge=1, description="optimizer updates over which lambda falls to 0")
    clip: float = Field(0.2, gt=0, lt=1, description="a token's weight is at most so far from 1")
    sync_every: int = Field(
        10, ge=1, description="optimizer updates after which the teacher takes the policy's weights"
    )
    template: str | None = Field(
        None,
        description="the teacher's prompt, with {prompt} and {answer}; none: the answer before the prompt. A chat "
        "template is applied before",
    )

    @field_validator("template")
    @classmethod
    def _has_both(cls, template: str | None) -> str | None:
        if template is not None and not {"{prompt}", "{answer}"} <= set(re.findall(r"{\w*}", template)):
            raise ValueError(
                f"mix.self_teacher.template = {template!r} needs {{prompt}} and {{answer}}, where they are to go"
            )
        return template


class PromptSource(Closed):
    """What every source of prompts has: how many places of a batch it may fill, and from when on."""

    share: float = Field(0.5, gt=0, le=1, description="share of training.prompts_per_step that it fills at most")
    from_step: int = Field(0, ge=0, description="optimizer update after which it begins")


class MistakePool(PromptSource):
    """Prompts that the policy failed come again before their turn."""

    kind: Literal["mistake-pool"] = Field(description="prompts that were failed")
    grow_steps: int = Field(0, ge=0, description="updates over which the share grows from nothing; 0: whole at once")
    max_pass_rate: float = Field(0.0, ge=0, lt=1, description="a prompt enters at a pass rate of at most this")
    leave_above: float = Field(0.5, ge=0, le=1, description="it leaves at a visit with a pass rate above this")
    without_success: bool = Field(
        True, description="it leaves as well once the success store has a completion of it (where there is a store)"
    )


class ReviewQueue(PromptSource):
    """ReMind's queue (arXiv 2606.03087): prompts once all right come again; all right again they leave."""

    kind: Literal["review-queue"] = Field(description="prompts that were solved")
    share: float = Field(0.1, gt=0, le=1, description="share of training.prompts_per_step that it fills at most")
    from_step: int = Field(50, ge=0, description="optimizer update after which it begins")
    every: int = Field(5, ge=1, description="updates between reviews")
    probability: float = Field(0.25, gt=0, le=1, description="chance that an all-right prompt enters")
    size: int = Field(20_000, ge=1, description="prompts at most; the queue takes no more then")


class SuccessBuckets(PromptSource):
    """ExGRPO's pool (arXiv 2510.02245): prompts of the success store, mostly those that half of a group solves."""

    kind: Literal["success-buckets"] = Field(description="prompts with stored successes, by how often they were solved")
    start_above: float = Field(0.35, ge=0, le=1, description="it begins at a batch with a pass rate above this")
    sigma: float = Field(1.0, gt=0, description="width of the normal density around half a group, in completions")


class DynamicSampling(Closed):
    """DAPO's dynamic sampling: dead groups are dropped and the batch is filled up with others."""

    kind: Literal["dynamic-sampling"] = Field(description="no dead groups")
    rounds: int = Field(4, ge=1, description="times that the batch is filled up at most")


class Rest(Closed):
    """Prompts that were all right several times in a row rest; others take their places."""

    kind: Literal["rest"] = Field(description="solved prompts rest")
    after: int = Field(2, ge=1, description="all-right visits in a row before a prompt rests")
    visits: int = Field(2, ge=1, description="turns that it is not asked for")


Prompts = Annotated[
    MistakePool | ReviewQueue | SuccessBuckets | DynamicSampling | Rest,
    Field(discriminator="kind", json_schema_extra=choices),
]


class Mix(Closed):
    """What is mixed into GRPO besides a guidance cache; how it enters a group is `injection`'s matter."""

    guide: Guide | None = Field(None, description="who writes a cache in the recipe grpo; none: nobody")
    sources: tuple[Source, ...] = Field((), description="asked in turn, after the guidance cache if there is one")
    store: SuccessStore | None = Field(None, description="success store; none: the policy's successes are not kept")
    replay: Replay | None = Field(None, description="replay of rare successes; none: no rows beside the batch")
    self_teacher: SelfTeacher | None = Field(
        None,
        exclude_if=lambda teacher: teacher is None,
        description="weighs tokens; none: every token of a row has its advantage",
    )
    prompts: tuple[Prompts, ...] = Field((), description="which prompts a batch asks; none: the data's order alone")

    @model_validator(mode="after")
    def _parts_go_together(self) -> Self:
        chosen: dict[str, list[str]] = {
            "sources": [source.kind for source in self.sources if source.kind != "plugin"],
            "prompts": [source.kind for source in self.prompts],
        }
        for part, kinds in chosen.items():
            if twice := next((kind for kind in kinds if kinds.count(kind) > 1), None):
                raise ValueError(f"mix.{part} has {twice} twice: keep one of them")
        if self.store is None:
            if who := self._needs_store(chosen):
                raise ValueError(f"{who} takes completions from the success store, and there is none: give mix.store")
        elif self.replay is not None and self.replay.max_pass_rate > self.store.drop_above:
            raise ValueError(
                f"mix.replay.max_pass_rate = {self.replay.max_pass_rate} is above mix.store.drop_above = "
                f"{self.store.drop_above}, where the store has dropped the prompt: lower it, or raise drop_above"
            )
        if sum(getattr(source, "share", 0) for source in self.prompts) > 1:
            raise ValueError("mix.prompts: the shares add up to more than the whole batch: lower one of them")
        return self

    def _needs_store(self, chosen: dict[str, list[str]]) -> str | None:
        if self.replay is not None:
            return "mix.replay"
        named = [(f"mix.{part}: {kind}", kind) for part, kinds in chosen.items() for kind in kinds]
        return next((name for name, kind in named if kind in ("past-successes", "success-buckets")), None)

    @property
    def online(self) -> bool:
        """Whether the trainer mixes in anything but a cache."""
        return self.model_copy(update={"guide": None}) != Mix()

    @property
    def in_training(self) -> "Mix":
        """What decides a training stage: who wrote its cache is in the cache."""
        return self.model_copy(update={"guide": None})
