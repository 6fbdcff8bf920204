"""Prompts as a model takes them: token ids, and for a vision-language model its images beside them.

Training and generation both read prompts here, each prompt by itself, so that they see the same token ids and the same
pixels whatever else is in a batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from npo_core.errors import ConfigError
from npo_core.models.load import tokenizer_of
from npo_core.problems import Problem
from npo_core.problems.images import open_image
from npo_core.problems.tokens import refuse_beyond

BY_TOKEN = ("mm_token_type_ids", "token_type_ids")  # what a processor gives for every token


@dataclass(frozen=True, slots=True)
class PromptInputs:
    """One prompt; `by_token` has tensors [tokens], `by_image` tensors that begin with its images, or their patches."""

    ids: list[int]  # a placeholder for every token of an image
    by_token: dict[str, torch.Tensor] = field(default_factory=dict)
    by_image: dict[str, torch.Tensor] = field(default_factory=dict)
    images: int = 0


def prompt_inputs(processor: Any, prompt: str, images: Sequence[Any]) -> PromptInputs:
    """A prompt with one place for each of its images (PIL.Image); `processor` is the tokenizer where there are none.

    Raises:
        ConfigError: the processor makes of an image what cannot be told from the next one's.
    """
    if not images:
        return PromptInputs(tokenizer_of(processor)(prompt)["input_ids"])
    found = dict(processor(text=[prompt], images=list(images), return_tensors="pt"))
    ids = found.pop("input_ids")[0].tolist()
    found.pop("attention_mask")
    by_token = {name: found.pop(name)[0] for name in BY_TOKEN if name in found}
    if "image_grid_thw" not in found and any(len(values) != len(images) for values in found.values()):
        raise ConfigError(
            f"{type(processor).__name__} cuts images into tiles, which is not supported: choose a model that takes "
            "images whole, such as Qwen3-VL."
        )
    return PromptInputs(ids, by_token, found, len(images))


def read_prompts(processor: Any, problems: Sequence[Problem]) -> list[PromptInputs]:
    """The prompts of problems, a problem that comes more than once read once.

    Raises:
        DataError: an image is gone, or has changed.
        ConfigError: the tokenizer does not belong to the model.
    """
    if not any(problem.images for problem in problems):
        tokenized = tokenizer_of(processor)([problem.prompt for problem in problems])
        refuse_beyond(tokenizer_of(processor), tokenized["input_ids"])
        return [PromptInputs(ids) for ids in tokenized["input_ids"]]
    distinct = {problem.id: problem for problem in problems}
    read = {id_: prompt_inputs(processor, p.prompt, list(map(open_image, p.images))) for id_, p in distinct.items()}
    return [read[problem.id] for problem in problems]


def beside_ids(rows: Sequence[PromptInputs], starts: Sequence[int], width: int) -> dict[str, torch.Tensor]:
    """What a model takes beside token ids [rows, width] in which the prompt of each row begins at its start.

    Nothing where no row has images: the model then needs the ids alone.
    """
    seeing = [row for row in rows if row.images]
    if not seeing:
        return {}
    found = {name: torch.cat([row.by_image[name] for row in seeing]) for name in seeing[0].by_image}
    for name, values in seeing[0].by_token.items():
        found[name] = torch.zeros(len(rows), width, dtype=values.dtype)
        for filled, row, start in zip(found[name], rows, starts, strict=True):
            if row.images:  # of text it is zero
                filled[start : start + len(row.ids)] = row.by_token[name]
    return found


def left_padded(rows: Sequence[PromptInputs], pad: int) -> dict[str, torch.Tensor]:
    """Inputs of a batch that a completion is to follow: input_ids and attention_mask [rows, longest], and the rest."""
    width = max(len(row.ids) for row in rows)
    starts = [width - len(row.ids) for row in rows]
    ids = torch.tensor([[pad] * start + row.ids for start, row in zip(starts, rows, strict=True)])
    mask = torch.tensor([[0] * start + [1] * (width - start) for start in starts])
    return {"input_ids": ids, "attention_mask": mask, **beside_ids(rows, starts, width)}
