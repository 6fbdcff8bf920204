"""`cache.json`: what a guidance cache holds, for what it was made, and what it cost."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import Field

from npo_core.timeline.records import Record

SCHEMA_VERSION = 1
INFO_FILE = "cache.json"
REMEDY = "Copy the cache again from where it is whole, or remove its folder and generate guidance again."
FINGERPRINTS = ("tokenizer", "model", "problems", "reward_names")
# A cache is the same when its rows are and when these say the same; what it cost to make is no part of what it is.
IDENTITY = (*FINGERPRINTS, "eos_token_id", "sampling", "guides")


class FileEntry(Record):
    """One Parquet file: its size in bytes, its SHA-256 in hex, and the prompt ids of its first and last row."""

    name: str
    rows: int
    row_groups: int
    bytes: int
    sha256: str
    first: str
    last: str


class IndexEntry(Record):
    """The index: its size in bytes, and its SHA-256 in hex."""

    name: str
    bytes: int
    sha256: str


class GuideEntry(Record):
    """A snapshot that wrote rows of the cache: its id, and its step for people to read."""

    id: str
    step: int


class CacheInfo(Record):
    """The content of `cache.json`.

    tokenizer, model, problems   fingerprints of what the cache was made for (model: architecture and vocabulary)
    eos_token_id                 every row ends with it (or with one of them)
    sampling                     temperature, top_p, top_k, k, keep, stop_at_first_correct, ...
    prompts_asked                prompts for which a guide drew samples; those with a row are `rows`
    prompts_solved               prompts with a row, where some have several; none: as many as `rows`
    prompts_skipped              prompts of the segment that were not asked (already solved by the scout)
    tokens_generated             tokens of all samples drawn, kept or not
    seconds                      wall time of the generation
    refused                      samples found right that guidance.verifier, the second opinion, did not; 0: left out
    index                        where rows lie; none: the cache was written before there were any, and is read as ever
    guessed                      samples right only by a verifier's fallback, which are no guidance; 0: left out
    """

    schema_version: int = SCHEMA_VERSION
    id: str
    rows: int = Field(ge=0)
    files: list[FileEntry]
    tokenizer: str
    model: str
    problems: str
    reward_names: list[str]
    eos_token_id: int | list[int]
    sampling: dict[str, Any]
    guides: list[GuideEntry]
    prompts_asked: int = Field(ge=0)
    prompts_skipped: int = Field(default=0, ge=0)
    tokens_generated: int = Field(ge=0)
    samples_drawn: int = Field(ge=0)
    seconds: float = Field(ge=0)
    prompts_solved: int | None = Field(None, ge=0, exclude_if=lambda count: count is None)
    index: IndexEntry | None = Field(None, exclude_if=lambda index: index is None)
    refused: int = Field(0, ge=0, exclude_if=lambda count: not count)
    guessed: int = Field(0, ge=0, exclude_if=lambda count: not count)

    @property
    def coverage(self) -> float:
        """Q: the share of the prompts asked that have a correct trajectory; 0 when none was asked."""
        solved = self.rows if self.prompts_solved is None else self.prompts_solved
        return solved / self.prompts_asked if self.prompts_asked else 0.0

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """The token ids a row may end with."""
        return frozenset([self.eos_token_id] if isinstance(self.eos_token_id, int) else self.eos_token_id)


def cache_id(rows_digest: bytes, info: CacheInfo) -> str:
    """16 hex characters that name the content: the rows' digests in order of prompt id, and the `IDENTITY` fields."""
    facts = info.model_dump(mode="json", include={"schema_version", *IDENTITY})
    facts["guides"] = sorted(facts["guides"], key=lambda guide: (guide["step"], guide["id"]))
    canonical = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(rows_digest + canonical.encode()).hexdigest()[:16]
