"""Sampling from a transformers model: a prompt is read once, and a row that has ended leaves the batch."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import torch
from transformers import GenerationConfig, LogitsProcessor, PreTrainedModel

from npo_core.engines import noise
from npo_core.engines.prefill import divide, shared_prefill
from npo_core.models.inputs import PromptInputs, left_padded
from npo_core.models.sampling import own_distribution

Ended = Callable[[list[int], list[list[int]]], None]  # told rows, by their places in a batch, and their token ids
STAY = 0.75  # rows leave the batch once at most this share of it goes on: a cache that shrinks is copied


@dataclass(frozen=True, slots=True)
class Sampled:
    """A completion with the end-of-sequence token, if it came; nats at the temperature, of what could be sampled."""

    token_ids: list[int]
    logprobs: list[float]
    entropies: list[float]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How completions are drawn."""

    seed: int
    max_tokens: int
    eos_ids: Collection[int]
    pad_id: int
    never: Sequence[int] = ()  # ids that are not sampled
    temperature: float = 1.0


@dataclass(frozen=True, slots=True)
class Drawn:
    """What was drawn so far for the rows of a batch: one entry a position."""

    rows: list[torch.Tensor] = field(default_factory=list)  # which rows, by their place in the batch
    values: list[torch.Tensor] = field(default_factory=list)  # [3, rows]: token, log-probability, entropy

    def add(
        self, places: torch.Tensor, logits: torch.Tensor, numbers: torch.Tensor, sampling: Sampling
    ) -> torch.Tensor:
        """Draw the next token of the rows at some places, which have these numbers, from their logits."""
        logits = logits.float()
        if sampling.temperature != 1:
            logits = logits / sampling.temperature
        if sampling.never:
            logits[:, list(sampling.never)] = -torch.inf
        gumbel = noise.gumbel(sampling.seed, numbers, len(self.rows), logits.shape[1])
        tokens, logps, entropies = noise.draw(logits, gumbel)
        self.rows.append(places)
        self.values.append(torch.stack([tokens.double(), logps.double(), entropies.double()]))
        return tokens

    def tokens_of(self, places: torch.Tensor, eos_ids: Collection[int]) -> list[list[int]]:
        """Token ids of rows that were in the batch until now, cut behind their ends."""
        parts = []
        for _, stretch in groupby(zip(self.rows, self.values, strict=True), lambda pair: id(pair[0])):
            rows, values = zip(*stretch, strict=True)
            parts.append(torch.stack([value[0] for value in values], 1)[torch.isin(rows[0], places)])
        return [up_to_end(list(map(int, row)), eos_ids) for row in torch.cat(parts, 1).tolist()]

    def completions(self, number: int, eos_ids: Collection[int]) -> list[Sampled]:
        """Of each row of the batch, cut behind its end."""
        found: list[list] = [[] for _ in range(number)]
        for places, values in zip(self.rows, self.values, strict=True):
            for place, value in zip(places.tolist(), values.T.tolist(), strict=True):
                if not (found[place] and int(found[place][-1][0]) in eos_ids):
                    found[place].append(value)
        return [Sampled([int(t) for t, _, _ in row], [p for _, p, _ in row], [h for _, _, h in row]) for row in found]


def up_to_end(token_ids: list[int], eos_ids: Collection[int]) -> list[int]:
    """The token ids up to the first that ends a completion."""
    end = next((place for place, token in enumerate(token_ids) if token in eos_ids), len(token_ids))
    return token_ids[: end + 1]


def readable(
    model: PreTrainedModel,
    prompts: Sequence[PromptInputs],
    prompt_of: Sequence[int],
    pad_id: int,
    sharded: bool = False,
) -> tuple[dict[str, torch.Tensor], list[int] | None]:
    """Inputs of prompts, each once, and the prompt of each row; where the model does not allow it, of rows, and None.

    `sharded`: the model is split among processes, which have to call it equally often.
    """
    shared = divide(model) and not sharded
    asked = prompts if shared else [prompts[p] for p in prompt_of]
    inputs = {name: value.to(model.device) for name, value in left_padded(asked, pad_id).items()}
    return inputs, list(prompt_of) if shared else None


@torch.no_grad()
def sample(
    model: PreTrainedModel,
    inputs: dict[str, torch.Tensor],
    prompt_of: list[int] | None,
    sampling: Sampling,
    first: int = 0,
    ended: Ended | None = None,
) -> list[Sampled]:
    """A completion for each row of what `readable` returned.

    Args:
        first: the number of the first row; with the seed, a row's number decides what it draws.
        ended: told of every row once, of those that leave the batch early when they do.
    """
    size = len(inputs["input_ids"]) if prompt_of is None else len(prompt_of)
    numbers = torch.arange(first, first + size, device=model.device)
    eos_ids, told = set(sampling.eos_ids), set()

    def leave(places: torch.Tensor, drawn: Drawn) -> None:
        if ended is not None:
            told.update(places.tolist())
            ended(places.tolist(), drawn.tokens_of(places, eos_ids))

    if prompt_of is None:
        drawn = by_generate(model, inputs, numbers, sampling)
    else:
        rows = shared_prefill(model, inputs, torch.tensor(prompt_of, device=model.device))
        del inputs  # pixels are read
        drawn = in_turn(model, rows, numbers, sampling, leave)
    found = drawn.completions(size, eos_ids)
    if ended is not None and (rest := [place for place in range(size) if place not in told]):
        ended(rest, [found[place].token_ids for place in rest])
    return found


def in_turn(
    model: PreTrainedModel,
    rows: dict,
    numbers: torch.Tensor,
    sampling: Sampling,
    leave: Callable[[torch.Tensor, Drawn], None],
) -> Drawn:
    """Token by token, with a cache from which rows can be taken; `leave` is told which do."""
    cache, positions, mask = rows["past_key_values"], rows["position_ids"], rows["attention_mask"]
    logits, whole = rows.pop("logits"), bool(mask.all())
    places, drawn = torch.arange(len(numbers), device=model.device), Drawn()
    ends = torch.tensor(sorted(sampling.eos_ids), device=model.device)
    alive = torch.ones(len(places), dtype=torch.bool, device=model.device)
    while True:
        tokens = drawn.add(places, logits, numbers[places], sampling)
        alive &= ~torch.isin(tokens, ends)
        if len(drawn.rows) == sampling.max_tokens or not (left := int(alive.sum())):
            return drawn
        if left <= STAY * len(alive):
            leave(places[~alive], drawn)
            kept = alive.nonzero()[:, 0]
            cache.batch_select_indices(kept)
            positions, mask, tokens = positions.index_select(-2, kept), mask[kept], tokens[kept]
            places, alive = places[kept], alive[kept]
        positions, mask = positions + 1, torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
        logits = model(
            input_ids=tokens[:, None],
            position_ids=positions,
            attention_mask=None if whole else mask,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]


def by_generate(model: PreTrainedModel, inputs: dict, numbers: torch.Tensor, sampling: Sampling) -> Drawn:
    """By the model's own `generate`, whatever its cache is like; all rows stay to the end."""
    places, drawn = torch.arange(len(numbers), device=model.device), Drawn()

    class Draw(LogitsProcessor):
        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            tokens = drawn.add(places, scores, numbers, sampling)
            return torch.full_like(scores, -torch.inf).scatter_(1, tokens[:, None], 0.0)

    config = GenerationConfig(
        do_sample=False,
        repetition_penalty=1.0,
        max_new_tokens=sampling.max_tokens,
        eos_token_id=sorted(sampling.eos_ids),
        pad_token_id=sampling.pad_id,
    )
    with own_distribution(model):
        model.generate(**inputs, generation_config=config, logits_processor=[Draw()])
    return drawn
