"""What completions are generated with."""

from typing import Literal, Self

from pydantic import Field

from npo_core.config.closed import Closed


class EngineSettings(Closed):
    """What generates: guidance, probes and evaluation by `kind`, training rollouts by `rollouts`."""

    kind: Literal["transformers", "vllm"] = Field(
        "transformers", description="what generates guidance, probes and evaluation"
    )
    python: str = Field("", description="interpreter of the environment that has vLLM; empty: the one of the stage")
    tensor_parallel: int = Field(1, ge=1, description="GPUs that vLLM splits the model over")
    memory: float = Field(0.6, gt=0, lt=1, description="share of a GPU's memory that vLLM takes in a stage")
    max_model_len: int | None = Field(
        None, ge=2, description="tokens of a prompt and its completion; none: what the model and the memory allow"
    )
    max_kl: float = Field(
        0.005,
        gt=0,
        description="KL, nats a token, from vLLM to the trainer's model, above which weights are taken to be stale",
    )
    rollouts: bool = Field(
        False, description="true: training samples with vLLM too, on the trainer's GPUs (TRL's colocated mode)"
    )
    rollout_memory: float = Field(
        0.3, gt=0, lt=1, description="share of a GPU's memory that vLLM takes beside the trainer"
    )

    @property
    def deciding(self) -> Self:
        """These settings with the defaults for all that says where and how, not what."""
        return type(self)(kind=self.kind, rollouts=self.rollouts)
