"""Sampling from a transformers model: a prompt is read once, and a row that has ended gives its place to the next.

All of it follows from token ids: which rows are in the model together, and so how they are rounded, is the same
whenever the same rows are asked for with the same seed.
"""

from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from transformers import DynamicCache, GenerationConfig, LogitsProcessor, PreTrainedModel

from npo_core.engines import noise
from npo_core.engines.prefill import cut, divide, join, left_joined, shared_prefill
from npo_core.models.inputs import PromptInputs, left_padded
from npo_core.models.sampling import own_distribution

STAY = 0.75  # rows leave once at most this share of them goes on: a cache whose rows change is copied


class Row(NamedTuple):
    """One completion that is asked for."""

    prompt: Hashable  # whatever `read` knows it by
    number: int  # with the seed, decides what it draws


Read = Callable[[list[Any]], Sequence[PromptInputs]]  # gives prompts, each asked for once
Ended = Callable[[list[int], list[list[int]]], None]  # told rows, by their places among all, and their token ids
More = Callable[[int], Sequence[Row]]  # told how many rows are in the model; gives further ones for the next places


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


@torch.no_grad()
def sample(
    model: PreTrainedModel,
    read: Read,
    rows: Sequence[Row],
    sampling: Sampling,
    *,
    at_once: int | None = None,
    sharded: bool = False,
    ended: Ended | None = None,
    more: More | None = None,
) -> list[Sampled]:
    """A completion for each row, and for each that `more` gave behind them.

    Args:
        read: asked for the prompts of rows when these come into the model, so that no more pixels are held than needed.
        at_once: rows in the model at a time; None: all of `rows`. Where some leave, the next ones take their places; a
            model whose cache does not `divide` takes them in batches.
        sharded: the model is split among processes, which have to call it equally often: in batches, too.
        ended: told of every row once, when it leaves.
        more: asked where places are free and too few rows wait for them; no rows: none for now.
    """
    line = Line(read, rows, at_once, more, model.device, sampling.pad_id)
    drawn = Drawn(sampling, ended, model.device)
    if divide(model) and not sharded:
        in_turn(model, line, drawn)
    else:
        in_batches(model, line, drawn)
    return [drawn.found[place] for place in range(len(line.rows))]


class Line:
    """Rows that wait for a place in the model."""

    def __init__(
        self, read: Read, rows: Sequence[Row], at_once: int | None, more: More | None, device: torch.device, pad_id: int
    ):
        self.read, self.rows, self.more = read, list(rows), more
        self.at_once = at_once or len(rows)
        self.device, self.pad_id = device, pad_id
        self.first = 0  # that waits
        self.turns_over = more is not None or len(rows) > self.at_once  # whether rows ever take places of others

    def next(self, taken: int = 0) -> range:
        """Places among all rows of those that come into the model now, beside `taken` that are in it."""
        free = self.at_once - taken
        if self.more is not None and len(self.rows) - self.first < free:
            self.rows += self.more(taken)
        places = range(self.first, min(self.first + free, len(self.rows)))
        self.first = places.stop
        return places

    def inputs(self, places: range, each: bool = False) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Of some rows: inputs of their prompts, each prompt once, and which of them a row has. `each`: of each row."""
        asked = [self.rows[place].prompt for place in places]
        number = {prompt: i for i, prompt in enumerate(dict.fromkeys(asked))}
        prompts, prompt_of = self.read(list(number)), [number[prompt] for prompt in asked]
        padded = left_padded([prompts[i] for i in prompt_of] if each else prompts, self.pad_id)
        inputs = {name: value.to(self.device) for name, value in padded.items()}
        return inputs, torch.tensor(prompt_of, device=self.device)

    def numbers(self, places: range) -> torch.Tensor:
        """The numbers of some rows."""
        return torch.tensor([self.rows[place].number for place in places], device=self.device)


class Drawn:
    """What was drawn, by the places of rows."""

    def __init__(self, sampling: Sampling, ended: Ended | None, device: torch.device):
        self.sampling, self.ended, self.eos_ids = sampling, ended, set(sampling.eos_ids)
        self.ends = torch.tensor(sorted(self.eos_ids), device=device)
        self.found: dict[int, Sampled] = {}  # of rows that have left
        self.rows: dict[int, list[list[float]]] = {}  # token, log-probability and entropy by position, of the others
        self.newest: list[torch.Tensor] = []  # [3, rows] each, of the rows in the model since it had these

    def add(self, logits: torch.Tensor, numbers: torch.Tensor, positions: torch.Tensor | int) -> torch.Tensor:
        """Draw the next token of rows with these numbers, each at its position, from their logits."""
        logits, sampling = logits.float(), self.sampling
        if sampling.temperature != 1:
            logits = logits / sampling.temperature
        if sampling.never:
            logits[:, list(sampling.never)] = -torch.inf
        gumbel = noise.gumbel(sampling.seed, numbers, positions, logits.shape[1])
        tokens, logps, entropies = noise.draw(logits, gumbel)
        self.newest.append(torch.stack([tokens.double(), logps.double(), entropies.double()]))
        return tokens

    def hand_out(self, places: Sequence[int]) -> None:
        """Give the rows in the model, by their places, what was drawn for them."""
        if not self.newest:
            return
        for place, values in zip(places, torch.stack(self.newest, 2).permute(1, 2, 0).tolist(), strict=True):
            self.rows.setdefault(place, []).extend(values)
        self.newest.clear()

    def leave(self, places: list[int]) -> None:
        """These rows have ended: each is cut behind its end."""
        for place in places:
            tokens, logps, entropies = map(list, zip(*self.rows.pop(place), strict=True))
            ids = list(map(int, tokens))
            end = next((i for i, token in enumerate(ids, 1) if token in self.eos_ids), len(ids))
            self.found[place] = Sampled(ids[:end], logps[:end], entropies[:end])
        if self.ended is not None and places:
            self.ended(places, [self.found[place].token_ids for place in places])


@dataclass
class Running:
    """The rows that are in the model, B, and what each goes on from."""

    places: torch.Tensor  # [B] among all rows
    numbers: torch.Tensor  # [B]
    length: torch.Tensor  # [B] tokens drawn so far
    tokens: torch.Tensor  # [B] the last ones
    alive: torch.Tensor  # [B] no end-of-sequence token came
    positions: torch.Tensor  # [..., B, 1] of the token before the last one
    mask: torch.Tensor  # [B, columns] of the cache
    cache: DynamicCache
    longest: int  # the largest of them
    whole: bool  # no row is padded

    def keep(self, rows: torch.Tensor) -> None:
        """Only these, by their places in the batch, stay."""
        self.cache.batch_select_indices(rows)
        self.positions = self.positions.index_select(-2, rows)
        for name in ("places", "numbers", "length", "tokens", "alive", "mask"):
            setattr(self, name, getattr(self, name)[rows])

    def narrow(self) -> None:
        """Leave out the columns that no row needs, so that none is further left than the longest row begins."""
        columns = int(self.mask.any(0).int().argmax())
        cut(self.cache, columns)
        self.mask = self.mask[:, columns:]
        self.longest, self.whole = int(self.length.max()), bool(self.mask.all())

    def join(self, other: "Running") -> None:
        """Take in the rows of another, which begin."""
        join(self.cache, other.cache)
        self.positions = torch.cat([self.positions, other.positions], -2)
        self.mask = left_joined(self.mask, other.mask, -1)
        for name in ("places", "numbers", "length", "tokens", "alive"):
            setattr(self, name, torch.cat([getattr(self, name), getattr(other, name)]))
        self.whole = bool(self.mask.all())

    def forward(self, model: PreTrainedModel) -> torch.Tensor:
        """Logits [B, V] behind the last tokens, which are in the cache then."""
        self.positions, self.mask = self.positions + 1, torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], 1)
        return model(
            input_ids=self.tokens[:, None],
            position_ids=self.positions,
            attention_mask=None if self.whole else self.mask,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]

    def take(self, tokens: torch.Tensor, ends: torch.Tensor) -> None:
        """Go on from these tokens."""
        self.tokens, self.length, self.longest = tokens, self.length + 1, self.longest + 1
        self.alive &= ~torch.isin(tokens, ends)


def in_turn(model: PreTrainedModel, line: Line, drawn: Drawn) -> None:
    """Token by token, with a cache from which rows can be taken, and into which others can be put."""
    running = begin(model, line, drawn)
    while running is not None:
        left = int(running.alive.sum())
        if left <= STAY * len(running.places) or running.longest == drawn.sampling.max_tokens:
            running = turn_over(model, line, drawn, running)
        else:
            running.take(drawn.add(running.forward(model), running.numbers, running.length), drawn.ends)


def begin(model: PreTrainedModel, line: Line, drawn: Drawn, taken: int = 0) -> Running | None:
    """The next rows, with their first tokens, beside `taken` that are in the model; None: none wait."""
    if not (places := line.next(taken)):
        return None
    found: Any = shared_prefill(model, *line.inputs(places))
    numbers = line.numbers(places)
    running = Running(
        places=torch.tensor(places, device=model.device),
        numbers=numbers,
        length=torch.zeros_like(numbers),
        tokens=numbers,
        alive=torch.ones_like(numbers, dtype=torch.bool),
        positions=found["position_ids"],
        mask=found["attention_mask"],
        cache=found["past_key_values"],
        longest=0,
        whole=bool(found["attention_mask"].all()),
    )
    running.take(drawn.add(found["logits"], numbers, running.length), drawn.ends)
    drawn.hand_out(places)
    return running


def turn_over(model: PreTrainedModel, line: Line, drawn: Drawn, running: Running) -> Running | None:
    """Rows that have ended leave, and the next come in; None: none are left."""
    drawn.hand_out(running.places.tolist())
    stay = running.alive & (running.length < drawn.sampling.max_tokens)
    drawn.leave(running.places[~stay].tolist())
    kept = stay.nonzero()[:, 0]
    if not len(kept):
        return begin(model, line, drawn)
    running.keep(kept)
    if line.turns_over:  # else no row begins later than the longest of them
        running.narrow()
    if (coming := begin(model, line, drawn, len(kept))) is not None:
        running.join(coming)
    return running


def in_batches(model: PreTrainedModel, line: Line, drawn: Drawn) -> None:
    """By the model's own `generate`, whatever its cache is like; all rows of a batch stay to its end."""
    while places := line.next():
        inputs, _ = line.inputs(places, each=True)
        by_generate(model, inputs, line.numbers(places), drawn)
        drawn.hand_out(places)
        drawn.leave(list(places))


def by_generate(model: PreTrainedModel, inputs: dict, numbers: torch.Tensor, drawn: Drawn) -> None:
    """Draw one batch by the model's own `generate`."""
    sampling = drawn.sampling

    class Draw(LogitsProcessor):
        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            tokens = drawn.add(scores, numbers, len(drawn.newest))
            return torch.full_like(scores, -torch.inf).scatter_(1, tokens[:, None], 0.0)

    config = GenerationConfig(
        do_sample=False,
        repetition_penalty=1.0,
        max_new_tokens=sampling.max_tokens,
        eos_token_id=sorted(drawn.eos_ids),
        pad_token_id=sampling.pad_id,
    )
    with own_distribution(model):
        model.generate(**inputs, generation_config=config, logits_processor=[Draw()])
