"""Rows of a few formats, and tiny tokenizers with chat templates: one token a byte."""

import json
from pathlib import Path

from npo_core.config import DataProblems
from npo_core.problems import ProblemSet
from npo_core.problems.load import load_problems

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>"
    "{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for part in m.content %}{{ part.text if part.type == 'text' else '<|picture|>' }}{% endfor %}{% endif %}"
    "<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% if think %}<think>{% endif %}{% endif %}"
)
SPECIAL = ["<pad>", "<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|picture|>"]
GSM8K = [
    ("A pen costs $3. How much are 4 pens?", "4 pens cost 4*3 = $<<4*3=12>>12.\n#### 12"),
    ("A run of 1,200 m twice a day: how many m a day?", "2*1200 = <<2*1200=2400>>2400\n#### 2,400"),
    ("Five of 8 eggs break. How many are left?", "8-5 = <<8-5=3>>3 eggs\n#### 3"),
    ("Ann is 9, Bo is twice as old. How old is Bo?", "9*2 = <<9*2=18>>18\n#### 18"),
    ("Half of 50 seats are taken. How many are free?", "50/2 = <<50/2=25>>25\n#### 25"),
    ("A 30 cm rope is cut into 6 parts. How long is each?", "30/6 = <<30/6=5>>5 cm\n#### 5"),
]  # rows of our own in GSM8K's format


def make_tokenizer(*, bos: bool = True, eos: bool = False, template: str | None = TEMPLATE, turns: bool = True):
    """Byte-level without merges; with `bos` it adds <s> to every text by itself, as Llama's and Gemma's do.

    `turns`: it has tokens for the turns of a chat.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = SPECIAL if turns else SPECIAL[:3]
    symbols = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({symbol: i for i, symbol in enumerate(symbols)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    single = ["<s>"] * bos + ["$A"] + ["</s>"] * eos
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[(name, symbols.index(name)) for name in ("<s>", "</s>")]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", padding_side="left"
    )
    fast.chat_template = template
    return fast


def write_jsonl(path: Path, rows: list) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(row + "\n" if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return str(path)


def gsm8k(rows=GSM8K) -> list[dict]:
    return [{"question": question, "answer": answer} for question, answer in rows]


def data(**fields) -> DataProblems:
    return DataProblems.model_validate({"kind": "data", **fields})


def problems_of(settings: DataProblems, tokenizer=None) -> ProblemSet:
    return load_problems(settings, processor=tokenizer)
