"""What guidance, probes and evaluation ask of a generation engine."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Protocol

import numpy as np

from npo_core.problems import Problem


@dataclass(frozen=True, slots=True)
class Generated:
    """One sampled completion: its token ids with the end-of-sequence token, if it came, and its text without it."""

    token_ids: list[int]
    text: str
    finished: bool  # it ended by itself, with an end-of-sequence token


PARTS, MOST_BATCHES = 8, 32


def parts(rows: int, batch: int) -> list[range]:
    """Into which sequences so many rows are cut, each sampled in one process, `batch` rows at once.

    What is computed together rounds together, so this knows nothing of the number of processes. A part has a tail, in
    which places stay empty until its longest row has ended: fewer parts have fewer tails, and more parts occupy more
    processes. So there are eight, one for each GPU of a machine, of at least a batch, which less would not fill. Much
    work makes more of them, 32 batches each: their tails are a few hundredths of the time then, and parts that take
    longer, as harder problems do, are evened out among processes.
    """
    size = max(batch, min(ceil(rows / PARTS), MOST_BATCHES * batch))
    return [range(at, min(at + size, rows)) for at in range(0, rows, size)]


class Engine(Protocol):
    """Samples at temperature 1, top_p 1, no top_k: other settings would change the stored log-probabilities."""

    def generate(
        self, problems: Sequence[Problem], *, samples: int, max_tokens: int, seed: int
    ) -> list[list[Generated]]:
        """`samples` completions of each problem; the same seed and problems give the same completions."""
        ...

    def score(self, problems: Sequence[Problem], completions: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Log-probabilities (float32, nats) of each completion's token ids after its problem's prompt."""
        ...
