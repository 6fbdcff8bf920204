"""Keeps what a segment learns of itself: metrics of updates, outcomes and samples of prompts, a snapshot a mark."""

import math
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import TrainerCallback

from npo_core.control.controller import Controller
from npo_core.errors import DivergedError
from npo_core.mix import Mixer
from npo_core.timeline import Snapshots, Store
from npo_core.timeline.segments import MIXED, STEP_SCHEMA, Mark, write_part
from npo_core.training import exact
from npo_core.training.trainer import NPOTrainer
from npo_core.training.unwritten import Unwritten

# Where TRL's or the trainer's own log has what a step row holds, where the name differs.
LOGGED_AS = {
    "guide_log_ratio": "guide/log_ratio",
    "guide_kl": "guide/kl",
    "clip_low": "clip_ratio/low_mean",
    "clip_high": "clip_ratio/high_mean",
    **{f"rollout_{name}": f"sampling/{name}" for name in ("kl", "ratio", "beyond")},
    "completion_length": "completions/mean_length",
    "cut_off": "completions/clipped_ratio",
    "seconds_generate": "seconds/generate",
    "seconds_verify": "seconds/verify",
    **{f"verified_{outcome}": f"verified/{outcome}" for outcome in ("unparsable", "timeout", "crash")},
    **{name: f"mix/{name}" for name in MIXED},
    **{f"groups_{name}": f"groups/{name}" for name in ("all_wrong", "all_right", "injected", "rescued")},
}


def step_row(step: int, logs: dict[str, Any]) -> dict[str, Any]:
    """One row of `STEP_SCHEMA` from what the trainer logged at an update; what was not logged is null."""
    row = {name: logs.get(LOGGED_AS.get(name, name)) for name in STEP_SCHEMA.names}
    spent = [logs.get(f"seconds/{phase}", 0.0) for phase in ("step", "generate", "verify")]
    return row | {"step": step, "seconds_update": spent[0] - spent[1] - spent[2]}


class Part(NamedTuple):
    """A checkpoint that is to become the end of a part of the segment; see `Mark`."""

    folder: Path
    step: int
    seconds: float
    ended: str | None
    processes: int
    unwritten: Unwritten


class SegmentRecorder(TrainerCallback):
    """Commits a part of the segment at every checkpoint and ends training where the segment ends.

    Training goes on as soon as its state is copied: a thread writes and hashes it, keeps or uploads it, and marks the
    part. The next checkpoint waits for it, so that there is one copy at most, and `finish` does. The mark is written
    last, so a crash leaves no half part.

    The segment ends at `until`, at the first snapshot at which the controller warns or a rescue is over, or where
    `token_limit` is used up.

    Args:
        info: goes into every snapshot's manifest. progress: told the newest step row.
        controller: told every update and kept in every snapshot; None: the run is not watched.
        tokens_left: generated tokens after which the segment ends.

    Raises:
        DivergedError: at the update where loss or gradient norm is not finite, before anything of it is kept.
    """

    def __init__(
        self,
        store: Store,
        segment: str,
        until: int,
        info: dict[str, Any],
        progress: Callable[[dict[str, Any]], None],
        controller: Controller | None = None,
        tokens_left: float = math.inf,
    ):
        self.store, self.segment, self.until, self.info, self.progress = store, segment, until, info, progress
        self.controller, self.tokens_left = controller, tokens_left
        self.trainer: NPOTrainer  # set before training
        self.mixer: Mixer | None = None  # kept in every snapshot
        self.steps: list[dict[str, Any]] = []
        self.outcomes: list[dict[str, Any]] = []
        self.completions: list[dict[str, Any]] = []
        self.marks: list[Mark] = []
        self.snapshot_seconds = 0.0  # in which training waited
        self._unwritten, self._begun = Unwritten(), 0.0
        self._keeper = ThreadPoolExecutor(1, "snapshot")
        self._keeping: Future[Mark] | None = None
        self._since = time.perf_counter()

    def on_train_begin(self, args, state, control, **kwargs):
        self.trainer.begin_checkpoint = self.begin

    def begin(self) -> Unwritten:
        """Where the trainer puts what it copies of its state, once the part before is kept."""
        self._begun = time.perf_counter()
        self.finish()
        self._unwritten = Unwritten()
        return self._unwritten

    def ended(self, step: int) -> str | None:
        """Why training ends after an update: until, tokens, rescued or warning; None: it goes on."""
        if step >= self.until:
            return "until"
        if self.tokens_left <= 0:
            return "tokens"
        if self.mixer is not None and self.mixer.rescue is not None and self.mixer.rescue.over:
            return "rescued"
        return "warning" if self.controller is not None and self.controller.warning else None

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" not in logs:
            return
        row = self.trainer.agreed(step_row(state.global_step, logs))
        if not torch.isfinite(torch.tensor([row["loss"], row["grad_norm"] or 0.0])).all():
            raise DivergedError(
                f"Update {state.global_step} has loss {row['loss']} and gradient norm "
                f"{row['grad_norm']}: lower training.learning_rate (now {args.learning_rate}) or "
                "training.max_grad_norm; snapshots up to the update before are kept."
            )
        self.steps.append(row)
        outcomes = self.trainer.outcomes if "pass_rate" in logs else []
        self.outcomes += [{"step": state.global_step, **outcome._asdict()} for outcome in outcomes]
        if "pass_rate" in logs:
            self.completions += [{"step": state.global_step, **sample} for sample in self.trainer.samples]
        if self.controller is not None:
            self.controller.update(row, [(outcome.prompt_id, outcome.pass_rate) for outcome in outcomes])
        self.tokens_left -= row["tokens_generated"] or 0
        if self.ended(state.global_step) in ("until", "tokens"):
            control.should_save = True
        self.progress(row)

    def on_save(self, args, state, control, **kwargs):
        ended = self.ended(state.global_step)
        control.should_training_stop = ended is not None
        state.log_history.clear()
        if not args.should_save:  # another process writes
            return
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if self.controller is not None:
            self.controller.save(folder)
        if self.mixer is not None:
            self.mixer.save(folder)
        part = Part(
            folder, state.global_step, time.perf_counter() - self._since, ended, args.world_size, self._unwritten
        )
        rows = (self.steps, self.outcomes, self.completions)
        self._keeping = self._keeper.submit(self._keep, part, *rows)
        self.steps, self.outcomes, self.completions, self._since = [], [], [], time.perf_counter()
        self.snapshot_seconds += time.perf_counter() - self._begun

    def _keep(self, part: Part, *rows: list[dict[str, Any]]) -> Mark:
        """Make a checkpoint a snapshot, and its part of the segment whole."""
        written = part.unwritten.write(part.folder)
        exact.strip_checkpoint(part.folder)
        content, known = exact.checkpoint_parts(part.folder, written)
        if "base" in self.info:  # an adapter is a state only together with it
            content["base"] = self.info["base"]
        snapshots = Snapshots(self.store.child("snapshots"))
        snapshot = snapshots.add(part.folder, content=content, step=part.step, info=self.info, known=known)
        mark = Mark(part.step, snapshot.id, part.seconds, part.ended, part.processes)
        write_part(self.store, self.segment, mark, *rows)
        return mark

    def finish(self) -> None:
        """Wait for the part that is being kept. Raises what kept it from being so."""
        keeping, self._keeping = self._keeping, None
        if keeping is not None:
            self.marks.append(keeping.result())
