"""GRPOTrainer whose advantages are weighed token by token by a teacher: the policy itself, told the reference answer.

RLSD (arXiv 2604.03128): with d = log p_teacher - log p_policy of a token, its advantage is
A x [(1 - lambda) + lambda x clip(exp(sign(A) d), 1 - clip, 1 + clip)].

Shape suffixes: B rows of a batch, T tokens.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils import gather_object

from npo_core.config import SelfTeacher
from npo_core.errors import ConfigError
from npo_core.training.beside import GUIDE_MASK
from npo_core.training.mixing_trainer import MixingTrainer

TEACHER_LOGPS = "teacher_logps"  # key in a batch: [B, T], NaN where the teacher says nothing


def lambda_at(settings: SelfTeacher, update: int) -> float:
    """The teacher's weight in optimizer update `update`: it falls to 0 in a straight line."""
    return settings.weight * max(1 - (update - 1) / settings.decay_steps, 0.0)


def weighed(
    advantages_B: torch.Tensor, logps_BT: torch.Tensor, teacher_BT: torch.Tensor, weight: float, clip: float
) -> torch.Tensor:
    """[B, T] advantages of tokens; those without a teacher's word keep their row's."""
    sign_B1 = advantages_B.sign()[:, None]
    ratio_BT = torch.exp(sign_B1 * (teacher_BT - logps_BT)).clamp(1 - clip, 1 + clip)
    return advantages_B[:, None] * (1 - weight + weight * ratio_BT.nan_to_num(nan=1.0))


class TaughtTrainer(MixingTrainer):
    """MixingTrainer with a teacher.

    Args:
        teacher: how the teacher weighs; None: there is none.
        privileged: a training prompt's text with its reference answer, by prompt id.

    Raises:
        ConfigError: prompts have images, weights are split among processes, or the teacher is told nothing.
    """

    # TRL runs code of its own before, and without, `__init__`: what it reaches of ours needs a value by then.
    teacher: SelfTeacher | None = None
    privileged: Callable[[str], str] | None = None
    _taught: dict | None = None  # the micro batch whose loss is computed, while a teacher weighs

    def __init__(
        self,
        *args: Any,
        teacher: SelfTeacher | None = None,
        privileged: Callable[[str], str] | None = None,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self.teacher, self.privileged = teacher, privileged
        self._kept: list[torch.Tensor] = []  # the teacher's weights, where they are not the policy's
        self._synced = -1  # updates in units of sync_every
        if teacher is not None and privileged is None:
            raise ConfigError("teacher is given without privileged: give the function that tells it reference answers.")
        if teacher is not None and (self.open_images is not None or self._sharded):
            raise ConfigError(
                "mix.self_teacher computes text prompts with whole weights: train on problems without images and with "
                "execution.sharding = none, or leave it out."
            )

    def _attach(self, output: dict) -> dict:
        output = super()._attach(output)
        teacher, privileged = self.teacher, self.privileged
        if teacher is not None and privileged is not None and lambda_at(teacher, self._update) > 0:
            self._sync(teacher.sync_every)
            output[TEACHER_LOGPS] = self._teacher_logps(output, privileged)
        return output

    def _sync(self, every: int) -> None:
        """The policy's weights become the teacher's, every `every` updates."""
        number = self.state.global_step // every
        if number != self._synced:
            self._synced = number
            self._kept = [p.detach().clone() for p in self.model.parameters() if p.requires_grad]

    @contextmanager
    def _as_teacher(self) -> Iterator[None]:
        """Inside it, the model has the teacher's weights."""
        own = [p for p in self.model.parameters() if p.requires_grad]
        before = [p.data for p in own]
        try:
            for parameter, kept in zip(own, self._kept, strict=True):
                parameter.data = kept
            yield
        finally:
            for parameter, data in zip(own, before, strict=True):
                parameter.data = data

    @torch.no_grad()
    def _teacher_logps(self, output: dict, privileged: Callable[[str], str]) -> torch.Tensor:
        """[B, T] of the policy's own completions that move it; NaN for all others."""
        ids, mask = output["completion_ids"], output["completion_mask"]
        found = torch.full(ids.shape, torch.nan, device=ids.device)
        taught = (output["advantages"] != 0) & mask.any(1)
        if GUIDE_MASK in output:
            taught &= ~output[GUIDE_MASK].any(1)
        rows = taught.nonzero()[:, 0].tolist()
        self._metrics["train"]["mix/teacher_rows"].append(float(sum(gather_object([len(rows)]))))
        if not rows:
            return found
        told_texts = [privileged(self._rollout[row]["prompt_id"]) for row in rows]
        prompts = [list(self._tokenize_prompts([text])[0][0]) for text in told_texts]
        wide = max(map(len, prompts))
        pad = self._tokenizer.pad_token_id
        told = torch.tensor([[pad] * (wide - len(p)) + list(p) for p in prompts], device=ids.device)
        seen = torch.tensor([[0] * (wide - len(p)) + [1] * len(p) for p in prompts], device=ids.device)
        with self._as_teacher():
            logps, _, _ = self._get_per_token_logps_and_entropies(
                self.model,
                torch.cat([told, ids[rows]], dim=1),
                torch.cat([seen, mask[rows]], dim=1),
                ids.shape[1],
                self.args.per_device_train_batch_size,
            )
        found[rows] = logps.float()
        return found

    # --- loss ------------------------------------------------------------------------------------------------------

    def _compute_loss(self, model, inputs):
        if TEACHER_LOGPS not in inputs or not self.model.training:
            return super()._compute_loss(model, inputs)
        advantages, self._taught = inputs["advantages"], inputs
        try:
            return super()._compute_loss(model, inputs)
        finally:
            inputs["advantages"], self._taught = advantages, None

    def _get_per_token_logps_and_entropies(self, *args, **kwargs):
        result = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        if self._taught is not None and self.teacher is not None:
            weight = lambda_at(self.teacher, self._update)
            self._taught["advantages"] = weighed(
                self._taught["advantages"], result[0].detach(), self._taught[TEACHER_LOGPS], weight, self.teacher.clip
            )
        return result
