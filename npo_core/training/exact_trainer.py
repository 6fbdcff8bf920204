"""GRPOTrainer that goes on exactly where it was: with any history behind it, and in any number of processes."""

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from accelerate.utils import broadcast_object_list, gather_object, send_to_device

from npo_core.training import exact, sharded
from npo_core.training.sharing_trainer import SharingTrainer


class ExactTrainer(SharingTrainer):
    """GRPOTrainer whose steps follow from (snapshot, seeds, data) alone; see docs/exactness.md.

    Args:
        sampling_seed: seed of all sampling; the order of the data follows `args.seed`. Defaults to `args.seed`.
        generation_batch: completions that a process samples at once in a rollout, which bounds its KV cache; None: all.
            vLLM has its own ways.
    """

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
        exact.seed_step(self.sampling_seed, *divmod(self._step, self._window), self.accelerator.process_index)
        return super().training_step(*args, **kwargs)

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, *args, **kwargs):
        """TRL's, over parts of `generation_batch` rows."""
        generate, size = super()._generate_single_turn, self.generation_batch or len(prompt_ids)
        if size >= len(prompt_ids) or self.use_vllm:
            return generate(prompt_ids, images, multimodal_fields, *args, **kwargs)
        parts = [slice(start, start + size) for start in range(0, len(prompt_ids), size)]
        found = [generate(prompt_ids[part], images, self._fields_beside(part), *args, **kwargs)[0] for part in parts]
        return [row for rows in found for row in rows], None  # log-probabilities come from vLLM alone

    def _shared_noise(self) -> AbstractContextManager:
        """With several processes, what makes the sampled tokens independent of their number."""
        if self.accelerator.num_processes == 1 or self.use_vllm or not self.model.training:
            return nullcontext()
        return exact.SharedNoise(self.sampling_seed, self._step // self._window, self.accelerator)

    def agreed(self, value: Any) -> Any:
        """What the first process has: decided upon by it, every process decides the same."""
        return broadcast_object_list([value])[0]

    def create_model_card(self, *args, **kwargs):
        """Snapshots are written often; a card belongs to a published model."""

    def _save_rng_state(self, output_dir):
        """Nothing: seeds replace it, and only the first process writes into a checkpoint."""

    def _save_optimizer_and_scheduler(self, output_dir):
        if self.is_distributed_loading_by_transformers:
            sharded.save_optimizer_and_scheduler(self, output_dir)
        else:
            super()._save_optimizer_and_scheduler(output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        """A sharded model has the checkpoint's weights already: it is loaded from there."""
        if not self.is_distributed_loading_by_transformers:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _save_checkpoint(self, model, trial):
        super()._save_checkpoint(model, trial)
        buffer = self._shares() if self._step % self._window else None
        if self.args.should_save:
            folder = os.path.join(self._get_output_dir(trial=trial), f"checkpoint-{self.state.global_step}")
            cursor = {
                "global_step": self.state.global_step,
                "micro_step": self._step,
                "tokens_seen": self.state.num_input_tokens_seen,
                "data_seed": self.args.seed,
                "data_rows": len(self.train_dataset),
            }
            exact.save_cursor(folder, cursor, buffer)

    def _load_optimizer_and_scheduler(self, checkpoint):
        if checkpoint is not None and self.is_distributed_loading_by_transformers:
            sharded.load_optimizer_and_scheduler(self, checkpoint)
        else:
            super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
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
