"""What of a run's configuration decides memory, disk and time, in the terms of the formulas."""

from dataclasses import dataclass
from math import ceil
from typing import Any

from npo_core.config import ChainProblems, PretrainedModel, RunConfig
from npo_core.planning.size import ModelSize

BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class Setting:
    """A configuration, its model, and the kind of device.

    Lengths are the longest allowed, in tokens: where one row of a batch is that long, all are padded to it. Prompts
    without a limit count as empty, so that what is said of them is the least.
    """

    config: RunConfig
    size: ModelSize
    device: str  # cpu or cuda
    longest_prompts: bool = True  # false: prompts from data count as empty
    gpus: int = 1  # of all machines, where there are any

    @property
    def weight_bytes(self) -> int:
        """Bytes a number of the weights; stages load snapshots in the format that they were saved in."""
        return BYTES[getattr(self.config.model, "dtype", "float32")]

    @property
    def trained_bytes(self) -> int:
        """Bytes a number of what is trained, its gradient and each of AdamW's two moments; adapters are float32."""
        return 4 if self.size.adapters else self.weight_bytes

    @property
    def mixed(self) -> bool:
        """Mixed precision: matrix products of float32 weights in bfloat16."""
        return self.config.training.bf16 and self.weight_bytes == 4

    @property
    def product_bytes(self) -> int:
        """Bytes a number of what goes through matrix products."""
        return 2 if self.mixed else self.weight_bytes

    @property
    def attention(self) -> str:
        """The attention implementation of the configuration."""
        return self.config.model.attention if isinstance(self.config.model, PretrainedModel) else "auto"

    @property
    def processes(self) -> int:
        """Processes of a training stage, which share each batch."""
        return self.config.execution.processes

    @property
    def generating(self) -> int:
        """Processes of a guide, probe or evaluation stage, each with a part of its own, on all machines."""
        execution, engine = self.config.execution, self.config.engine
        each = engine.tensor_parallel if engine.kind == "vllm" else 1
        found = max(self.gpus // execution.nodes // each, 1) if self.device == "cuda" else 1
        return execution.generation_processes or execution.nodes * found

    @property
    def generating_here(self) -> int:
        """Those of the first machine."""
        return ceil(self.generating / self.config.execution.nodes)

    @property
    def sharded(self) -> int:
        """Over how many of them weights, gradients and optimizer are spread."""
        return 1 if self.config.execution.sharding == "none" else self.processes

    @property
    def prompt_tokens(self) -> int:
        """The longest prompt, tokens; 0 where it is not known."""
        problems = self.config.problems
        if isinstance(problems, ChainProblems):
            return 2 * problems.operands
        return (problems.max_prompt_tokens or 0) if self.longest_prompts else 0

    @property
    def prompts_bounded(self) -> bool:
        """Whether the configuration bounds the length of prompts."""
        problems = self.config.problems
        return isinstance(problems, ChainProblems) or problems.max_prompt_tokens is not None

    @property
    def completion_tokens(self) -> int:
        """The longest completion, tokens."""
        return self.config.training.max_completion_tokens

    @property
    def tokens(self) -> int:
        """Of a sequence: prompt and completion."""
        return self.prompt_tokens + self.completion_tokens

    @property
    def rows(self) -> int:
        """Completions that a process generates at once in training."""
        share = ceil(self.config.training.batch / self.processes)
        return min(self.config.training.generation_batch or share, share)

    @property
    def micro_batch(self) -> int:
        """Completions in one forward and backward pass of a process."""
        training = self.config.training
        return min(training.micro_batch, ceil(training.batch / training.updates_per_batch / self.processes))

    @property
    def update_rows(self) -> int:
        """Rows of a micro batch and of those beside the batch: replayed successes and appended slots, at most."""
        training, mix, injection = self.config.training, self.config.mix, self.config.injection
        beside = mix.replay.rows if mix.replay else 0
        if injection.place == "append":
            beside += injection.slots * training.prompts_per_step
        parts = ceil(training.batch / self.processes / self.micro_batch)  # among which a process deals its rows
        return self.micro_batch + ceil(ceil(beside / self.processes) / parts)

    @property
    def images(self) -> bool:
        """Whether problems have images."""
        problems: Any = self.config.problems
        return not isinstance(problems, ChainProblems) and bool(problems.image_columns)
