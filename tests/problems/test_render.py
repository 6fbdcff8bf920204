"""What the model sees: chat templates, one BOS, system prompts, further columns, length limits."""

import pytest
from pydantic import ValidationError
from small_data import TEMPLATE, data, gsm8k, make_tokenizer, problems_of, write_jsonl

from npo_core.errors import ConfigError, DataError
from npo_core.problems.kept import from_parquet, to_parquet

QUESTION = gsm8k()[0]["question"]


def first(files, tokenizer, **fields):
    return problems_of(data(**files, **fields), tokenizer).train[0]


def test_a_question_becomes_a_chat(files, tokenizer):
    assert first(files, tokenizer).prompt == f"<|user|>{QUESTION}<|end|><|assistant|>"
    said = first(files, tokenizer, system_prompt="Be brief.").prompt
    assert said == f"<|system|>Be brief.<|end|><|user|>{QUESTION}<|end|><|assistant|>"
    assert first(files, tokenizer, chat_template_kwargs={"think": True}).prompt.endswith("<|assistant|><think>")


def test_plain_text_where_there_is_no_template_or_none_is_wanted(files, tokenizer):
    assert first(files, tokenizer, chat="never").prompt == QUESTION
    bare = make_tokenizer(template=None, turns=False)
    assert first(files, bare).prompt == QUESTION
    assert first(files, bare, system_prompt="Be brief.").prompt == f"Be brief.\n\n{QUESTION}"
    assert not problems_of(data(**files), bare).report["train"]["chat"]
    with pytest.raises(ConfigError, match="problems.chat = always.*no chat template"):
        first(files, bare, chat="always")


def test_a_chat_model_without_a_template_is_refused_unless_plain_text_is_asked_for(files, tmp_path):
    """By the tokens of its vocabulary, by its name, or because the problems are chats."""
    with pytest.raises(ConfigError, match=r"no chat template, but it has tokens .*<.assistant.>.*chat = never"):
        first(files, make_tokenizer(template=None))
    assert first(files, make_tokenizer(template=None), chat="never").prompt == QUESTION
    bare = make_tokenizer(template=None, turns=False)
    for name in ("/models/Qwen2.5-7B-Instruct", "google/gemma-2-2b-it"):
        bare.name_or_path = name
        with pytest.raises(ConfigError, match=f"{name.rpartition('/')[2]} is a chat model by its name"):
            first(files, bare)
    bare.name_or_path = "/models/bitter-edit"
    assert first(files, bare).prompt == QUESTION
    with pytest.raises(ConfigError, match="the problems are chats .columns.messages = chat."):
        problems_of(data(**chats(tmp_path, CHAT)), bare)


def test_special_tokens_in_text_are_counted_and_said(tmp_path, tokenizer):
    from npo_core.reporting.tables import problems_table

    rows = [*gsm8k()[:3], {"question": "What does <|end|> do? <s>x</s>", "answer": "#### 1"}]
    source = {"path": write_jsonl(tmp_path / "rows.jsonl", rows)}
    held_out = {"path": write_jsonl(tmp_path / "other.jsonl", gsm8k()[4:])}
    report = problems_of(data(train=source, held_out=held_out), tokenizer).report
    assert report["train"]["special"] == {"count": 1, "rows": ["4"], "tokens": ["</s>", "<s>", "<|end|>"]}
    assert report["held_out"]["special"] is None
    assert "in the text of training, row 4, and the model reads them as such: </s>, <s>" in problems_table(report).note


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("template", [TEMPLATE, TEMPLATE.replace("{{ bos_token }}", "")])
def test_token_ids_are_those_that_the_template_means(files, bos, template):
    tokenizer = make_tokenizer(bos=bos, template=template)
    if bos and template != TEMPLATE:
        with pytest.raises(ConfigError, match="puts <s> before a text and its chat template does not"):
            first(files, tokenizer)
        return
    prompt = first(files, tokenizer).prompt
    chat = [{"role": "user", "content": QUESTION}]
    meant = tokenizer.apply_chat_template(chat, tokenize=True, add_generation_prompt=True, return_dict=False)
    assert tokenizer(prompt)["input_ids"] == meant
    assert meant.count(tokenizer.bos_token_id) == (template == TEMPLATE)


def test_a_tokenizer_that_ends_every_text(files):
    with pytest.raises(ConfigError, match="ends every text with </s>"):
        first(files, make_tokenizer(eos=True))


def test_a_look_without_tokenizer_is_asked_for(files):
    with pytest.raises(ConfigError, match="needs the model's tokenizer"):
        problems_of(data(**files))


def test_ids_change_with_all_that_the_model_sees(files, tokenizer):
    ways = [{}, {"chat": "never"}, {"system_prompt": "Be brief."}, {"chat_template_kwargs": {"think": True}}]
    sets = [problems_of(data(**files, **way), tokenizer) for way in ways]
    assert len({problems.fingerprint for problems in sets}) == len(ways)
    other = make_tokenizer(template=TEMPLATE.replace("<|end|>", "<|end|>\n"))
    assert problems_of(data(**files), other).fingerprint != sets[0].fingerprint
    assert problems_of(data(**files), make_tokenizer()).fingerprint == sets[0].fingerprint


def test_the_split_is_of_the_rows_whatever_the_template(files, tokenizer):
    def held_out(**fields):
        problems = problems_of(data(train=files["train"], held_out_rows=2, **fields), tokenizer)
        return [problem.answer for problem in problems.held_out]

    assert held_out() == held_out(chat="never") == held_out(system_prompt="Be brief.")


def test_a_template_of_text_with_further_columns(tmp_path, tokenizer):
    row = gsm8k()[0] | {"choices": ["twelve", "{prompt}"], "hint": None, "unit": "$"}
    source = {
        "path": write_jsonl(tmp_path / "rows.jsonl", [row, gsm8k()[1] | row | gsm8k()[1]]),
        "columns": {"others": ["choices", "hint", "unit"]},
        "prompt_template": "{prompt} ({unit}{hint}{else})\n{choices}",
    }
    problems = problems_of(data(train=source, held_out_rows=1, chat="never"), tokenizer)
    both = [*problems.train, *problems.held_out]
    prompts = {problem.prompt for problem in both}
    assert both[0].row == {"choices": ["twelve", "{prompt}"], "hint": None, "unit": "$"}
    assert from_parquet(to_parquet(both)) == both
    assert f"{QUESTION} (${{else}})\nA. twelve\nB. {{prompt}}" in prompts


CHAT = [{"role": "system", "content": "Count."}, {"role": "user", "content": "1, 2?"}]

OTHER = [{"role": "user", "content": "1, 2, 3?"}]


def chats(tmp_path, *messages):
    rows = [{"chat": chat, "answer": "#### 3"} for chat in messages] + [{"chat": OTHER, "answer": "#### 4"}]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    return {"train": {"path": path, "columns": {"messages": "chat"}}, "held_out_rows": 1}


def test_a_column_of_messages(tmp_path, tokenizer):
    def prompts(**fields):
        problems = problems_of(data(**chats(tmp_path, CHAT), **fields), tokenizer)
        return {problem.answer: problem.prompt for problem in [*problems.train, *problems.held_out]}

    assert prompts()["#### 3"] == "<|system|>Count.<|end|><|user|>1, 2?<|end|><|assistant|>"
    assert prompts(chat="never")["#### 3"] == "Count.\n\n1, 2?"


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ("hello", "is no list of messages"),
        ([], "is no list of messages"),
        ([{"role": "robot", "content": "a"}], "a role other than"),
        ([*CHAT, {"role": "assistant", "content": "3"}], "is not the user's"),
        ([{"role": "user", "content": None}], "content of a message .column chat. is empty"),
        ([{"role": "user", "content": [{"type": "video"}]}], "a part of a message"),
        ([{"role": "user", "content": [{"type": "image"}]}], "1 places for images, and 0 images"),
    ],
)
def test_messages_that_cannot_be_used(tmp_path, tokenizer, messages, words):
    with pytest.raises(DataError, match=f"{words}.*row 1$"):
        problems_of(data(**chats(tmp_path, messages)), tokenizer)


def test_two_system_prompts(tmp_path, tokenizer):
    with pytest.raises(DataError, match="problems.system_prompt would be another"):
        problems_of(data(**chats(tmp_path, CHAT), system_prompt="Be brief."), tokenizer)


def test_a_template_that_refuses_names_the_row(tmp_path):
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system prompts') }}{% endif %}" + TEMPLATE
    with pytest.raises(DataError, match="the chat template refuses it .no system prompts.: rows? 1"):
        problems_of(data(**chats(tmp_path, CHAT)), make_tokenizer(template=template))


def test_long_prompts_are_dropped_and_counted(tmp_path, files, tokenizer):
    files["held_out"]["path"] = write_jsonl(tmp_path / "short.jsonl", [{"question": "1+1?", "answer": "#### 2"}])
    lengths = [len(tokenizer(p.prompt)["input_ids"]) for p in problems_of(data(**files), tokenizer).train]
    limit = sorted(lengths)[1]
    problems = problems_of(data(**files, max_prompt_tokens=limit), tokenizer)
    report = problems.report["train"]
    long = [str(row) for row, length in enumerate(lengths, 1) if length > limit]
    why = f"the prompt has more than problems.max_prompt_tokens = {limit} tokens"
    assert report["dropped"] == [{"why": why, "count": 2, "rows": long}]
    assert (report["rows"], report["problems"], len(problems.train)) == (4, 2, 2)
    assert report["prompt_tokens"]["max"] == limit and report["prompt_tokens"]["min"] == min(lengths)
    with pytest.raises(DataError, match=f"has more than problems.max_prompt_tokens = {limit} tokens: rows {long[0]}, "):
        problems_of(data(**files, max_prompt_tokens=limit, on_long="error"), tokenizer)
    with pytest.raises(DataError, match="no problem is left"):
        problems_of(data(**files, max_prompt_tokens=3), tokenizer)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"held_out": None}, "give exactly one of them"),
        ({"held_out_rows": 3}, "give exactly one of them"),
        ({"chat_template_kwargs": {"tokenize": True}}, "has tokenize"),
        ({"train": {"path": "a", "prompt_template": "Why?"}}, "does not contain {prompt}"),
        ({"train": {"path": "a", "prompt_template": "{prompt}!", "columns": {"messages": "m"}}}, "takes whole chats"),
        ({"answer_pattern": "("}, "is no regular expression"),
        ({"answer_pattern": "a"}, "has 0 groups"),
    ],
)
def test_settings_that_cannot_be(files, fields, words):
    with pytest.raises(ValidationError, match=words):
        data(**{**files, **fields})


def test_columns_and_template_are_declared_once():
    train = {"path": "a", "columns": {"prompt": "q"}, "prompt_template": "{prompt}!"}
    same = data(train=train, held_out={"path": "b"}).held_out
    assert (same.columns.prompt, same.prompt_template) == ("q", "{prompt}!")
    other = data(train=train, held_out={"path": "b", "columns": {"prompt": "r"}}).held_out
    assert (other.columns.prompt, other.prompt_template) == ("r", "{prompt}!")
