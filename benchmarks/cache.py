"""Measures the guidance cache: writing a large one, and opening it for a few prompts.

    python -m benchmarks.cache --rows 1000000 --tokens 512 --prompts 10000 [--json] [--folder DIR]

Writes a cache into a temporary folder (removed afterwards), then opens it in a fresh process for random prompts,
after the kernel was asked to forget the files. Each phase is a process of its own, so that its peak memory is its own.
Passes when both peaks stay below 500 MB and the second opening, from the kernel's copies of the files, takes less than
half a second; the exit code is 1 when not.

The rows: token ids of a vocabulary of 151,000 with frequencies falling as a power law, log-probs mostly near 0 with an
exponential tail, prompt ids that are hashes. All rows are cut from one chunk of random values at different offsets.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import numpy as np

from npo_core.guidance import CacheWriter, GuidanceCache, Trajectory
from npo_core.timeline.store import Store

VOCABULARY = 151_000
EOS = 151_000
CHUNK_ROWS = 4_096  # 128 row groups: far more than a compressor can look back
PEAK_LIMIT_MB = 500
OPEN_LIMIT_S = 0.5
PHASES = ("write", "open")


def main() -> int:
    """Run all phases, report, and return the exit code."""
    arguments = parse_arguments()
    if arguments.phase:
        print(json.dumps(run_phase(arguments)))
        return 0
    require_disk(arguments)
    folder = tempfile.mkdtemp(prefix="npo-cache-", dir=arguments.folder)
    try:
        report = {phase: in_fresh_process(phase, folder, arguments) for phase in PHASES}
    finally:
        shutil.rmtree(folder)
    small = all(report[phase]["peak_mb"] < PEAK_LIMIT_MB for phase in PHASES)
    report["passed"] = small and report["open"]["open_warm_s"] < OPEN_LIMIT_S
    print(json.dumps(report) if arguments.json else as_text(report))
    return 0 if report["passed"] else 1


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--tokens", type=int, default=512, help="tokens per row")
    parser.add_argument("--prompts", type=int, default=10_000, help="prompts to open the cache for")
    parser.add_argument("--folder", help="where the temporary folder is made")
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of text")
    parser.add_argument("--phase", choices=PHASES, help=argparse.SUPPRESS)
    return parser.parse_args()


def require_disk(arguments: argparse.Namespace) -> None:
    """Stop before anything is written when the cache cannot fit."""
    needed = arguments.rows * (arguments.tokens * 8 + 200)
    free = shutil.disk_usage(arguments.folder or tempfile.gettempdir()).free
    if free < needed * 1.2:
        sys.exit(f"{needed / 1e9:.1f} GB may be needed, {free / 1e9:.1f} GB are free: choose --folder or fewer --rows.")


def in_fresh_process(phase: str, folder: str, arguments: argparse.Namespace) -> dict:
    sizes = [f"--{name}={getattr(arguments, name)}" for name in ("rows", "tokens", "prompts")]
    command = [sys.executable, "-m", "benchmarks.cache", "--phase", phase, "--folder", folder, *sizes]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def run_phase(arguments: argparse.Namespace) -> dict:
    store = Store(arguments.folder)
    result = measure_write(store, arguments) if arguments.phase == "write" else measure_open(store, arguments)
    return result | {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def measure_write(store: Store, arguments: argparse.Namespace) -> dict:
    """Write the cache; the time to make the rows is measured apart and taken off."""
    start = time.perf_counter()
    prompts = prompt_ids(arguments.rows)
    values = random_values(arguments.tokens)
    made = time.perf_counter()
    for _ in cut_rows(prompts, values, arguments.tokens):
        pass
    cutting_s = time.perf_counter() - made
    start_write = time.perf_counter()
    writer = CacheWriter(store)
    writer.write(cut_rows(prompts, values, arguments.tokens))
    info = writer.finish(**facts(arguments))
    seconds = time.perf_counter() - start_write - cutting_s
    size = sum(entry.bytes for entry in info.files)
    return {
        "generate_s": made - start + cutting_s,
        "write_s": seconds,
        "rows_per_s": arguments.rows / seconds,
        "values_mb_per_s": arguments.rows * arguments.tokens * 8 / 1e6 / seconds,
        "bytes": size,
        "bytes_per_token": size / arguments.rows / arguments.tokens,
        "files": len(info.files),
        "row_groups": sum(entry.row_groups for entry in info.files),
    }


def measure_open(store: Store, arguments: argparse.Namespace) -> dict:
    """Open the cache twice, first from the disk, then from the kernel's page cache."""
    asked = np.random.default_rng(1).choice(prompt_ids(arguments.rows), min(arguments.prompts, arguments.rows), False)
    asked = [prompt.decode() for prompt in asked]
    forget_files(store)
    cold_s, cache = timed_open(store, asked)
    read, groups = cache.read, sum(entry.row_groups for entry in cache.info.files)
    assert len(cache) == len(asked)
    del cache
    warm_s, cache = timed_open(store, asked)
    start = time.perf_counter()
    found = sum(row is not None for row in cache.lookup(asked))
    lookup_s = time.perf_counter() - start
    return {
        "open_cold_s": cold_s,
        "open_warm_s": warm_s,
        "prompts_found": found,
        "decode_s": lookup_s,
        "bytes_read": read.bytes,
        "row_groups_read": read.row_groups,
        "share_of_row_groups": read.row_groups / groups,
    }


def timed_open(store: Store, asked: list[str]) -> tuple[float, GuidanceCache]:
    start = time.perf_counter()
    cache = GuidanceCache.open(store, asked)
    return time.perf_counter() - start, cache


def forget_files(store: Store) -> None:
    """Ask the kernel to drop its copies of the files (they were forced to the disk when written)."""
    for name in store.list():
        fd = os.open(store.path(name), os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def prompt_ids(count: int) -> np.ndarray:
    """Sorted hashes, as fixed-width text to stay small."""
    return np.sort(np.array([hashlib.md5(b"%d" % n).hexdigest() for n in range(count)], "S32"))


def random_values(tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """One chunk of token ids (int32) and log-probs (float32)."""
    rng = np.random.default_rng(0)
    count = CHUNK_ROWS * tokens
    token_ids = ((rng.zipf(1.2, count).astype(np.uint64) - 1) % VOCABULARY).astype(np.int32)
    scale = np.where(rng.random(count) < 0.6, 1e-3, 0.7)
    return token_ids, -rng.exponential(scale).astype(np.float32)


def cut_rows(prompts: np.ndarray, values: tuple[np.ndarray, np.ndarray], tokens: int) -> Iterator[Trajectory]:
    """Row n takes its values from the chunk at an offset that differs in every pass over it."""
    token_ids, logprobs = values
    room = len(token_ids) - tokens
    rewards = np.ones(1, np.float32)
    for n, prompt in enumerate(prompts):
        start = (n * tokens + n // CHUNK_ROWS * 17) % room
        row = token_ids[start : start + tokens].copy()
        row[-1] = EOS
        behaviour = logprobs[start : start + tokens]
        yield Trajectory(prompt.decode(), row, behaviour, rewards, "correct", "guide", 60, 0, 1, n)


def facts(arguments: argparse.Namespace) -> dict:
    return {
        "tokenizer": "benchmark",
        "model": "benchmark",
        "problems": "benchmark",
        "reward_names": ["correct"],
        "eos_token_id": EOS,
        "sampling": {"temperature": 1.0},
        "guides": [{"id": "guide", "step": 60}],
        "prompts_asked": arguments.rows,
        "samples_drawn": arguments.rows,
        "tokens_generated": arguments.rows * arguments.tokens,
        "seconds": 0.0,
    }


def as_text(report: dict) -> str:
    lines = [
        f"{phase:6} {name:20} {value:,.2f}" if isinstance(value, float) else f"{phase:6} {name:20} {value:,}"
        for phase in PHASES
        for name, value in report[phase].items()
    ]
    verdict = "passed" if report["passed"] else "FAILED"
    return "\n".join(
        [*lines, f"{verdict}: peak memory of each phase below {PEAK_LIMIT_MB} MB, warm below {OPEN_LIMIT_S} s"]
    )


if __name__ == "__main__":
    sys.exit(main())
