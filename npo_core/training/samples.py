"""Samples: whole groups of a generation batch, kept so that people can read what was generated and trained on."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

MOST_CHARACTERS = 4000  # kept of a prompt, and of a completion; what is left out is in the middle
REPLAY = "replay"  # the source of stored successes that are trained on beside the batch


class Sample(NamedTuple):
    """A completion of a generation batch.

    reward    what it was trained on; NaN where nobody knows
    verdict   the verifier's word, or that of a trajectory when it was stored
    kind      policy, injected (in the group, or appended to it) or replayed (a row beside the batch)
    """

    prompt_id: str
    prompt: str
    completion: str
    tokens: int
    verdict: str
    reward: float
    advantage: float
    kind: str = "policy"
    source: str = ""


class SampledGroup(NamedTuple):
    """The completions of one prompt; `pass_rate` is on-policy, before injection, NaN where no verdict is known."""

    pass_rate: float
    samples: list[Sample]

    @property
    def injected(self) -> bool:
        """Whether it took a trajectory."""
        return any(sample.kind == "injected" for sample in self.samples)


def choose(groups: Sequence[SampledGroup], most: int) -> list[int]:
    """Which groups are kept, rising: rescued ones first, then injected, then failed ones, each in the batch's order."""

    def rank(number: int) -> tuple[int, int]:
        group = groups[number]
        failed = group.pass_rate == 0
        return (0 if failed and group.injected else 1 if group.injected else 2 if failed else 3), number

    return sorted(sorted(range(len(groups)), key=rank)[:most])


def rows(groups: Sequence[SampledGroup], replayed: Sequence[Sample], most: int) -> list[dict[str, Any]]:
    """Rows of `SAMPLE_SCHEMA` but their step: at most `most` groups, and at most `most` replayed samples."""
    kept = [(number, groups[number]) for number in choose(groups, most)]
    kept += [(len(groups) + i, SampledGroup(math.nan, [sample])) for i, sample in enumerate(replayed[:most])]
    return [
        {"group": number, "pass_rate": group.pass_rate, "sample": place}
        | sample._asdict()
        | {"prompt": shortened(sample.prompt), "completion": shortened(sample.completion)}
        for number, group in kept
        for place, sample in enumerate(group.samples)
    ]


def shortened(text: str) -> str:
    """Text that UTF-8 can hold, of at most `MOST_CHARACTERS` and a note: beginning and end, where answers are."""
    text = text.encode("utf-8", "replace").decode()
    left_out = len(text) - MOST_CHARACTERS
    if left_out <= 0:
        return text
    half = MOST_CHARACTERS // 2
    return f"{text[:half]}\n[... {left_out:,} characters left out ...]\n{text[-half:]}"


def word(accuracy: float) -> str:
    """A verdict where no verifier said more than an accuracy."""
    return "unknown" if math.isnan(accuracy) else "correct" if accuracy == 1 else "wrong"


def spoken(message: Any) -> str:
    """The text of a prompt or a completion, which may be a conversation."""
    if isinstance(message, str):
        return message
    contents = [turn["content"] for turn in message]
    parts = [
        [content] if isinstance(content, str) else [part.get("text") or "" for part in content] for content in contents
    ]
    return "\n".join(text for part in parts for text in part)
