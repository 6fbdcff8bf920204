"""Measures what it saves that the samples of a prompt share its prefill, of prompts with a picture.

    python -m benchmarks.prefill [--rounds 4] [--quick] [--json]

The transformers engine samples 16 tokens 8 times for each of 8 prompts of a random Qwen3-VL, one thread, with shared
prefill and without, in turn. Exits with 1 where the tokens differ.
"""

import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

from benchmarks.common import finish, in_words, markdown, parser, say, spread
from benchmarks.plan_images import configure

PROMPTS, SAMPLES, TOKENS = 8, 8, 16


def measure(folder: Path, rounds: int, quick: bool) -> dict[str, list[float]]:
    """Seconds of each round, shared and alone."""
    import torch

    from npo_core.engines import sampling, transformers
    from npo_core.models.load import load_processor
    from npo_core.problems.load import load_problems

    torch.set_num_threads(1)
    config = configure(folder, {}, "cpu", quick)
    problems = load_problems(config.problems, processor=load_processor(folder / "model")).held_out[:PROMPTS]
    engine = transformers.TransformersEngine(folder / "model")
    ways = {"shared": sampling.divide, "alone": lambda *_: False}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    drawn = {}
    for number in range(rounds + 1):
        for way, divide in ways.items():
            with patch.object(sampling, "divide", divide):
                started = time.perf_counter()
                answers = engine.generate(problems, samples=SAMPLES, max_tokens=TOKENS, seed=number)
            seconds[way].append(time.perf_counter() - started)
            drawn[way] = [[completion.token_ids for completion in given] for given in answers]
        if drawn["shared"] != drawn["alone"]:
            sys.exit("shared prefill gives other tokens")
    return {way: taken[1:] for way, taken in seconds.items()}  # the first round warms up


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--rounds", type=int)
    options = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="npo-prefill-") as folder:
        found = measure(Path(folder), 1 if options.quick else options.rounds or 4, options.quick)
    say("prefill: the same tokens in every round")
    rows = [[way, in_words(spread(taken), digits=2)] for way, taken in found.items()]
    return finish(found, [], markdown(["prefill", "s: median (least to most)"], rows), options)


if __name__ == "__main__":
    sys.exit(main())
