"""Measures what it saves that rows take the places of those that have ended, instead of batches one after another.

    python -m benchmarks.refill [--rounds 4] [--quick] [--json]

A random Qwen3 (8 x 256), in which an end may come at any place, samples 128 completions of at most 512 tokens, 16 at
once, of prompts of several lengths: in batches, each drained to its longest row, and in one sequence, in turn, one
thread. Exits with 1 where tokens differ.
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import finish, in_words, markdown, parser, say, spread

ROWS, AT_ONCE, TOKENS = 128, 16, 512
WAYS = ("in batches", "in one sequence")


def make_model(folder: Path, quick: bool) -> None:
    """A random model, by whose completions lengths are spread."""
    from transformers import AutoConfig

    from npo_core.models.tiny import make_tokenizer, save_random

    tokenizer = make_tokenizer()
    width, layers = (64, 2) if quick else (256, 8)
    config = AutoConfig.for_model(
        "qwen3", vocab_size=len(tokenizer), hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
        num_attention_heads=8, num_key_value_heads=4, head_dim=width // 8,
    )  # fmt: skip
    save_random(config, tokenizer, folder, seed=0)


class Counted:
    """Passes of a model that decode, and their places; prompts apart."""

    def __init__(self, model: Any):
        self.forward, self.passes, self.places, self.prompts = model.forward, 0, 0, 0
        model.forward = self

    def __call__(self, **given: Any) -> Any:
        if given["past_key_values"].get_seq_length() == 0:
            self.prompts += 1
        else:
            self.passes += 1
            self.places += len(given["input_ids"])
        return self.forward(**given)


def measure(folder: Path, rounds: int, quick: bool) -> dict[str, dict[str, Any]]:
    """Of each way: seconds of each round; and of all rounds passes, prompt passes and the share of idle places."""
    import torch

    from npo_core.engines.transformers import TransformersEngine
    from npo_core.problems import Problem

    torch.set_num_threads(1)
    make_model(folder, quick)
    rows, at_once = (64, 8) if quick else (ROWS, AT_ONCE)
    engine = TransformersEngine(folder, batch=at_once)
    problems = [Problem(f"{i // 8:016x}", "word " * (1 + i // 8 % 5) + str(i // 8), "", 0) for i in range(rows)]
    forward, found = engine.model.forward, {way: {"seconds": [], "counts": []} for way in WAYS}
    for number in range(rounds + 1):
        drawn = {}
        for way in WAYS if number % 2 else WAYS[::-1]:
            engine.model.forward = forward
            counted, started = Counted(engine.model), time.perf_counter()
            size = at_once if way == WAYS[0] else rows
            parts = [
                engine.generate_part(problems[at : at + size], at, TOKENS, seed=number) for at in range(0, rows, size)
            ]
            seconds, drawn[way] = time.perf_counter() - started, [c.token_ids for part in parts for c in part]
            lengths = [len(ids) for ids in drawn[way]]
            found[way]["counts"].append(counts(counted, lengths, at_once))
            if number:  # the first round warms up
                found[way]["seconds"].append(seconds)
        if drawn[WAYS[0]] != drawn[WAYS[1]]:
            sys.exit("a sequence gives other tokens than batches")
        say(f"refill: round {number}/{rounds}: mean length {sum(lengths) / rows:.1f}, longest {max(lengths)}")
    return found


def counts(counted: Counted, lengths: list[int], at_once: int) -> dict[str, float]:
    """Of one round: passes, the share of rows in them that had ended, and that of places without a row that goes on.

    `occupancy`: of places while rows wait, as `npo_core.planning.seconds` has it.
    """
    mean, longest = sum(lengths) / len(lengths), max(lengths)
    useful = sum(lengths) - len(lengths)  # a row's first token comes of its prompt
    return {
        "passes": counted.passes,
        "prompts": counted.prompts,
        "ended": 1 - useful / counted.places,
        "idle": 1 - useful / (counted.passes * at_once),
        "occupancy": (len(lengths) / at_once - 1) * mean / max(counted.passes - longest, 1),
    }


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--rounds", type=int)
    options = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="npo-refill-") as folder:
        found = measure(Path(folder), 1 if options.quick else options.rounds or 4, options.quick)
    names = ("passes", "prompts", "ended", "idle", "occupancy")
    rows = []
    for way, values in found.items():
        of = {name: spread([count[name] for count in values["counts"]]) for name in names}
        rows.append([way, in_words(spread(values["seconds"]), digits=2)])
        rows[-1] += [in_words(of[name], digits=0 if name in ("passes", "prompts") else 3) for name in names]
    head = ["128 rows, 16 at once", "s", "passes", "prompt passes", "rows ended", "places idle", "occupancy"]
    return finish(found, [], markdown(head, rows), options)


if __name__ == "__main__":
    sys.exit(main())
