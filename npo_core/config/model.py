"""What is trained."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from npo_core.config.closed import Closed, choices


class BaseBounds(Closed):
    """What a built-in base has to be like; one that is not stops the run when it is made."""

    dead_groups: float | None = Field(
        None, ge=0, le=1, description="share of groups of 8 without a right completion, at least"
    )
    hard_right: list[float] | None = Field(
        None,
        min_length=2,
        max_length=2,
        description="bounds of the chance that a hard product comes out right where it is met",
    )


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
    bounds: BaseBounds | None = Field(
        None, exclude_if=lambda bounds: bounds is None, description="looked at when the base is made; none: any base"
    )

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.width % self.heads or self.width // self.heads % 2:
            raise ValueError(
                f"model.heads = {self.heads} does not split model.width = {self.width} into even parts: choose "
                "a number of heads that does"
            )
        return self


class Lora(Closed):
    """Low-rank adapters: the model's own weights stay as they are, and snapshots hold the adapters alone."""

    rank: int = Field(
        16, ge=1, description="rank of each adapter, r; without any field of lora all weights are trained"
    )
    alpha: float = Field(32.0, gt=0, description="an adapter's output is scaled by alpha / rank")
    dropout: float = Field(
        0.0, ge=0, lt=1, description="share of an adapter's inputs that training, its rollouts included, sets to 0"
    )
    targets: list[Annotated[str, Field(min_length=1)]] = Field(
        [], description="names of the linear layers to adapt, such as q_proj; none: all but the output layer"
    )
    vision: bool = Field(False, description="adapt a vision-language model's vision layers as well")


class PretrainedModel(Closed):
    """A language or vision-language model in the Hugging Face layout: a folder, or a hub id where a hub is reached."""

    kind: Literal["pretrained"] = Field(description="a model of your own")
    path: str = Field(description="folder or hub id")
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="number format of the weights, which are stored and trained in it; with float32, training.bf16 "
        "computes in bfloat16 and small updates are not rounded away",
    )
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = Field(
        "auto",
        exclude_if=lambda attention: attention == "auto",
        description="implementation of attention in training and generation; auto: the model's own choice",
    )
    lora: Lora | None = Field(
        None, exclude_if=lambda lora: lora is None, description="train adapters alone; none: train all weights"
    )


Model = Annotated[
    BuiltInModel | PretrainedModel,
    Field(discriminator="kind", description="the model that the run starts from", json_schema_extra=choices),
]
