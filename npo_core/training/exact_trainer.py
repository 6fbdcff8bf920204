"""GRPOTrainer that goes on exactly where it was: with any history behind it, and in any number of processes."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate.utils import broadcast_object_list, gather_object, send_to_device
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME
from trl.models import unwrap_model_for_generation

from npo_core.engines.sampling import Ended, Row, Sampled, Sampling, sample
from npo_core.models.inputs import PromptInputs
from npo_core.models.sampling import own_distribution
from npo_core.seeds import derive_seed
from npo_core.training import exact, sharded
from npo_core.training.sharing_trainer import SharingTrainer
from npo_core.training.unwritten import Unwritten

# Of TRL's generation_kwargs: what must not be asked for where rows are sampled by key, and what is followed.
NO_MORE = {"top_p": 1.0, "top_k": 0, "min_p": None, "repetition_penalty": 1.0, "cache_implementation": None}
TAKEN = (
    "max_new_tokens",
    "do_sample",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "temperature",
    "suppress_tokens",
)


class ExactTrainer(SharingTrainer):
    """GRPOTrainer whose steps follow from (snapshot, seeds, data) alone; see docs/exactness.md.

    Args:
        sampling_seed: seed of all sampling; the order of the data follows `args.seed`. Defaults to `args.seed`.
        generation_batch: completions that a process samples at once in a rollout, which bounds its KV cache; None: all.
            vLLM has its own ways.

    `begin_checkpoint`: asked at every checkpoint where its large files go, whose giver writes them later. None: they
        are written at once, as TRL does.
    """

    sampling_seed: int
    generation_batch: int | None = None  # TRL's own code may run without `__init__`
    begin_checkpoint: Callable[[], Unwritten] | None = None
    _unwritten: Unwritten | None = None  # of the checkpoint under way
    _draws: int = 0  # rollouts that the generation batch under way has had beside its own

    def __init__(
        self, *args: Any, sampling_seed: int | None = None, generation_batch: int | None = None, **kwargs: Any
    ):
        super().__init__(*args, **kwargs)
        if self.is_distributed_loading_by_transformers:
            sharded.prepare(self)
        self.sampling_seed = self.args.seed if sampling_seed is None else sampling_seed
        self.generation_batch = generation_batch

    def _get_train_sampler(self, dataset=None):
        """TRL's order of groups, permuted by (seed, epoch) alone."""
        return exact.EpochSampler(
            data_source=self.train_dataset if dataset is None else dataset,
            mini_repeat_count=self.num_generations,
            batch_size=self.args.generation_batch_size // self.num_generations,
            repeat_count=self.num_iterations * self.args.steps_per_generation,
            shuffle=self.shuffle_dataset,
            seed=self.args.seed,
            epoch=lambda: int(self.state.epoch or 0),
        )

    @property
    def _window(self) -> int:
        """Micro steps on one generation batch."""
        return self.args.steps_per_generation * self.num_iterations

    def training_step(self, *args, **kwargs):
        window, position = divmod(self._step, self._window)
        exact.seed_step(self.sampling_seed, window, position, self.accelerator.process_index)
        return super().training_step(*args, **kwargs)

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, *args, **kwargs):
        """Rows sampled by key and recorded; where TRL's arguments ask for more than a temperature, TRL's, in parts."""
        if self._draws_by_key(images, multimodal_fields):
            with self._whole_weights():
                self._sampled = self._sample(prompt_ids)
            return [row.token_ids for row in self._sampled], None
        size = self.generation_batch or len(prompt_ids)
        parts = [slice(start, start + size) for start in range(0, len(prompt_ids), size)]
        with own_distribution(self.model), self._whole_weights():
            return self._generate_parts(parts, prompt_ids, images, multimodal_fields, *args, **kwargs)

    def _whole_weights(self) -> AbstractContextManager:
        """With split weights, what gathers them for a rollout of the model itself."""
        split = self.is_distributed_loading_by_transformers and not self.use_vllm
        return sharded.gathered(self.model) if split else nullcontext()

    def _generate_parts(self, parts, prompt_ids, images, multimodal_fields, *args, **kwargs):
        generate = super()._generate_single_turn
        if len(parts) == 1 or self.use_vllm:
            return generate(prompt_ids, images, multimodal_fields, *args, **kwargs)
        fields = [self._fields_of(part, images, multimodal_fields) for part in parts]
        found = [
            generate(prompt_ids[part], images, beside, *args, **kwargs)[0]
            for part, beside in zip(parts, fields, strict=True)
        ]
        return [row for rows in found for row in rows], None  # log-probabilities come from vLLM alone

    def _draws_by_key(self, images: Any, multimodal_fields: dict) -> bool:
        """Whether a rollout is nothing but sampling at a temperature, from prompts that are known here."""
        if self.use_vllm or self.use_transformers_continuous_batching or not self.model.training:
            return False
        if images is not None or (multimodal_fields and self.open_images is None) or self.tools:
            return False
        asked = {name: self.generation_kwargs.get(name) or default for name, default in NO_MORE.items()}
        return asked == NO_MORE and set(self.generation_kwargs) <= {*NO_MORE, *TAKEN}

    @property
    def _rollout_seed(self) -> int:
        """Of the generation batch's rollout, or of the one beside it that is under way."""
        window = self._step // self._window
        if self._draws == 0:
            return derive_seed("step", self.sampling_seed, window, 0, 0)
        return derive_seed("draw", self.sampling_seed, window, self._draws)

    def _sample(self, prompt_ids: list[list[int]]) -> list[Sampled]:
        """Completions of the rows of this process."""
        keys = list(map(tuple, prompt_ids)) if self._numbers is None else self._numbers.tolist()
        sampling = Sampling(
            seed=self._rollout_seed,
            max_tokens=self.max_completion_length,
            eos_ids=self.eos_token_ids,
            pad_id=self._tokenizer.pad_token_id,
            never=self.generation_kwargs.get("suppress_tokens") or (),
            temperature=self.temperature,
        )
        first = self.accelerator.process_index * len(prompt_ids)
        kwargs = self.args.gradient_checkpointing_kwargs
        # Each pass of the model is an autocast of its own; one around them keeps what they cast weights to.
        cast_once = torch.autocast(self.accelerator.device.type, enabled=False)
        with (
            cast_once,
            unwrap_model_for_generation(
                self.model_wrapped, self.accelerator, gradient_checkpointing_kwargs=kwargs
            ) as model,
        ):
            return sample(
                model,
                self._prompts,
                [Row(key, first + i) for i, key in enumerate(keys)],
                sampling,
                at_once=self.generation_batch,
                sharded=self._sharded and not self.is_distributed_loading_by_transformers,
                ended=self._ended(),
            )

    def _prompts(self, keys: list) -> list[PromptInputs]:
        """Prompts by their token ids or, where there are images, by their numbers."""
        return [PromptInputs(list(key)) if self._numbers is None else self._prompt(key) for key in keys]

    def _ended(self) -> Ended | None:
        """Told of rows of the rollout whose completions are there; None: nobody wants to know so early."""
        return None

    def _shared_noise(self) -> AbstractContextManager:
        """With several processes, what makes the sampled tokens independent of their number."""
        if self.accelerator.num_processes == 1 or self.use_vllm or not self.model.training:
            return nullcontext()
        return exact.SharedNoise(self._rollout_seed, self.accelerator)

    def agreed(self, value: Any) -> Any:
        """What the first process has: decided upon by it, every process decides the same."""
        return broadcast_object_list([value])[0]

    def create_model_card(self, *args, **kwargs):
        """Snapshots are written often; a card belongs to a published model."""

    def _save_rng_state(self, output_dir):
        """Nothing: seeds replace it, and only the first process writes into a checkpoint."""

    def _save_optimizer_and_scheduler(self, output_dir):
        if self.is_distributed_loading_by_transformers:
            sharded.save_optimizer_and_scheduler(self, output_dir, self._save_state)
        elif self._unwritten is None:
            super()._save_optimizer_and_scheduler(output_dir)
        elif self.args.should_save:
            self._save_state(self.optimizer.state_dict(), os.path.join(output_dir, OPTIMIZER_NAME))
            torch.save(self.lr_scheduler.state_dict(), os.path.join(output_dir, SCHEDULER_NAME))

    def _save_state(self, state: dict, path: str) -> None:
        """Save an optimizer's state, now or later."""
        if self._unwritten is None:
            torch.save(state, path)
        else:
            self._unwritten.take_state(path, state)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        """A sharded model has the checkpoint's weights already: it is loaded from there."""
        if not self.is_distributed_loading_by_transformers:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _save_checkpoint(self, model, trial):
        self._unwritten = self.begin_checkpoint() if self.begin_checkpoint else None
        with nullcontext() if self._unwritten is None else self._unwritten.taking_weights():
            super()._save_checkpoint(model, trial)
        buffer = self._shares() if self._step % self._window else None
        if self.args.should_save:
            folder = os.path.join(self._get_output_dir(trial=trial), f"checkpoint-{self.state.global_step}")
            cursor = {
                "global_step": self.state.global_step,
                "micro_step": self._step,
                "tokens_seen": self.state.num_input_tokens_seen,
                "data_seed": self.args.seed,
                "data_rows": len(self.train_dataset) if hasattr(self.train_dataset, "__len__") else None,
            }
            exact.save_cursor(folder, cursor, buffer)

    def _load_optimizer_and_scheduler(self, checkpoint):
        """The state of a checkpoint, under this run's settings: a fork may have other ones than wrote it."""
        settings = exact.optimizer_settings(self.optimizer) if checkpoint is not None else []
        if checkpoint is not None and self.is_distributed_loading_by_transformers:
            sharded.load_optimizer_and_scheduler(self, checkpoint)
        else:
            super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            exact.set_optimizer_settings(self.optimizer, self.lr_scheduler, settings)
            self._take_up(*exact.load_cursor(checkpoint))

    def _shares(self) -> list:
        """The generation batch that is trained on; with several processes, a list of what each has of it."""
        if self.accelerator.num_processes == 1:
            return self._buffered_inputs
        return gather_object([send_to_device(self._buffered_inputs, "cpu")])

    def _take_up(self, cursor: dict, buffer: list | None) -> None:
        """Go on where a checkpoint stands, whatever number of processes counted its micro steps."""
        if cursor:
            self._step = cursor["global_step"] * self.args.gradient_accumulation_steps
        if buffer is not None:
            share = exact.own_share(buffer, self.accelerator, cursor["global_step"])
            self._buffered_inputs = send_to_device(share, self.accelerator.device)
