"""What guidance, probes and evaluation ask of a generation engine."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from npo_core.problems import Problem


@dataclass(frozen=True, slots=True)
class Generated:
    """One sampled completion: its token ids with the end-of-sequence token, if it came, and its text without it."""

    token_ids: list[int]
    text: str
    finished: bool  # it ended by itself, with an end-of-sequence token


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
