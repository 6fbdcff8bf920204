"""Measures what a snapshot costs training: the seconds it blocks, its bytes, and the seconds to restore it.

    python -m benchmarks.snapshots [--times 5] [--quick] [--json]

In one process, in turn: a plain checkpoint as transformers' Trainer saves it, and a snapshot as a training stage makes
it (its state copied; then, in a thread, written and hashed, manifest, move, metrics). Both for the demo's model and for
a random Qwen3 of about 50 million parameters in fp32, with a full optimizer state. What blocks is also set against
`EVERY` updates of a small batch: the share of a cycle in which training waits, which larger batches make smaller.
Restoring: files checked against their hashes, then weights, then optimizer and data position.
"""

import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import uuid4

from benchmarks.common import (
    BenchRun,
    Check,
    demo_config,
    finish,
    in_words,
    markdown,
    parser,
    say,
    settle,
    spread,
    timed,
    trainer_parts,
)
from npo_core.config import RunConfig

LARGE = {"width": 512, "layers": 12, "heads": 8, "intermediate": 2048}  # 50 M
EVERY = 20  # updates a snapshot, for the share of the time
UPDATES = 3  # before snapshots are measured; the last one is timed
TINY = {"width": 64, "layers": 2, "heads": 2, "intermediate": 256}


def random_model(folder: Path, *, width: int, layers: int, heads: int, intermediate: int) -> int:
    """Save a fp32 Qwen3 with random weights and the built-in task's tokenizer; returns its number of parameters."""
    import torch
    from transformers import Qwen3ForCausalLM

    from npo_core.config import BuiltInModel
    from npo_core.models.built_in import qwen3_config
    from npo_core.problems.tokenizer import make_tokenizer

    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    config = qwen3_config(BuiltInModel(layers=layers, width=width, heads=heads), tokenizer, operands=6)
    config.intermediate_size = intermediate
    model = Qwen3ForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model.num_parameters()


def trained(config: RunConfig, folder: Path) -> tuple[Any, Any, Any, float]:
    """A trainer after some updates, so that the optimizer has its state; recorder, workspace, seconds of the last."""
    from transformers import PrinterCallback, TrainerCallback

    from npo_core.problems.load import load_problems
    from npo_core.training.recorder import SegmentRecorder
    from npo_core.training.trainer import NPOTrainer

    bench = BenchRun(config, folder / "run")
    info = bench.workspace.timeline.snapshots.get(bench.base).info
    recorder = SegmentRecorder(bench.workspace.store, "benchmark", 10**9, info, lambda row: None)
    parts = trainer_parts(
        bench.folder(bench.base),
        config.training.model_copy(update={"steps": UPDATES}),
        load_problems(config.problems),
        seed=0,
        output=folder / "trainer",
        device="cpu",
    )
    begun: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            begun.append(time.perf_counter())

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            begun[-1] = time.perf_counter() - begun[-1]

    trainer = NPOTrainer(**parts, callbacks=[recorder, Clock()])
    recorder.trainer = trainer
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return trainer, recorder, bench.workspace, begun[-1]


def plain_checkpoint(trainer: Any) -> None:
    """What transformers saves, without this project's part and without TRL's model card."""
    from transformers import Trainer

    Trainer._save_checkpoint(trainer, trainer.model, None)


def snapshot(trainer: Any, recorder: Any) -> None:
    """What a training stage does at every `snapshot_every`-th update."""
    trainer._save_checkpoint(trainer.model, None)
    recorder.on_save(trainer.args, trainer.state, trainer.control)


@contextmanager
def phases() -> Iterator[dict[str, list[float]]]:
    """Time the parts of a snapshot where the recorder calls them."""
    from npo_core.timeline import Snapshots, Store
    from npo_core.training import exact, recorder
    from npo_core.training.trainer import NPOTrainer
    from npo_core.training.unwritten import Unwritten

    places = {
        "its state copied, small files written": (NPOTrainer, "_save_checkpoint"),
        "optimizer and weights written, hashes and digests": (Unwritten, "write"),
        "digests of the rest": (exact, "checkpoint_parts"),
        "into the workspace: hash of the weights' file, manifest, move": (Snapshots, "add"),
        "of these, move and flush to disk": (Store, "put_folder"),
        "metrics as Parquet": (recorder, "write_part"),
    }
    found: dict[str, list[float]] = {name: [] for name in places}

    def clocked(name: str, owner: Any, attribute: str) -> Any:
        original = getattr(owner, attribute)

        def call(*args: Any, **kwargs: Any) -> Any:
            seconds, result = timed(lambda: original(*args, **kwargs))
            found[name].append(seconds)
            return result

        return patch.object(owner, attribute, call)

    with ExitStack() as patches:
        for name, place in places.items():
            patches.enter_context(clocked(name, *place))
        yield found


def measure_saving(trainer: Any, recorder: Any, times: int) -> dict:
    """Both ways in turn; every snapshot gets a step of its own, so that none is found done."""
    plain, whole, kept = [], [], []
    with phases() as parts:
        for number in range(times + 1):
            trainer.state.global_step = 1000 + number
            for kind in ("plain", "whole") if number % 2 == 0 else ("whole", "plain"):
                if kind == "plain":
                    plain.append(timed(lambda: plain_checkpoint(trainer))[0])
                    shutil.rmtree(trainer.args.output_dir)
                else:
                    whole.append(timed(lambda: snapshot(trainer, recorder))[0])
                    kept.append(timed(recorder.finish)[0])
            remove_older(recorder)
    each = zip(plain[1:], whole[1:], strict=True)  # the first pair warms up
    return {
        "plain_s": spread(plain[1:]),
        "snapshot_s": spread(whole[1:]),
        "kept_s": spread(kept[1:]),
        "ratio": spread([b / a for a, b in each]),
        "parts_s": {name: spread(seconds[1:]) for name, seconds in parts.items()},
    }


def remove_older(recorder: Any) -> None:
    """Keep the newest snapshot only: what is measured is the time to add one, not room for many."""
    for mark in recorder.marks[:-1]:
        shutil.rmtree(recorder.store.local(f"snapshots/{mark.snapshot}"), ignore_errors=True)


def measure_restoring(trainer: Any, recorder: Any, workspace: Any, times: int) -> dict:
    """Seconds to bring the newest snapshot back, from a disk cache that is warm."""
    from transformers import AutoModelForCausalLM

    snapshots, id_ = workspace.timeline.snapshots, recorder.marks[-1].snapshot
    folder = snapshots.folder(id_, workspace.scratch, verify=False)
    calls = {
        "check the hash of every file": lambda: snapshots.folder(id_, workspace.scratch / uuid4().hex),
        "load the weights": lambda: AutoModelForCausalLM.from_pretrained(folder),
        "load optimizer, schedule, data position": lambda: trainer._load_optimizer_and_scheduler(str(folder)),
    }
    return {name: spread([timed(call)[0] for _ in range(times)]) for name, call in calls.items()}


def measure(config: RunConfig, times: int) -> dict:
    """Everything for one model."""
    with tempfile.TemporaryDirectory(prefix="npo-snapshots-") as folder:
        trainer, recorder, workspace, update = trained(config, Path(folder))
        saving = measure_saving(trainer, recorder, times)
        size = workspace.timeline.snapshots.get(recorder.marks[-1].snapshot).bytes
        restoring = measure_restoring(trainer, recorder, workspace, times)
    cycle = {name: blocks / (EVERY * update + blocks) for name, blocks in saving["snapshot_s"].items()}
    sizes = {"parameters": trainer.model.num_parameters(), "bytes": size, "update_s": update, "share": cycle}
    return {**sizes, **saving, "restore_s": restoring}


def large_config(quick: bool, folder: Path) -> RunConfig:
    """The random model as a run's base, with the smallest batch that trains."""
    random_model(folder, **(TINY if quick else LARGE))
    config = demo_config(quick, training__prompts_per_step=2, training__group_size=4, training__micro_batch=8)
    model = {"kind": "pretrained", "path": str(folder), "dtype": "float32"}
    return config.model_validate({**config.model_dump(), "model": model})


def as_text(figures: dict[str, dict]) -> str:
    head = ["median (least to most)", *(f"{f['parameters'] / 1e6:.1f} M parameters" for f in figures.values())]
    rows = [
        ["snapshot, MB", *(f"{f['bytes'] / 1e6:.1f}" for f in figures.values())],
        ["plain checkpoint, s", *(in_words(f["plain_s"]) for f in figures.values())],
        ["snapshot blocks, s", *(in_words(f["snapshot_s"]) for f in figures.values())],
        ["kept after that, beside training, s", *(in_words(f["kept_s"]) for f in figures.values())],
        ["snapshot / plain checkpoint", *(in_words(f["ratio"], digits=2) for f in figures.values())],
        ["an update, s", *(f"{f['update_s']:.3f}" for f in figures.values())],
        [f"share of {EVERY} updates and a snapshot", *(in_words(f["share"], digits=4) for f in figures.values())],
    ]
    for key in ("parts_s", "restore_s"):
        for name in next(iter(figures.values()))[key]:
            word = "- " if key == "parts_s" else "restore: "
            rows.append([f"{word}{name}, s", *(in_words(f[key][name]) for f in figures.values())])
    return markdown(head, rows)


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--times", type=int)
    options = options.parse_args()
    times = options.times or (1 if options.quick else 5)
    small = demo_config(options.quick)
    settle(small)
    figures = {}
    with tempfile.TemporaryDirectory(prefix="npo-model-") as folder:
        for name, config in (("demo", small), ("large", large_config(options.quick, Path(folder) / "model"))):
            say(f"snapshots: the {name} model")
            figures[name] = measure(config, times)
    checks = [
        Check(f"snapshot / plain checkpoint, {f['parameters'] / 1e6:.1f} M parameters", f["ratio"]["median"], most)
        for f, most in zip(figures.values(), (None, 1.2), strict=True)  # of small files, nothing is worth a thread
    ]
    large = figures["large"]
    name = f"blocked, share of {EVERY} updates and a snapshot, {large['parameters'] / 1e6:.1f} M parameters"
    checks.append(Check(name, large["share"]["median"], 0.02))
    return finish(figures, checks, as_text(figures), options)


if __name__ == "__main__":
    sys.exit(main())
