"""One completion of one prompt, with what is needed to inject it by token id and to know where it came from."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from npo_core.errors import DataError

OUTCOMES = ("correct", "wrong", "unparsable", "timeout", "crash")
LOGPROB_SLACK = 1e-4  # rounding of a log-softmax may leave a certain token slightly above 0
_PROMPT_ID = re.compile(r"[0-9a-f]{16,32}")


@dataclass(frozen=True, slots=True, eq=False)
class Trajectory:
    """A completion by token id; T tokens, F reward functions.

    prompt_id   content hash of the prompt, 16 to 32 lower-case hex characters
    token_ids   int32 [T], the completion only, its end-of-sequence token included
    logprobs    float32 [T], natural log-probabilities of the guide for these tokens at temperature 1; all NaN where
                nobody knows them
    rewards     float32 [F], one for each reward function
    outcome     the verifier's word, one of `OUTCOMES`; always "correct" in a guidance cache
    guide       id of the snapshot that wrote it
    guide_step  step of that snapshot (for people; the id is the identity)
    sample      which of the samples this is, counted from 0
    samples     how many samples this guide drew for this prompt before it stopped
    seed        seed of the random numbers that drew it

    Two trajectories are equal when their contents are, bit for bit.

    Example:
        >>> row = Trajectory(
        ...     prompt_id="00112233445566778899aabbccddeeff",
        ...     token_ids=np.array([17, 4, 2], np.int32),
        ...     logprobs=np.array([-0.1, -0.7, 0.0], np.float32),
        ...     rewards=np.array([1.0], np.float32),
        ...     outcome="correct", guide="8f2c", guide_step=60, sample=2, samples=3, seed=7,
        ... )
        >>> row.validate().token_ids[-1]  # the end-of-sequence token
        np.int32(2)
    """

    prompt_id: str
    token_ids: np.ndarray
    logprobs: np.ndarray
    rewards: np.ndarray
    outcome: str
    guide: str
    guide_step: int
    sample: int
    samples: int
    seed: int

    @classmethod
    def from_text(
        cls,
        tokenizer: Any,
        text: str,
        *,
        logprobs: Sequence[float] | None = None,
        rewards: Sequence[float] = (1.0,),
        **origin: Any,
    ) -> Trajectory:
        """A completion that somebody wrote, for a dict that `NPOTrainer` takes as guidance.

        Args:
            tokenizer: the policy's, or its processor; its end-of-sequence token is put after the text.
            logprobs: of these tokens under whoever wrote them, nats; None: unknown (NaN), which serves without
                importance sampling.
            rewards: one for each reward function.
            origin: other fields than those that a text has none of: prompt_id, outcome, guide, guide_step, ...

        Raises:
            DataError: the text is empty, the tokenizer has no end token, or the numbers do not fit.

        Example:
            guidance = {"q1": Trajectory.from_text(tokenizer, "12 * 4 = 48. The answer is 48.")}
        """
        tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"A trajectory of {text!r}: give the text of a completion.")
        if tokenizer.eos_token_id is None:
            raise DataError("The tokenizer has no end-of-sequence token, with which a trajectory ends: set eos_token.")
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids += [] if ids[-1] == tokenizer.eos_token_id else [tokenizer.eos_token_id]
        given = [np.nan] * len(ids) if logprobs is None else logprobs
        unknown = {"prompt_id": "", "outcome": "correct", "guide": "text", "guide_step": 0, "sample": 0, "samples": 1}
        made = cls(
            token_ids=np.array(ids, np.int32),
            logprobs=np.array(given, np.float32),
            rewards=np.array(rewards, np.float32),
            **{**unknown, "seed": 0, **origin},
        )
        known = made if logprobs is not None else replace(made, logprobs=np.zeros(len(ids), np.float32))
        if fault := _array_fault(known):
            raise DataError(f"A trajectory of {text[:40]!r}: {fault}.")
        return made

    def validate(self) -> Trajectory:
        """Return self when the record is sound; raises DataError, with prompt id, field and value, when not."""
        fault = _origin_fault(self) or _array_fault(self)
        if fault:
            raise DataError(f"Trajectory of prompt {self.prompt_id!r}: {fault}.")
        return self

    def digest(self) -> bytes:
        """32 bytes that stand for the whole content; the same on every platform."""
        head = (self.prompt_id, self.outcome, self.guide, self.guide_step, self.sample, self.samples, self.seed)
        h = hashlib.sha256("\0".join(map(str, (*head, len(self.token_ids), len(self.rewards)))).encode())
        h.update(self.token_ids.astype("<i4", copy=False).tobytes())
        h.update(self.logprobs.astype("<f4", copy=False).tobytes())
        h.update(self.rewards.astype("<f4", copy=False).tobytes())
        return h.digest()

    def __eq__(self, other: object) -> bool:
        return self.digest() == other.digest() if isinstance(other, Trajectory) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.prompt_id)


def _origin_fault(row: Trajectory) -> str | None:
    """What is wrong with the scalar fields, or None."""
    if not _PROMPT_ID.fullmatch(row.prompt_id):
        return "prompt_id must be 16 to 32 lower-case hex characters (a content hash)"
    if row.outcome not in OUTCOMES:
        return f"outcome is {row.outcome!r}, must be one of {', '.join(OUTCOMES)}"
    if not row.guide:
        return "guide is empty, must be the id of the snapshot that wrote it"
    if not 0 <= row.sample < row.samples:
        return f"sample is {row.sample} of {row.samples} samples, must be 0 or more and less than samples"
    if not -(2**63) <= row.seed < 2**63:
        return f"seed is {row.seed}, must fit 64 bits with sign"
    return None


def _array_fault(row: Trajectory) -> str | None:
    """What is wrong with the arrays, or None."""
    for name, dtype in (("token_ids", np.int32), ("logprobs", np.float32), ("rewards", np.float32)):
        array = getattr(row, name)
        if array.dtype != dtype or array.ndim != 1:
            return f"{name} is {array.dtype} with {array.ndim} dimensions, must be {np.dtype(dtype)} with 1"
    if len(row.token_ids) == 0:
        return "token_ids is empty, must hold at least the end-of-sequence token"
    if len(row.token_ids) != len(row.logprobs):
        return f"{len(row.token_ids)} token_ids but {len(row.logprobs)} logprobs, must be the same number"
    if row.token_ids.min() < 0:
        return f"token_ids holds {row.token_ids.min()}, must be 0 or more"
    if np.isnan(row.logprobs).all():
        return None if np.isfinite(row.rewards).all() else f"rewards are {row.rewards.tolist()}, must be finite"
    # Written so that NaN fails both comparisons.
    if not (row.logprobs.max() <= LOGPROB_SLACK and row.logprobs.min() > -np.inf):
        return f"logprobs lie in [{row.logprobs.min()}, {row.logprobs.max()}], must be finite and 0 or less"
    if not np.isfinite(row.rewards).all():
        return f"rewards are {row.rewards.tolist()}, must be finite"
    return None
