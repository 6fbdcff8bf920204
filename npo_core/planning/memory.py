"""Memory of each stage's process by part, in bytes, at the moment that needs most.

How the formulas were found: bytes that autograd saves were counted on Qwen3 models (tests/planning/test_memory.py holds
them), TRL's fused head was read for its tiles, the rest was measured (docs/planning.md, `python -m benchmarks.plan`).
"""

from collections.abc import Collection
from dataclasses import dataclass, field

from npo_core.planning import images
from npo_core.planning.setting import Setting
from npo_core.planning.size import ModelSize
from npo_core.recipes.work import held_out, prompts_met

TILE_ROWS, TILE_WORDS = 4096, 32768  # of TRL's fused head: it never holds the logits of more tokens x words at once
LIBRARIES = {"cpu": 400e6, "cuda": 600e6}  # torch, transformers and TRL; CUDA's context and its libraries' workspaces
HOST_LIBRARIES = 3e9  # of a process on a GPU
MOST_LOGITS = 2**28  # of one forward pass when scoring; npo_core/engines/transformers.py has it too, beside torch
CPU_TILES = 6.5  # float32 copies of a tile that the head makes where there is no Triton
CPU_HEAP, CPU_HEAP_SHARE = 125e6, 0.4  # of what was freed, at most: glibc keeps blocks below 32 MB for itself


@dataclass(frozen=True)
class Memory:
    """What one process of a stage holds: some parts all the time, others in one phase."""

    stage: str
    always: dict[str, float]
    phases: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def worst(self) -> str:
        """The phase that needs most."""
        return max(self.phases, key=lambda phase: sum(self.phases[phase].values()))

    @property
    def parts(self) -> dict[str, float]:
        """All parts at the worst moment."""
        return self.always | self.phases[self.worst]

    @property
    def peak(self) -> float:
        """The sum of the parts, bytes."""
        return sum(self.parts.values())


def stage_memory(setting: Setting, stages: Collection[str]) -> list[Memory]:
    """Of those of a flow's stages that are named."""
    makers = {"train": train, "guide": guide, "probe": probe, "evaluate": evaluate}
    return [make(setting) for name, make in makers.items() if name in stages]


def train(setting: Setting) -> Memory:
    """Of one process of a training stage."""
    size, config = setting.size, setting.config
    always = {
        "libraries": LIBRARIES[setting.device],
        "weights": size.parameters * setting.weight_bytes / setting.sharded,
        "AdamW's moments": 2 * size.trainable * setting.trained_bytes / setting.sharded,
    }
    if size.adapters:
        always["adapters"] = size.trainable * setting.trained_bytes
    elif config.training.kl_coef:
        always["base model for the KL"] = size.parameters * setting.weight_bytes
    if config.mix.self_teacher is not None:
        always["weights of the self-teacher"] = size.trainable * setting.trained_bytes
    phases = {"update": update(setting)}
    if not config.engine.rollouts:
        rollout = images.beside(setting, setting.rows, generation(setting, setting.rows))
        if setting.sharded > 1:  # all of them, once a rollout
            gathered = {"weights gathered": setting.product_bytes * size.parameters}
            rollout = {phase: parts | gathered for phase, parts in rollout.items()}
        elif setting.mixed:
            copied_once = {"weights in bfloat16": 2.0 * cast(size)}
            rollout = {phase: parts | copied_once for phase, parts in rollout.items()}
        phases |= rollout
    if setting.processes > 1 and "generation" in phases:
        phases["generation"]["random numbers"] = 4 * setting.processes * setting.rows * size.vocabulary
    if setting.device == "cpu":
        always |= {"images read": images.read_ahead(setting)} if setting.images else {}
        phases["snapshot"] = {"state copied": copied(setting)}
        most = max(sum(parts.values()) for parts in phases.values())
        always["free blocks"] = min(CPU_HEAP, CPU_HEAP_SHARE * most) + images.left_behind(setting, phases)
    return Memory("train", always, phases)


def copied(setting: Setting) -> float:
    """Bytes of the state that a snapshot copies, until it is written: weights and moments, of adapters the moments."""
    size = setting.size
    moments = 2 * size.trainable * setting.trained_bytes
    return moments + (0 if size.adapters else size.parameters * setting.weight_bytes)


def update(setting: Setting) -> dict[str, float]:
    """The forward and backward pass of a micro batch."""
    size, gradients = setting.size, setting.size.trainable * setting.trained_bytes / setting.sharded
    parts = {"gradients": gradients, "activations": activations(setting), "logits": logits(setting)}
    if setting.processes > setting.sharded:
        parts["gradients to exchange"] = gradients  # DDP's buckets
    if setting.sharded > 1:  # embedding and head, and the block at work beside the next
        rest = size.parameters - size.words
        parts["weights gathered"] = setting.product_bytes * (size.words + 2 * rest / size.layers)
    elif setting.mixed:
        parts["weights in bfloat16"] = 2 * (size.parameters - size.words)
    return parts | images.update(setting)


def activations(setting: Setting) -> float:
    """What autograd keeps of a micro batch until the backward pass, and the gradients of one block in it."""
    size, sequence = setting.size, setting.update_rows * setting.tokens
    kept = size.layers * block_bytes(setting)
    if setting.config.training.gradient_checkpointing:  # the inputs of all blocks, and one block at a time
        kept = size.layers * input_bytes(setting) + block_bytes(setting)
    return sequence * (kept + 8 * size.hidden + block_gradient(setting))


def input_bytes(setting: Setting) -> float:
    """Bytes a token of what goes into a block."""
    return setting.size.hidden * (4 if setting.mixed else setting.weight_bytes)


def block_bytes(setting: Setting) -> float:
    """Bytes a token that autograd keeps of one block without checkpointing."""
    size, wide = setting.size, setting.product_bytes
    q, kv = size.heads * size.head, size.key_value_heads * size.head
    hidden = 26 if setting.mixed else 24 if wide == 4 else 16  # norms keep float32 copies; casts are kept beside them
    grouped = size.key_value_heads < size.heads  # keys and values are then kept repeated for every head
    total: float = hidden * size.hidden + 4 * wide * size.intermediate + (4 + 3 * wide) * q + (4 + wide) * kv
    total += 2 * wide * (q if grouped else kv) + attention_bytes(setting)
    return total + (adapted_bytes(setting) if size.adapters else 0)


def adapted_bytes(setting: Setting) -> float:
    """Bytes a token that adapters on weights that stay add to a block: less of its norms, more of their own inputs."""
    size, wide, weights = setting.size, setting.product_bytes, setting.weight_bytes
    q, kv = size.heads * size.head, size.key_value_heads * size.head
    less = 2 * size.hidden * weights + wide * (q + kv)
    if weights == 4:
        return (2 * q if setting.mixed else 0) - less
    casts = 2 if setting.config.training.bf16 else 4  # bytes of what each adapter makes of a layer's input
    return casts * (5 * size.hidden + q + size.intermediate) - 2 * (2 * size.hidden + size.intermediate) - less


def attention_bytes(setting: Setting) -> float:
    """Bytes a token of one block's mask or attention weights: a row of it has an entry for every token."""
    if setting.attention.startswith("flash"):
        return 0
    wide = setting.product_bytes
    if setting.attention == "eager":
        return setting.tokens * setting.size.heads * (4 if wide == 4 else 6)
    return setting.tokens * wide


def block_gradient(setting: Setting) -> float:
    """Bytes a token of the gradients that the backward pass of one block makes on its way."""
    size, wide = setting.size, setting.product_bytes
    return wide * (3 * size.intermediate + 2 * size.heads * size.head) + 8 * size.hidden


def logits(setting: Setting) -> float:
    """TRL's fused head: tiles of logits, and float32 gradients of the head's weights and inputs."""
    size, wide = setting.size, setting.product_bytes
    scored = setting.update_rows * (setting.completion_tokens if setting.device == "cuda" else setting.tokens)
    tile = min(scored, TILE_ROWS) * min(size.vocabulary, TILE_WORDS)
    copies = wide if setting.device == "cuda" else wide + 4 * CPU_TILES
    head = 0 if size.adapters else 4 * size.vocabulary * size.hidden
    return tile * copies + head + scored * size.hidden * 4


def engine(setting: Setting, rows: int, samples: int, most: int) -> dict[str, dict[str, float]]:
    """The phases of a stage's engine with so many rows at once, `samples` of a prompt behind one another.

    A prompt is read once for those of its samples that come together; `most`: there are no more prompts. Where rows
    come in beside others these have the rest of the cache, so the larger of the two phases bounds any mixture of them.
    vLLM has a share of its own.
    """
    if setting.config.engine.kind == "vllm":
        return {"check": scoring(setting, rows)}
    prompts = min((rows - 2) // samples + 2, most)  # that rows behind one another may have
    shared = images.beside(setting, prompts, {"prompts": generation(setting, prompts)["prompts"]})
    return generation(setting, rows) | shared


def generation(setting: Setting, rows: int) -> dict[str, dict[str, float]]:
    """Two phases of a batch of `rows` completions: its prompts at once, and the last token after all others."""
    size, wide = setting.size, setting.product_bytes
    q, cached = size.heads * size.head, 2 * size.key_value_heads * size.head * wide
    prompt = wide * (3 * size.intermediate + 3 * q) + (8 + 2 * wide) * size.hidden + setting.prompt_tokens
    prompts = rows * setting.prompt_tokens
    return {
        "prompts": {"KV cache": prompts * cached * size.layers, "forward pass": prompts * prompt},
        "generation": {
            "KV cache": rows * setting.tokens * cached * (size.layers + 1),  # one layer's is copied to grow
            "logits": rows * size.vocabulary * (wide + 12),
        },
    }


def scoring(setting: Setting, rows: int) -> dict[str, float]:
    """Log-probabilities of `rows` completions: float32 tables of their logits, before, in and after softmax."""
    size, length = setting.size, setting.completion_tokens + 1
    rows = max(min(rows, MOST_LOGITS // (length * size.vocabulary)), 1)  # as many at once
    parts: dict[str, float] = {"logits": 12 * rows * length * size.vocabulary}
    if setting.device == "cpu":  # keys and values of the forward pass, just freed
        freed = rows * setting.tokens * 2 * size.key_value_heads * size.head * setting.weight_bytes * size.layers
        parts["free blocks"] = min(CPU_HEAP, CPU_HEAP_SHARE * freed)
    return parts | images.pixels(setting, rows)


def loaded(setting: Setting, models: int = 1) -> dict[str, float]:
    """Bytes of libraries and of `models` models at rest, by part.

    In mixed precision a GPU gets linear layers in bfloat16, and a CPU keeps the pages of the file that it read; of what
    else goes through matrix products, such as experts, autocast makes a copy.
    """
    size, narrow = setting.size, 0
    weights: float = size.parameters * setting.weight_bytes
    if setting.mixed:
        narrow = 2 * cast(size)
    if setting.mixed and setting.device == "cuda":
        weights, narrow = weights - 2 * size.linear, narrow - 2 * size.linear
    adapters = size.trainable * setting.trained_bytes if size.adapters else 0
    found = {"libraries": LIBRARIES[setting.device], "weights": models * (weights + adapters)}
    return found | ({"weights in bfloat16": models * narrow} if narrow > 0 else {})


def cast(size: ModelSize) -> int:
    """Numbers of a model that go through matrix products: all but an embedding that is no head, norms left out."""
    embedding = min(size.vocabulary * size.hidden, size.words)
    return size.parameters - (embedding if size.words > embedding else 0)


def guide(setting: Setting) -> Memory:
    """The memory of a guide stage."""
    guidance = setting.config.guidance
    prompts = min(guidance.chunk_prompts, prompts_met(setting.config, setting.config.training.steps))
    round_ = prompts * guidance.samples_per_round
    rows = min(guidance.batch or round_, round_)  # a prompt has one round under way
    kept = min(prompts * (guidance.samples if guidance.keep == "closest" else 1), guidance.batch or round_)
    narrowest = guidance.samples % guidance.samples_per_round or guidance.samples_per_round  # of a prompt's rounds
    phases = engine(setting, rows, narrowest, prompts)
    phases |= {"scoring what is kept": scoring(setting, kept)}
    return Memory("guide", loaded(setting, 2 if guidance.keep == "closest" else 1), phases)


def evaluate(setting: Setting) -> Memory:
    """The memory of an evaluate stage."""
    evaluation, asked = setting.config.evaluation, held_out(setting.config.problems)
    rows = evaluation.batch if asked is None else min(evaluation.batch, asked * evaluation.samples)
    return Memory("evaluate", loaded(setting), engine(setting, rows, evaluation.samples, asked or rows))


def probe(setting: Setting) -> Memory:
    """The memory of a probe stage."""
    asked = setting.config.auto.probe
    rows = min(asked.batch or asked.prompts * asked.samples, asked.prompts * asked.samples)
    phases = engine(setting, rows, asked.samples, asked.prompts)
    phases |= {"scoring by candidates": scoring(setting, rows)}
    return Memory("probe", loaded(setting), phases)


def host(setting: Setting) -> float:
    """Bytes of the first machine's memory that stages on GPUs take: weights while they load, the state that a snapshot
    copies (gathered before, where it is sharded); images read.
    """
    weights = setting.size.parameters * setting.weight_bytes
    here = setting.processes // setting.config.execution.nodes
    held = max(here * weights, copied(setting))
    if setting.sharded > 1:
        gathered = max(weights, 2 * setting.size.trainable * setting.trained_bytes)
        held = max(weights, copied(setting) + gathered)
    training = here * (HOST_LIBRARIES + images.read_ahead(setting)) + held
    generating = HOST_LIBRARIES + setting.generating_here * (HOST_LIBRARIES + weights)
    return max(training, generating if setting.generating > 1 else 0)
