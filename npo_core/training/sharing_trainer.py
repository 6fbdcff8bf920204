"""GRPOTrainer whose updates compute what can move the policy, and each prompt once; the gradient is TRL's.

What TRL asks for, `[B, T]` log-probabilities and entropies of a micro batch, it gets: those of rows whose advantage is
0 as they were recorded while sampling, the others from one pass over a packed row (`shared_prompt`). The loss is TRL's
own, over all rows, and so is every denominator.
"""

from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any, NamedTuple

import torch
from accelerate.logging import get_logger
from accelerate.utils import DistributedType

from npo_core.engines.sampling import Sampled
from npo_core.training import live_rows, shared_prompt
from npo_core.training.vision import ImageTrainer

logger = get_logger(__name__)
CLOSE, CLOSE_LOW = 1e-3, 0.1  # mean nats a token between a packed pass and a plain one, in float32 and below


class Groups(NamedTuple):
    """Rows of a batch by the prompts they share."""

    prompts: list[list[int]]  # distinct
    first: list[int]  # a row of each
    prompt_of: list[int]
    completions: list[list[int]]


class SharingTrainer(ImageTrainer):
    """ImageTrainer with live rows and shared prompts.

    Args:
        share_prompts: False computes each completion with a prompt of its own, as TRL does. A model that does not allow
            sharing does so as well, after one warning.
    """

    _buffered_inputs: list[dict]  # of TRL, after the first batch

    def __init__(self, *args: Any, share_prompts: bool = True, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._sharing: bool | None = None if share_prompts else False  # None: not known yet
        self._sampled: list[Sampled] | None = None  # the rows of the newest generation batch, where they were recorded
        self._batch: dict | None = None  # the micro batch whose loss is computed
        self._backward = ExitStack()  # what holds until the backward pass is over
        for model in [self.model] if self.ref_model is None else [self.model, self.ref_model]:
            self._bare(model).base_model.register_forward_hook(shared_prompt.keep_scored, with_kwargs=True)

    @property
    def _sharded(self) -> bool:
        """Whether a model is split among processes, which then have to call it equally often."""
        whole = {DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU}
        return self.is_distributed_loading_by_transformers or self.accelerator.distributed_type not in whole

    def _prepare_inputs(self, generation_batch):
        before = self._buffered_inputs
        inputs = super()._prepare_inputs(generation_batch)
        if not self.model.training or self._buffered_inputs is before:
            return inputs
        self._buffered_inputs = live_rows.in_groups(self._buffered_inputs)
        return self._buffered_inputs[self._step % self.args.steps_per_generation]

    def _generate_and_score_completions(self, inputs):
        self._sampled = None
        output = super()._generate_and_score_completions(inputs)
        ids = output["completion_ids"]
        output[live_rows.ROW] = torch.arange(len(ids), device=ids.device)
        if self._sampled is not None:
            output[live_rows.SAMPLED_LOGPS] = live_rows.recorded([row.logprobs for row in self._sampled], ids)
            output[live_rows.SAMPLED_ENTROPIES] = live_rows.recorded([row.entropies for row in self._sampled], ids)
        elif (logps := output.get("sampling_per_token_logps")) is not None:  # of vLLM; each estimates an entropy
            output[live_rows.SAMPLED_LOGPS] = logps.nan_to_num()
            output[live_rows.SAMPLED_ENTROPIES] = -logps.nan_to_num()
        return output

    def training_step(self, *args, **kwargs):
        with self._backward:
            return super().training_step(*args, **kwargs)

    def _compute_loss(self, model, inputs):
        self._batch = inputs if self.model.training else None
        try:
            return super()._compute_loss(model, inputs)
        finally:
            self._batch = None

    def _get_per_token_logps_and_entropies(
        self, model, input_ids, attention_mask, logits_to_keep, batch_size=None, compute_entropy=False, **kwargs
    ):
        """TRL's, of live rows; the others have what was recorded. Prompts are shared where model and inputs allow."""
        mask = attention_mask[:, -logits_to_keep:]
        live = self._live(mask)
        asked = (model, input_ids, attention_mask, logits_to_keep)
        if self._may_share(model, input_ids, attention_mask, logits_to_keep, kwargs):
            found = self._packed(*asked, mask.any(1) if live is None else live, batch_size)
        elif live is None:
            kwargs["compute_entropy"] = compute_entropy
            return super()._get_per_token_logps_and_entropies(*asked, batch_size, **kwargs)
        else:
            found = self._plain(*asked, live.nonzero()[:, 0].tolist())
        if live is None or self._batch is None:
            known = [torch.zeros_like(mask, dtype=torch.float32)] * 2
        else:
            known = [self._batch[name] for name in (live_rows.SAMPLED_LOGPS, live_rows.SAMPLED_ENTROPIES)]
        place = mask.bool() if live is None else mask.bool() & live[:, None]
        logps, entropies = (
            old.to(values.dtype).masked_scatter(place, values) for old, values in zip(known, found, strict=True)
        )
        return logps, entropies if compute_entropy else None, None

    # --- live rows -------------------------------------------------------------------------------------------------

    def _live(self, mask: torch.Tensor) -> torch.Tensor | None:
        """[B] the rows that are computed; None: all, as a term of the loss or a missing record demands."""
        if self._batch is None or live_rows.SAMPLED_LOGPS not in self._batch or self._all_live or not mask.any():
            return None
        return live_rows.live_rows(self._batch, mask)

    @property
    def _all_live(self) -> bool:
        """Whether a term of the loss needs every row."""
        return bool(self.beta or self._entropy_bonus_enabled or self.aux_loss_enabled or self.top_entropy_quantile < 1)

    def _plain(self, model, input_ids, attention_mask, keep, rows: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities and entropies of the tokens of some rows, one row behind another, by TRL's own pass."""
        mask = attention_mask[rows]
        padding = keep - int(mask[:, -keep:].any(0).nonzero().max()) - 1  # last columns, of these rows
        width, keep = input_ids.shape[1] - padding, keep - padding
        numbers, self._numbers = self._numbers, None if self._numbers is None else self._numbers[rows]
        try:
            called, of_policy = super()._get_per_token_logps_and_entropies, model is not self.ref_model
            asked = (model, input_ids[rows][:, :width], mask[:, :width], keep)
            logps, entropies, _ = called(*asked, compute_entropy=of_policy)
        finally:
            self._numbers = numbers
        real = mask[:, width - keep : width].bool()
        return logps[real], torch.zeros_like(logps[real]) if entropies is None else entropies[real]

    # --- shared prompts --------------------------------------------------------------------------------------------

    def _may_share(self, model, input_ids, attention_mask, keep, beside: dict[str, Any]) -> bool:
        """Whether completions share their prompt in this call; the model is looked at in the first."""
        if self._sharing is False or not self.model.training:
            return False
        if any(value is not None and value is not False for value in beside.values()):
            return False  # images that TRL itself put beside the ids, or a loss of routers
        tokens = attention_mask[:, -keep:].any(1)
        if not tokens.any():
            return False  # TRL has masked every completion: nothing could be packed
        if self._sharded and self._batch is None and not tokens.all():
            return False  # rows that fill up would make fewer parts here than in another process, which waits
        if self._sharing is None:
            self._sharing = self._check(model, input_ids, attention_mask, keep)
        return self._sharing

    def _packed(self, model, input_ids, attention_mask, keep, rows: torch.Tensor, size: int | None):
        """Log-probabilities and entropies of the tokens of some rows, `size` completions at once."""
        numbers = rows.nonzero()[:, 0].tolist()
        size = size or len(numbers)
        parts = [numbers[start : start + size] for start in range(0, len(numbers), size)]
        found = [self._pass(model, input_ids, attention_mask, keep, part) for part in parts]
        return tuple(map(torch.cat, zip(*found, strict=True)))

    def _pass(self, model, input_ids, attention_mask, keep, rows: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """One packed row through the model: log-probabilities and entropies of its completions, one behind another."""
        width = input_ids.shape[1] - keep
        groups = self._split(input_ids, attention_mask, width, rows)
        packed = shared_prompt.pack(groups.prompts, groups.completions, groups.prompt_of, width, input_ids.device)
        beside = self._beside(model, packed, groups.first, input_ids, attention_mask, keep)
        with self._attention(model), self.accelerator.autocast(), self._seeing(model, beside):
            output = model(
                input_ids=packed.input_ids,
                shift_labels=packed.labels,
                fused_lm_head=True,
                layout=packed.layout,
                **beside,
            )
        logps = output.log_probs[0]
        return logps, torch.zeros_like(logps) if output.entropy is None else output.entropy[0]  # none of a reference

    def _attention(self, model) -> AbstractContextManager:
        """Attention for packed rows; to the end of the step where layers are computed again in the backward pass."""
        switched = shared_prompt.shared_attention(self._bare(model))
        if not (torch.is_grad_enabled() and self.args.gradient_checkpointing):
            return switched
        self._backward.enter_context(switched)
        return nullcontext()

    def _split(self, input_ids, attention_mask, width: int, rows: list[int]) -> Groups:
        """What is distinct among the prompts of some rows, whose completions are cut at their ends."""
        lengths = [mask.sum(1).tolist() for mask in (attention_mask[:, :width], attention_mask[:, width:])]
        pictures = [0] * len(input_ids) if self._numbers is None else self._numbers.tolist()
        known: dict[tuple, int] = {}
        groups = Groups([], [], [], [])
        for row, ids in zip(rows, input_ids[rows].tolist(), strict=True):
            prompt, completion = ids[width - lengths[0][row] : width], ids[width : width + lengths[1][row]]
            number = known.setdefault((pictures[row], tuple(prompt)), len(known))
            if number == len(groups.prompts):
                groups.prompts.append(prompt)
                groups.first.append(row)
            groups.prompt_of.append(number)
            groups.completions.append(completion)
        return groups

    def _beside(self, model, packed, first: list[int], input_ids, attention_mask, keep: int) -> dict[str, torch.Tensor]:
        """Positions, as TRL's pass has them, and images once a prompt; `first`: a row of each prompt."""
        fields = {}
        if self._numbers is not None:
            fields = self._fields(self._numbers[first].tolist(), input_ids.shape[1], keep)
        if not fields:
            return {"position_ids": packed.columns[None]}
        positions, _ = self._bare(model).base_model.get_rope_index(
            input_ids[first],
            fields["mm_token_type_ids"],
            image_grid_thw=fields["image_grid_thw"],
            attention_mask=torch.cat([attention_mask[first, :-keep], torch.ones_like(input_ids[first, -keep:])], 1),
        )
        images = {name: fields[name] for name in ("pixel_values", "image_grid_thw")}
        return images | {"position_ids": positions[:, packed.owners, packed.columns][:, None]}

    def _check(self, model, input_ids, attention_mask, keep) -> bool:
        """Whether the model's completions may share their prompt: nothing is in the way, and some come out the same."""
        rows = attention_mask[:, -keep:].any(1).nonzero()[:, 0].tolist()
        asked = (model, input_ids, attention_mask, keep, sorted({*rows[:2], *rows[-2:]}))
        reason = shared_prompt.obstacle(self._bare(model)) or self._images_in_the_way() or self._difference(asked)
        if reason is not None:
            logger.warning(f"Each completion is computed with a prompt of its own, as this model demands: {reason}.")
        return reason is None

    @torch.no_grad()
    def _difference(self, asked: tuple) -> str | None:
        """What is wrong with the packed pass of a few rows, measured by the plain one."""
        plain, _ = self._plain(*asked)
        try:
            distance = (self._pass(*asked)[0] - plain).abs().mean().item()
        except (RuntimeError, TypeError, ValueError) as error:
            return f"it does not take packed rows ({error})"
        exact = self._bare(self.model).dtype == torch.float32 and not (self.args.bf16 or self.args.fp16)
        bound = CLOSE if exact else CLOSE_LOW
        return None if distance < bound else f"its log-probabilities are {distance:.3g} nats off"

    def _images_in_the_way(self) -> str | None:
        """Why images do not allow sharing."""
        if self.open_images is None:
            return None
        if not hasattr(self._bare(self.model).base_model, "get_rope_index"):
            return "its images are not placed as Qwen3-VL's"
        return None
