"""Stage `train`: one segment of a branch, from a snapshot to a step, guided where a cache is given.

A watched segment ends earlier where its signals warn, or where its tokens are used up.
"""

import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npo_core.config import Lora, SelfTeacher
from npo_core.control.controller import Controller, read_pool
from npo_core.errors import ConfigError, DamagedError, StageError
from npo_core.problems import ProblemSet
from npo_core.problems.images import open_image
from npo_core.stages.context import StageContext
from npo_core.stages.guide import second_opinion
from npo_core.stages.outputs import lost_snapshots
from npo_core.stages.preflight import check_number
from npo_core.stages.problems import run_problems
from npo_core.stages.processes import in_turn
from npo_core.stages.results import Cost, TrainResult
from npo_core.stages.specs import TrainSpec
from npo_core.timeline import Segment, Snapshot
from npo_core.timeline.segments import Mark, part_files, read_marks, read_parts, read_steps

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel

    from npo_core.mix import Mixer
    from npo_core.training.recorder import SegmentRecorder
    from npo_core.training.trainer import NPOTrainer


def run(spec: TrainSpec, context: StageContext) -> TrainResult | None:
    """Returns the segment; None in a process that is not the stage's first."""
    workspace = context.workspace
    start = workspace.timeline.snapshots.get(spec.start)
    marks = usable_marks(spec, context)
    recorder_seconds = 0.0
    if not marks or marks[-1].ended is None:
        done, recorder_seconds = train(spec, context, start, marks)
        marks = [*marks, *done]
    if not context.first:
        return None
    if not marks or marks[-1].ended is None:
        raise StageError(
            f"Training ended at update {marks[-1].step if marks else start.step}, {spec.until} were asked: "
            "see the stage's log."
        )
    segment = workspace.timeline.add_segment(describe(spec, context, start, marks, recorder_seconds))
    return TrainResult(
        segment=segment.id,
        end=segment.end,
        step=segment.t1,
        ended=marks[-1].ended,
        snapshots=segment.snapshots,
        cost=Cost(**segment.cost),
    )


def usable_marks(spec: TrainSpec, context: StageContext) -> list[Mark]:
    """The parts an earlier, interrupted try completed, up to the first of which a file or the snapshot is gone."""
    workspace, usable = context.workspace, []
    files = set(workspace.store.list(f"segments/{spec.fingerprint}"))
    for mark in read_marks(workspace.store, spec.fingerprint):
        whole = files.issuperset(part_files([mark.step])) and not dict(lost_snapshots(workspace, [mark.snapshot]))
        if mark.step > spec.until or not whole:
            break
        usable.append(mark)
    return usable


def describe(
    spec: TrainSpec, context: StageContext, start: Snapshot, marks: list[Mark], snapshot_seconds: float
) -> Segment:
    """The segment's record; its cost is summed over all parts, whichever try made them."""
    segment = Segment(
        id=spec.fingerprint,
        branch=spec.branch,
        start=start.id,
        end=marks[-1].snapshot,
        t0=start.step,
        t1=marks[-1].step,
        snapshots={mark.step: mark.snapshot for mark in marks},
        parts=[mark.step for mark in marks],
        cache=spec.cache,
    )
    steps = read_steps(context.workspace.store, segment)
    cost = {
        "updates": float(steps.num_rows),
        "tokens_generated": float(sum(value or 0 for value in steps["tokens_generated"].to_pylist())),
        "seconds": sum(mark.seconds for mark in marks),
        "snapshot_seconds": snapshot_seconds,
    }
    return segment.model_copy(update={"cost": cost})


def train(spec: TrainSpec, context: StageContext, start: Snapshot, marks: list[Mark]) -> tuple[list[Mark], float]:
    """Train from the newest mark to the end; the parts made, and the seconds that snapshots took."""
    from transformers import PrinterCallback

    workspace = context.workspace
    output = context.scratch / "checkpoints"
    with in_turn(context):
        problems = run_problems(spec, context, start)
        folder = workspace.snapshot_folder(marks[-1].snapshot if marks else start.id, whole=True)
        reference = workspace.snapshot_folder(base_snapshot(context)) if spec.training.kl_coef else None
        if context.first:
            shutil.rmtree(output, ignore_errors=True)
    check_number(len(problems.train), spec.training)
    recorder = make_recorder(spec, context, start, folder, marks)
    trainer = make_trainer(spec, context, start, problems, folder, reference, output, recorder)
    recorder.trainer = trainer
    if trainer.mixer.rescue is not None and not marks:
        trainer.mixer.rescue.begin((m.prompt_id, m.step) for m in read_pool(folder).mistakes.values())
    trainer.remove_callback(PrinterCallback)  # the recorder keeps what it would print
    try:
        trainer.train(resume_from_checkpoint=str(folder) if (folder / "trainer_state.json").exists() else None)
    finally:
        recorder.finish()
    return recorder.marks, recorder.snapshot_seconds


def make_recorder(
    spec: TrainSpec, context: StageContext, start: Snapshot, folder: Path, marks: list[Mark]
) -> "SegmentRecorder":
    """What writes the segment down, shows its progress, and ends it."""
    from npo_core.training.recorder import SegmentRecorder

    def show(row: dict[str, Any]) -> None:
        figures = {name: row[name] for name in ("step", "reward", "pass_rate", "entropy", "groups_injected", "cut_off")}
        figures["unverified"] = sum(row.get(name) or 0 for name in ("verified_timeout", "verified_crash"))
        context.progress(row["step"] - start.step, spec.until - start.step, **figures)

    tokens = math.inf if spec.token_limit is None else spec.token_limit - tokens_of(spec, context, marks)
    store = context.workspace.store
    return SegmentRecorder(store, spec.fingerprint, spec.until, info_of(start), show, watching(spec, folder), tokens)


def make_trainer(
    spec: TrainSpec,
    context: StageContext,
    start: Snapshot,
    problems: ProblemSet,
    folder: Path,
    reference: Path | None,
    output: Path,
    recorder: "SegmentRecorder",
) -> "NPOTrainer":
    """The trainer of the model in `folder`; `reference` has the model that a KL is taken to."""
    from npo_core.models.load import load_processor
    from npo_core.training.build import Rewards, grpo_config, training_data
    from npo_core.training.trainer import InjectionSettings, NPOTrainer

    opinion = second_opinion(spec, problems)
    accept = spec.guidance is not None and spec.guidance.accept_fallback
    rewards = Rewards(problems, start.info["eos_token_ids"], spec.processes, accept_fallback=accept, opinion=opinion)
    recorder.mixer = make_mixer(spec, context, start, problems, folder)
    model = policy(spec, start, folder, reference)
    return NPOTrainer(
        model,
        reward_funcs=rewards.functions,
        args=grpo_config(
            spec.training,
            seed=spec.seed,
            output=output,
            device=context.device,
            processes=spec.processes,
            sharded=spec.execution.sharding == "fsdp2",
            until=spec.until,
            reward_weights=rewards.weights,
            engine=spec.engine,
        ),
        train_dataset=training_data(problems),
        processing_class=load_processor(folder),
        callbacks=[recorder],
        mixer=recorder.mixer,
        may_inject=rewards.may_inject,
        teacher=spec.mix.self_teacher,
        privileged=None if spec.mix.self_teacher is None else told(problems, spec.mix.self_teacher),
        verdicts=rewards.outcomes,
        begin_verifying=rewards.begin if rewards.may_begin else None,
        kept_groups=spec.training.log_completions,
        injection_settings=InjectionSettings(**spec.injection.model_dump()),
        sampling_seed=spec.sampling_seed,
        generation_batch=spec.training.generation_batch,
        images=images_of(problems),
        peft_config=adapters_of(start, model),  # new ones, from `seed`, unless it resumes
        max_kl=spec.engine.max_kl,
    )


def make_mixer(spec: TrainSpec, context: StageContext, start: Snapshot, problems: ProblemSet, folder: Path) -> "Mixer":
    """What is mixed into the segment, in the state of the snapshot in `folder`."""
    from npo_core.mix import Mixer

    mixer = Mixer(
        spec.mix,
        prompt_ids=[problem.id for problem in problems.train],
        group_size=spec.training.group_size,
        seed=spec.sampling_seed,
        guidance=open_guidance(spec, context, start, problems),
        rescue=spec.rescue,
    )
    mixer.load(folder)
    return mixer


def policy(spec: TrainSpec, start: Snapshot, folder: Path, reference: Path | None) -> "PreTrainedModel":
    """The model that is trained; of a snapshot with adapters, its base."""
    from npo_core.models.load import base_of, load_model

    shards = spec.processes if spec.execution.sharding == "fsdp2" else 1
    attention = start.info.get("attention", "auto")
    model = load_model(base_of(folder), attention=attention, shards=shards, bf16=spec.training.bf16)
    if reference is not None:  # TRL loads its reference model from here; adapters it turns off instead
        model.config.name_or_path = str(reference)
    return model


def told(problems: ProblemSet, teacher: SelfTeacher) -> Callable[[str], str]:
    """A training prompt with its reference answer, by id.

    Raises:
        ConfigError: a problem has none.
    """
    by_id = {problem.id: problem for problem in problems.train}
    if without := next((problem for problem in problems.train if not problem.answer), None):
        raise ConfigError(
            f"mix.self_teacher tells a teacher the reference answer, and problem {without.id} has none: leave it out, "
            "or give every row an answer."
        )
    chain = not problems.report  # the built-in task has no words
    template = teacher.template or ("{answer}{prompt}" if chain else "Reference answer: {answer}\n\n{prompt}")
    parts = re.split(r"{(prompt|answer)}", template)  # text and names in turn

    def tell(prompt_id: str) -> str:
        problem = by_id[prompt_id]
        return "".join(getattr(problem, part) if number % 2 else part for number, part in enumerate(parts))

    return tell


def images_of(problems: ProblemSet) -> Callable[[str], list] | None:
    """Opens the images of a training prompt by its id; None where no prompt has some."""
    refs = {problem.id: problem.images for problem in problems.train}
    return (lambda id_: list(map(open_image, refs[id_]))) if any(refs.values()) else None


def watching(spec: TrainSpec, folder: Path) -> Controller | None:
    """The controller in the state that the starting snapshot has it."""
    if spec.control is None:
        return None
    controller = Controller(spec.control, spec.quiet_until)
    controller.load(folder)
    return controller


def tokens_of(spec: TrainSpec, context: StageContext, marks: list[Mark]) -> float:
    """Generated tokens of the parts that an earlier try completed."""
    parts = [mark.step for mark in marks]
    table = read_parts(context.workspace.store, spec.fingerprint, "steps", parts) if parts else None
    return sum(value or 0 for value in table["tokens_generated"].to_pylist()) if table else 0.0


def info_of(start: Snapshot) -> dict[str, Any]:
    """What readers of this segment's snapshots check and need: those of adapters name their base."""
    return start.info | ({"base": start.info.get("base", start.id)} if "lora" in start.info else {})


def adapters_of(start: Snapshot, model: "PreTrainedModel") -> "LoraConfig | None":
    """What peft is told where the run trains adapters."""
    if "lora" not in start.info:
        return None
    from npo_core.models.lora import lora_config

    return lora_config(Lora(**start.info["lora"]), model)


def base_snapshot(context: StageContext) -> str:
    """The id of the run's base model, which a KL is taken to wherever a segment starts or is taken up again."""
    bases = [snapshot.id for snapshot in context.workspace.timeline.snapshots.list() if snapshot.step == 0]
    if len(bases) != 1:
        raise DamagedError(
            f"training.kl_coef needs the run's base model, but {context.workspace.uri}/snapshots holds "
            f"{len(bases)} snapshots of step 0: start the run anew in another workspace."
        )
    return bases[0]


def open_guidance(spec: TrainSpec, context: StageContext, start: Snapshot, problems: ProblemSet):
    """The rows of the cache for this run's prompts, or None without guidance."""
    if spec.cache is None:
        return None
    expect = {key: start.info[key] for key in ("model", "tokenizer")}
    expect |= {"problems": problems.fingerprint, "reward_names": list(problems.reward_names)}
    return context.workspace.open_cache(spec.cache, [problem.id for problem in problems.train], expect)
