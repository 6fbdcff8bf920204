"""Completions of a group share their prompt in forward and backward, and nothing that is padding is computed.

Prompts, each once, and completions lie behind one another in one row of tokens: `[prompt 1, prompt 2, ..., completion
1, completion 2, ...]`. All that a model does token by token costs as many tokens as there are. Attention alone knows
what belongs together: prompts attend to themselves, a completion to its prompt and to itself, gradients flow back the
same way. A completion's first token is predicted at the end of its prompt, once for the group; its last token predicts
nothing and is left out. There is no cache, so gradient checkpointing works, and it is one call of the model, so DDP and
FSDP2 do.

Shape suffixes: N tokens in the row, P prompts, G most completions of a prompt, B completions, T tokens.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

ATTENTION = "npo_shared_prompt"  # the name under which transformers finds `attend`


@dataclass(frozen=True, eq=False)
class Layout:
    """Which token of the row is what; places are indices into it, and 0 where there is none."""

    prompts: torch.Tensor  # [P, T] places
    completions: torch.Tensor  # [P * G, T] places
    mask: torch.Tensor  # [P * G or 1, 1, T, T + T] which key, of its prompt and of itself, a completion's token sees
    order: torch.Tensor | None  # [N] where the row's tokens lie in prompts and completions; None: just so
    scored: torch.Tensor  # [tokens of all completions] places at which they are predicted: these meet the vocabulary

    @property
    def group(self) -> int:
        """G, the most completions of a prompt."""
        return len(self.completions) // len(self.prompts)


@dataclass(frozen=True, eq=False)
class Packed:
    """Prompts and completions as a model takes them."""

    input_ids: torch.Tensor  # [1, N]
    columns: torch.Tensor  # [N] in which column the token lies where prompts are padded on the left
    owners: torch.Tensor  # [N] whose prompt, of P, the token is or follows
    labels: torch.Tensor  # [1, tokens of all completions]
    layout: Layout


def pack(
    prompts: Sequence[list[int]],
    completions: Sequence[list[int]],
    prompt_of: Sequence[int],
    width: int,
    device: torch.device,
) -> Packed:
    """Lay out token ids, of prompts that are padded to `width` and of completions of `prompt_of`; none is empty."""
    heads = [len(prompt) for prompt in prompts]
    bodies = [len(completion) - 1 for completion in completions]
    ids = [*prompts, *(completion[:-1] for completion in completions)]
    columns = [range(width - n, width) for n in heads] + [range(width, width + n) for n in bodies]
    owners = torch.tensor([*range(len(prompts)), *prompt_of]).repeat_interleave(torch.tensor(heads + bodies))
    return Packed(
        torch.tensor([list(chain.from_iterable(ids))], device=device),
        torch.tensor(list(chain.from_iterable(columns)), device=device),
        owners.to(device),
        torch.tensor([list(chain.from_iterable(completions))], device=device),
        lay_out(heads, bodies, prompt_of, device),
    )


def lay_out(heads: list[int], bodies: list[int], prompt_of: Sequence[int], device: torch.device) -> Layout:
    """The layout of prompts and of completions without their last tokens, of so many tokens, one behind another."""
    rows: list[list[int]] = [[] for _ in heads]
    for row, prompt in enumerate(prompt_of):
        rows[prompt].append(row)
    group = max(map(len, rows))
    slots = [row for of in rows for row in (*of, *[None] * (group - len(of)))]  # a place in the grid for each
    places = torch.arange(sum(heads) + sum(bodies)).split(heads + bodies)
    prompts = pad_sequence(list(places[: len(heads)]), batch_first=True)
    nothing = torch.zeros(1, dtype=torch.long)
    own = [places[len(heads) + row] if row is not None and bodies[row] else nothing for row in slots]
    completions = pad_sequence(own, batch_first=True)
    scored = [torch.cat([places[p][-1:], places[len(heads) + row]]) for row, p in enumerate(prompt_of)]
    seen = torch.arange(prompts.shape[1]) < torch.tensor(heads)[:, None]  # [P, T]
    if seen.all():
        seen = seen[:1]
    else:
        seen = seen.repeat_interleave(group, dim=0)
    length = completions.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    mask = torch.cat([seen[:, None].expand(-1, length, -1), causal.expand(len(seen), -1, -1)], dim=2)[:, None]
    order = torch.empty(len(torch.cat(places)), dtype=torch.long)
    flat = torch.cat([prompts.flatten(), completions.flatten()])
    real = torch.cat([*(torch.arange(prompts.shape[1]) < n for n in heads),
                      *(torch.arange(length) < (0 if row is None else bodies[row]) for row in slots)])  # fmt: skip
    order[flat[real]] = torch.arange(len(flat))[real]
    same = len(order) == len(flat) and bool((order == torch.arange(len(flat))).all())
    on_device = (None if t is None else t.to(device) for t in (None if same else order, torch.cat(scored)))
    return Layout(*(t.to(device) for t in (prompts, completions, mask)), *on_device)


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    layout: Layout | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention over a packed row: query, key and value [1, heads, N, size]; returns [1, N, heads, size]."""
    if layout is None:
        raise RuntimeError(f"{type(module).__name__} was not given the layout of its tokens")
    if (repeats := query.shape[1] // key.shape[1]) > 1:
        key, value = (x.repeat_interleave(repeats, dim=1) for x in (key, value))
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    q_P, k_P, v_P = (take(x, layout.prompts) for x in (q, k, v))
    q_B, k_B, v_B = (take(x, layout.completions) for x in (q, k, v))
    k_B, v_B = (torch.cat([spread(x, layout.group), own], 2) for x, own in ((k_P, k_B), (v_P, v_B)))
    of_prompts = scaled_dot_product_attention(q_P, k_P, v_P, is_causal=True, scale=scaling)  # padding is behind
    of_completions = scaled_dot_product_attention(q_B, k_B, v_B, layout.mask, scale=scaling)
    found = torch.cat([x.transpose(1, 2).flatten(0, 1) for x in (of_prompts, of_completions)])  # [.., heads, size]
    return (found if layout.order is None else found[layout.order])[None], None


def take(tokens: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """[rows, heads, T, size] of tokens [N, heads, size] at places [rows, T]."""
    return tokens[places.flatten()].unflatten(0, places.shape).transpose(1, 2)


def spread(prompts: torch.Tensor, group: int) -> torch.Tensor:
    """[P * group, ...] of prompts [P, ...]; going back, the gradients of a group are summed in its order."""
    return prompts[:, None].expand(-1, group, *prompts.shape[1:]).flatten(0, 1)


AttentionInterface.register(ATTENTION, attend)


@contextmanager
def shared_attention(model: PreTrainedModel) -> Iterator[None]:
    """Inside it a model attends as `attend` does; a checkpointed backward pass has to lie inside, too."""
    kind = type(model.config.get_text_config())
    configs = {id(m.config): m.config for m in model.modules() if isinstance(getattr(m, "config", None), kind)}
    before = [(config, config._attn_implementation) for config in configs.values()]
    try:
        for config, _ in before:
            config._attn_implementation = ATTENTION
        yield
    finally:
        for config, name in before:
            config._attn_implementation = name


def keep_scored(module: torch.nn.Module, args: tuple, kwargs: dict, output: Any) -> Any:
    """A hook behind a model's layers: of a packed row, only what is scored goes on to the vocabulary."""
    if (layout := kwargs.get("layout")) is not None:
        output.last_hidden_state = output.last_hidden_state[:, layout.scored]
    return output


def obstacle(model: PreTrainedModel) -> str | None:
    """Why a model's completions cannot share their prompt; None: they can, as far as its configuration tells."""
    config = model.config.get_text_config()
    if not all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers):
        return "not all of its layers are plain attention over the whole sequence"
    if not model._supports_attention_backend:
        return "its attention cannot be exchanged"
    if any(getattr(config, name, None) for name in ("attn_logit_softcapping", "attention_dropout")):
        return "its attention is more than a softmax of products"
    if any(isinstance(module, torch.nn.Dropout) and module.p for module in model.modules()):
        return "it has dropout, which a group would share"
    return None
