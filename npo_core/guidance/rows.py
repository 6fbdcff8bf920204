"""Trajectories in flat arrays: a row costs its tokens, its log-probs and about 80 bytes.

Token ids and log-probs lie in blocks that are filled once and never joined: joining would need the memory twice.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from npo_core.guidance.schema import list_values
from npo_core.guidance.trajectory import LOGPROB_SLACK, Trajectory

BLOCK_VALUES = 4_194_304  # 16 MB; pages of a block that are not filled yet cost nothing
_NUMBERS = {"guide_step": np.int32, "sample": np.int32, "samples": np.int32, "seed": np.int64}


@dataclass(frozen=True, slots=True)
class Rows:
    """N rows sorted by prompt id: ids S32 [N], rewards float32 [N, F].

    Row i holds the values [starts[i], starts[i] + lengths[i]) of block blocks[i], both of token ids and of log-probs.
    """

    prompt_ids: np.ndarray
    blocks: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    token_ids: list[np.ndarray]
    logprobs: list[np.ndarray]
    rewards: np.ndarray
    guides: list[str]
    guide: np.ndarray
    numbers: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.prompt_ids)

    def ids(self) -> list[str]:
        return [prompt_id.decode() for prompt_id in self.prompt_ids.tolist()]

    def find(self, prompt_id: str) -> int | None:
        """The row of this prompt, or None."""
        key = prompt_id.encode()
        row = int(np.searchsorted(self.prompt_ids, key))
        return row if row < len(self) and self.prompt_ids[row] == key else None

    def trajectory(self, row: int) -> Trajectory:
        block, start = self.blocks[row], self.starts[row]
        part = slice(start, start + self.lengths[row])
        return Trajectory(
            prompt_id=self.prompt_ids[row].decode(),
            token_ids=self.token_ids[block][part],
            logprobs=self.logprobs[block][part],
            rewards=self.rewards[row],
            outcome="correct",
            guide=self.guides[self.guide[row]],
            **{name: int(values[row]) for name, values in self.numbers.items()},
        )


class _Blocks:
    """Values in blocks; what is appended at once lies in one block."""

    def __init__(self, dtype) -> None:
        self._dtype = dtype
        self._blocks: list[np.ndarray] = []
        self._room = 0

    def append(self, values: np.ndarray) -> tuple[int, int]:
        """Copy values; the block they are in, and where they start there."""
        if len(values) > self._room:
            self._room = max(BLOCK_VALUES, len(values))
            self._blocks.append(np.empty(self._room, self._dtype))
        block = self._blocks[-1]
        start = len(block) - self._room
        block[start : start + len(values)] = values
        self._room -= len(values)
        return len(self._blocks) - 1, start

    def close(self) -> list[np.ndarray]:
        """The blocks, read-only; empties this object."""
        blocks, self._blocks, self._room = self._blocks, [], 0
        for block in blocks:
            block.flags.writeable = False
        return blocks


@dataclass(slots=True)
class RowsBuilder:
    """Takes record batches in order of prompt id, and copies their values."""

    reward_count: int
    _token_ids: _Blocks = field(default_factory=lambda: _Blocks(np.int32))
    _logprobs: _Blocks = field(default_factory=lambda: _Blocks(np.float32))
    _pieces: dict[str, list[np.ndarray]] = field(default_factory=dict)
    _guides: dict[str, int] = field(default_factory=dict)

    def add(self, batch: pa.RecordBatch) -> None:
        """Append a batch; raises ValueError when its rows are not what a cache may hold."""
        if batch.num_rows == 0:
            return
        lengths, token_ids = list_values(batch.column("token_ids"))
        _, rewards = list_values(batch.column("rewards"))
        logprob_lengths, logprobs = list_values(batch.column("logprobs"))
        if not np.array_equal(lengths, logprob_lengths) or len(rewards) != batch.num_rows * self.reward_count:
            raise ValueError("rows hold different numbers of token_ids, logprobs or rewards")
        if lengths.min() < 1 or token_ids.min() < 0:
            raise ValueError("rows hold no token ids, or negative ones")
        if not (logprobs.max() <= LOGPROB_SLACK and logprobs.min() > -np.inf):
            raise ValueError("rows hold log-probs that are positive or not finite")
        if batch.column("outcome").unique().to_pylist() != ["correct"]:
            raise ValueError("rows hold an outcome other than 'correct'")
        codes = [self._guides.setdefault(name, len(self._guides)) for name in batch.column("guide").to_pylist()]
        self._keep("prompt_ids", np.array(batch.column("prompt_id").to_pylist(), "S32"))
        self._keep("lengths", lengths)
        block, start = self._token_ids.append(token_ids)
        self._logprobs.append(logprobs)
        self._keep("blocks", np.full(batch.num_rows, block, np.int32))
        self._keep("starts", start + np.cumsum(lengths) - lengths)
        self._keep("rewards", rewards)
        self._keep("guide", np.array(codes, np.int32))
        for name in _NUMBERS:
            self._keep(name, batch.column(name).to_numpy())

    def build(self) -> Rows:
        """The rows added, read-only; the builder is empty afterwards."""
        prompt_ids = self._join("prompt_ids", np.dtype("S32"))
        return Rows(
            prompt_ids=prompt_ids,
            blocks=self._join("blocks", np.int32),
            starts=self._join("starts", np.int64),
            lengths=self._join("lengths", np.int64),
            token_ids=self._token_ids.close(),
            logprobs=self._logprobs.close(),
            rewards=self._join("rewards", np.float32).reshape(len(prompt_ids), self.reward_count),
            guides=list(self._guides),
            guide=self._join("guide", np.int32),
            numbers={name: self._join(name, dtype) for name, dtype in _NUMBERS.items()},
        )

    def _keep(self, name: str, values: np.ndarray) -> None:
        # A copy: the view would keep the whole batch alive.
        self._pieces.setdefault(name, []).append(values.copy())

    def _join(self, name: str, dtype) -> np.ndarray:
        joined = np.concatenate([np.zeros(0, dtype), *self._pieces.pop(name, [])])
        joined.flags.writeable = False
        return joined
