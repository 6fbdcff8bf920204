"""What an update pays for being watched, measured in one training process."""

import statistics
import time
from pathlib import Path
from typing import Any

from benchmarks.common import BenchRun
from benchmarks.steps import PLAIN, Setting, make_trainer
from npo_core.config import RunConfig

WARM_UP = 6  # updates that do not count


def watching(config: RunConfig, folder: Path, updates: int) -> dict[str, float]:
    """Every other update of a trainer is watched, with a full mistake pool.

    Milliseconds of CPU time of an update (medians), of the controller's own part of it, and what a snapshot pays for
    the controller's file.
    """
    from npo_core.control.controller import CONTROLLER_FILE, Controller
    from npo_core.problems.load import load_problems

    problems = load_problems(config.problems)
    controller = Controller(config.auto.control, quiet_until=updates)
    controller.pool.add(0, [(problem.id, 0.0) for problem in problems.train])
    begun, taken = train_in_turns(config, problems, controller, folder, updates)
    steps = [after - before for before, after in zip(begun, begun[1:], strict=False)]
    started = time.perf_counter()
    controller.save(folder)
    return {
        "plain_ms": 1000 * statistics.median(steps[WARM_UP::2]),
        "watched_ms": 1000 * statistics.median(steps[WARM_UP + 1 :: 2]),
        "controller_ms": 1000 * statistics.median(taken),
        "save_ms": 1000 * (time.perf_counter() - started),
        "save_kb": (folder / CONTROLLER_FILE).stat().st_size / 1000,
    }


def train_in_turns(
    config: RunConfig, problems: Any, controller: Any, folder: Path, updates: int
) -> tuple[list[float], list[float]]:
    """CPU time at the start of every update, and the seconds of each call of the controller; even updates have none."""
    from transformers import TrainerCallback

    from npo_core.training.recorder import SegmentRecorder

    begun: list[float] = []
    taken: list[float] = []

    class Timed:
        warning = False

        def update(self, *args: Any) -> None:
            started = time.perf_counter()
            controller.update(*args)
            taken.append(time.perf_counter() - started)

    class Turns(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            recorder.controller = Timed() if state.global_step % 2 else None
            begun.append(time.process_time())

    bench = BenchRun(config, folder / "run")
    model = bench.folder(bench.base)
    setting = Setting(model, config.training, problems, None, folder, "cpu", config.seed, updates, WARM_UP)
    trainer = make_trainer(PLAIN, setting)
    recorder = next(c for c in trainer.callback_handler.callbacks if isinstance(c, SegmentRecorder))
    trainer.add_callback(Turns)
    trainer.train()
    return begun, taken
