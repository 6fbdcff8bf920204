"""Prompts as token ids: how many they are, and whether the model has a row for each."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from npo_core.errors import ConfigError

ROWS = "embedding_rows"  # attribute of a tokenizer that was loaded beside a model; others do not have it


def token_lengths(prompts: Sequence[str], tokenizer: Any, batch: int = 1000) -> Iterator[int]:
    """Tokens of each text, special ones included. Raises ConfigError where the model has no row for one."""
    rest = iter(prompts)
    while texts := list(islice(rest, batch)):
        ids = tokenizer(texts)["input_ids"]
        refuse_beyond(tokenizer, ids)
        yield from map(len, ids)


def refuse_beyond(tokenizer: Any, ids: Sequence[Sequence[int]]) -> None:
    """Stop where token ids go beyond the rows of the model's embedding; ids that nothing uses may.

    Raises:
        ConfigError: one does.
    """
    rows = getattr(tokenizer, ROWS, None)
    largest = max((max(row) for row in ids if row), default=-1)
    if rows is not None and largest >= rows:
        raise ConfigError(
            f"The tokenizer of {tokenizer.name_or_path} writes {tokenizer.convert_ids_to_tokens(largest)!r} as id "
            f"{largest}, and the model's embedding has {rows} rows: take the tokenizer that belongs to the model, or "
            "resize the embedding (resize_token_embeddings) and save both."
        )
