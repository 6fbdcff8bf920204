"""Stage `base`: the model that the run starts from, as the snapshot of step 0."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from filelock import FileLock

from npo_core.config import AskedProblems, BaseBounds, BuiltInModel, ChainFacts, ChainProblems, Lora, PretrainedModel
from npo_core.errors import ConfigError, DataError
from npo_core.models.there import check_model
from npo_core.problems import Outcome, ProblemSet, chain
from npo_core.problems.load import load_problems
from npo_core.seeds import derive_seed
from npo_core.stages.context import StageContext
from npo_core.stages.problems import keep, kept_folder
from npo_core.stages.results import BaseResult
from npo_core.stages.specs import BaseSpec
from npo_core.stages.workspace import home


def run(spec: BaseSpec, context: StageContext) -> BaseResult:
    """Returns the id of the snapshot of step 0, whether the model was made, and the report of problems from data."""
    from npo_core.models import identity
    from npo_core.training import exact

    problems = read_problems(spec)  # before the model, which takes longer to load
    folder, made = model_folder(spec, context)
    copy = context.scratch / "model"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    described = identity.describe(copy)
    attention = getattr(spec.model, "attention", "auto")
    chosen = {} if attention == "auto" else {"attention": attention}  # for all stages, which load snapshots alone
    parts = exact.checkpoint_parts(copy)
    content = parts.content | described | chosen
    info: dict[str, Any] = {**described, "eos_token_ids": identity.eos_token_ids(copy), **chosen}
    if lora := adapters(spec):  # in the id, so that a segment from here is another one with other adapters
        content["lora"] = identity.digest(lora.model_dump_json().encode())
        info["lora"] = lora.model_dump()
    snapshot = context.workspace.timeline.snapshots.add(copy, content=content, step=0, info=info, known=parts.files)
    result = BaseResult(snapshot=snapshot.id, made=made, bytes=snapshot.bytes)
    if problems is None:
        return result
    keep(problems, kept_folder(spec.problems, context.workspace, info["tokenizer"]))
    return result.model_copy(update={"problems": problems.report})


def adapters(spec: BaseSpec) -> Lora | None:
    """The settings of adapters; None where the whole model is trained."""
    return spec.model.lora if isinstance(spec.model, PretrainedModel) else None


def read_problems(spec: BaseSpec) -> ProblemSet | None:
    """Problems from data, read and checked; None for the built-in task, which every stage makes anew."""
    from npo_core.models.inputs import read_prompts

    if isinstance(spec.problems, ChainProblems) or isinstance(spec.model, BuiltInModel):
        return None
    processor = processor_for(spec.problems, spec.model.path)
    problems = load_problems(spec.problems, spec.execution, processor)
    problems.judge([])  # shows that it can start
    if seeing := [problem for problem in problems.train if problem.images]:
        read_prompts(processor, seeing[:1])  # shows that the model takes them
    print(json.dumps(problems.report, indent=2))  # into the stage's log
    return problems


def processor_for(problems: AskedProblems, path: str) -> Any:
    """The processor of a model for these problems: its tokenizer, where it takes text alone.

    Raises:
        DataError: what is there is none.
        ConfigError, HubError: there is nothing, or it cannot be had.
        ConfigError: the problems have images and the model takes none, or its processor lacks a package.
    """
    from npo_core.models.load import load_config, load_processor, sees_images

    check_model(path)
    try:
        config, processor = load_config(path), load_processor(path)
    except (OSError, ValueError) as error:
        raise no_model(path, error) from None
    if (images := problems.image_columns) and not sees_images(config):
        raise ConfigError(
            f"The problems have images (column {', '.join(images)}), but model.path = {path} ({config.model_type}) "
            "takes text alone: choose a vision-language model, or name no columns.images."
        )
    return processor


def no_model(path: str, error: Exception) -> DataError:
    """The error about a folder without a usable model."""
    return DataError(f"model.path = {path} is no language or vision-language model with a tokenizer: {error}")


def model_folder(spec: BaseSpec, context: StageContext) -> tuple[Path, bool]:
    """A local folder with model and tokenizer, and whether it was made now; built-in models are kept for later runs."""
    if isinstance(spec.model, PretrainedModel):
        return pretrained(spec.model, context), False
    return built_in(spec, context)


def built_in(spec: BaseSpec, context: StageContext) -> tuple[Path, bool]:
    """The folder of the built-in model, and whether it was made just now. Raises ConfigError for any other."""
    from npo_core.models.built_in import train_base

    model, problems = spec.model, spec.problems
    if not (isinstance(model, BuiltInModel) and isinstance(problems, ChainProblems)):
        raise ConfigError(
            f"model.kind = {model.kind} with problems.kind = {problems.kind}: only the built-in model on the built-in "
            "task (chain) is made here; name a pretrained model by its path."
        )
    folder = home() / "models" / model_key(model, problems)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):  # two runs that start together make one model
        if folder.exists():
            return folder, False
        unfinished = folder.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        train_base(model, problems, unfinished, context.progress)
        if model.bounds is not None:
            check_base(unfinished, model, problems, context.device)
        unfinished.rename(folder)
    return folder, True


def model_key(model: BuiltInModel, problems: ChainProblems) -> str:
    """16 hex digits of all that decides a built-in model: its settings, the length of the chains, and the facts."""
    facts = "" if problems.facts == ChainFacts() else problems.facts.model_dump_json()
    return hashlib.sha256(f"{model.model_dump_json()}{problems.operands}{facts}".encode()).hexdigest()[:16]


def check_base(folder: Path, model: BuiltInModel, problems: ChainProblems, device: str) -> None:
    """Look whether a base is within `model.bounds`: 256 training prompts, 8 samples each.

    Raises:
        ConfigError: names what it is, and the bound.
    """
    from npo_core.config import EngineSettings
    from npo_core.engines.open import open_engine

    asked, bounds = load_problems(problems).train[:256], model.bounds or BaseBounds()
    engine = open_engine(folder, EngineSettings(), device=device, batch=2048, attention="auto", bf16=False)
    drawn = engine.generate(asked, samples=8, max_tokens=problems.operands, seed=derive_seed("bounds", model.seed))
    whole = problems.verdict == "all"
    dead = sum(
        all(chain.verify(c.text, p.answer, whole) is not Outcome.CORRECT for c in row)
        for p, row in zip(asked, drawn, strict=True)
    ) / len(asked)
    hard = hard_chance([(p.prompt, c.text) for p, row in zip(asked, drawn, strict=True) for c in row], model, problems)
    print(json.dumps({"dead_groups": dead, "hard_right": hard}))  # into the stage's log
    remedy = "set model.seed to another, change model.steps or problems.facts, or widen model.bounds"
    if bounds.dead_groups is not None and dead < bounds.dead_groups:
        raise ConfigError(f"model.bounds.dead_groups = {bounds.dead_groups}, but the base has {dead:.3f}: {remedy}.")
    if bounds.hard_right is not None and not bounds.hard_right[0] <= hard <= bounds.hard_right[1]:
        low, high = bounds.hard_right
        raise ConfigError(f"model.bounds.hard_right = {low} to {high}, but the base has {hard:.4f}: {remedy}.")


def hard_chance(written: list[tuple[str, str]], model: BuiltInModel, problems: ChainProblems) -> float:
    """How often hard products are right where (prompt, completion) meet them, whatever was wrong before."""
    wrong, right, met = chain.Demonstrator(model.seed, problems.facts).wrong_values(), 0, 0
    for prompt, text in written:
        operands, operators = chain.parse(prompt)
        results = [operands[0], *(int(digit) for digit in text if digit.isdigit())]
        for operator, left, operand, result in zip(operators, results, operands[1:], results[1:], strict=False):
            if operator == "*" and (left, operand) in wrong:
                met += 1
                right += result == left * operand % 10
    return right / max(met, 1)


def pretrained(settings: PretrainedModel, context: StageContext) -> Path:
    """A folder with the model in the settings' number format, without adapters of its own."""
    import torch

    from npo_core.models.load import load_model, load_processor, merged

    check_model(settings.path, weights=True)
    try:
        model = merged(load_model(settings.path, getattr(torch, settings.dtype), settings.attention))
        processor = load_processor(settings.path)
    except (OSError, ValueError) as error:
        raise no_model(settings.path, error) from None
    folder = context.scratch / "pretrained"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    if settings.lora is not None:
        from npo_core.models.lora import check_targets

        check_targets(settings.lora, model)
    return folder
