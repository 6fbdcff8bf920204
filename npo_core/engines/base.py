"""What guidance, evaluation and (later) probes ask of a generation engine."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True, slots=True)
class Generated:
    """One sampled completion: its token ids with the end-of-sequence token, if it came, and its text without it."""

    token_ids: list[int]
    text: str
    finished: bool  # it ended by itself, with an end-of-sequence token


class Engine(Protocol):
    """Samples at temperature 1, top_p 1, no top_k: other settings would change the stored log-probabilities."""

    def generate(self, prompts: Sequence[str], *, samples: int, max_tokens: int, seed: int) -> list[list[Generated]]:
        """`samples` completions of each prompt; the same seed and prompts give the same completions."""
        ...

    def score(self, prompts: Sequence[str], completions: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Log-probabilities (float32, nats) of each completion's token ids after its prompt."""
        ...
