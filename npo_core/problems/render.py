"""From a chat to the text that the model is given.

Everything downstream (TRL, engines) tokenizes a prompt as text, with the special tokens that the tokenizer adds by
itself. A chat template writes those tokens too, so they are taken off its text: there is one BOS, and the token ids are
those that `apply_chat_template(..., tokenize=True)` gives.
"""

import re
from pathlib import Path
from typing import Any

from npo_core.config import AskedProblems
from npo_core.errors import ConfigError
from npo_core.problems.chat import Message, texts_of
from npo_core.problems.faults import Unusable

TURNS = ("<|im_start|>", "<|start_header_id|>", "<start_of_turn>", "<|turn>", "<|assistant|>", "<|start|>", "[INST]")
CHAT_NAME = re.compile(r"(?i)(?:^|[-_.])(?:instruct|chat|it|sft|dpo|assistant|thinking)(?:$|[-_.])")


class Renderer:
    """Renders chats by the model's template, or as plain text where there is none or none is wanted.

    Args:
        processor: the model's tokenizer or, where it sees images, its processor; None: plain text alone.

    Raises:
        ConfigError: a template is needed and there is none, or tokenizer and template do not fit together.
    """

    def __init__(self, settings: AskedProblems, processor: Any):
        self.settings, self.processor = settings, processor
        self.tokenizer = tokenizer = getattr(processor, "tokenizer", processor)
        self.speaker = processor if getattr(processor, "chat_template", None) else tokenizer
        self.templated = settings.chat != "never" and bool(tokenizer and self.speaker.chat_template)
        self.image_mark = getattr(processor, "image_token", None)
        if settings.chat == "always" and not self.templated:
            raise ConfigError(
                "problems.chat = always, but the model's tokenizer has no chat template: take an instruction-tuned "
                "model, or set problems.chat to auto or never."
            )
        if settings.chat == "auto" and not self.templated and (why := chat_model(tokenizer, settings)):
            raise ConfigError(
                f"The model's tokenizer has no chat template, but {why}: add its chat_template.jinja, or set "
                "problems.chat = never for prompts as plain text."
            )
        self.prefix = added_prefix(tokenizer) if tokenizer else []
        self.special = special_tokens(tokenizer) if tokenizer else []
        self.starts = {token[:2] for token in self.special}  # few, and told apart from text faster than all of them
        self.checked = False

    def __call__(self, messages: list[Message], images: int = 0) -> str:
        """The prompt. Raises Unusable where the template refuses the chat, or makes no place for each image."""
        text = self.text(messages)
        if self.image_mark and (places := text.count(str(self.image_mark))) != images:
            raise Unusable(f"its prompt has {places} places for images ({self.image_mark}), and it has {images} images")
        return text

    def special_tokens(self, messages: list[Message]) -> set[str]:
        """The special tokens that the text of a chat writes out: the model reads them as such, not as text."""
        text = "\n".join(text for message in messages for text in texts_of(message["content"]))
        if not any(start in text for start in self.starts):
            return set()
        return {token for token in self.special if token in text}

    def text(self, messages: list[Message]) -> str:
        """The prompt of a chat. Raises Unusable where template and system prompt do not fit it."""
        if self.settings.system_prompt:
            if messages[0]["role"] == "system":
                raise Unusable("the chat has a system message, and problems.system_prompt would be another")
            messages = [{"role": "system", "content": self.settings.system_prompt}, *messages]
        return self.by_template(messages) if self.templated else "\n\n".join(plain(m["content"]) for m in messages)

    def by_template(self, messages: list[Message]) -> str:
        """The prompt as the model's chat template writes it. Raises Unusable where that refuses."""
        from jinja2 import TemplateError

        try:
            rendered = self.speaker.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, **self.settings.chat_template_kwargs
            )
        except (TemplateError, TypeError) as error:  # TypeError: a template for text is given parts
            raise Unusable(f"the chat template refuses it ({error})") from None
        text = rendered.removeprefix("".join(self.tokenizer.convert_ids_to_tokens(self.prefix)))
        if not self.checked or (self.prefix and text == rendered):
            self.check(text, rendered)
        return text

    def check(self, text: str, rendered: str) -> None:
        """That text, tokenized with special tokens, gives what the template means."""
        meant = self.tokenizer(rendered, add_special_tokens=False)["input_ids"]
        if self.tokenizer(text)["input_ids"] != meant:
            added = ", ".join(self.tokenizer.convert_ids_to_tokens(self.prefix)) or "nothing"
            raise ConfigError(
                f"The tokenizer puts {added} before a text and its chat template does not, so the model would see "
                "another prompt than its template means: set add_bos_token to false in its tokenizer_config.json, or "
                "problems.chat = never."
            )
        self.checked = True


def chat_model(tokenizer: Any, settings: AskedProblems) -> str | None:
    """Why a model is to be asked by a chat template, where it seems so; None: it does not."""
    if turns := sorted(set(TURNS) & set(tokenizer.get_added_vocab())):
        return f"it has tokens for the turns of a chat ({', '.join(turns)})"
    name = Path(tokenizer.name_or_path).name
    if CHAT_NAME.search(name):
        return f"{name} is a chat model by its name"
    columns = [source.columns.messages for source in settings.sources.values() if source.columns.messages]
    return f"the problems are chats (columns.messages = {columns[0]})" if columns else None


def special_tokens(tokenizer: Any) -> list[str]:
    """The tokenizer's special tokens as text writes them."""
    return sorted(str(token) for token in tokenizer.added_tokens_decoder.values() if token.special)


def added_prefix(tokenizer: Any) -> list[int]:
    """The ids that the tokenizer puts before every text.

    Raises:
        ConfigError: it also puts some after.
    """
    bare, whole = tokenizer("x", add_special_tokens=False)["input_ids"], tokenizer("x")["input_ids"]
    start = len(whole) - len(bare)
    if whole[start:] != bare:
        raise ConfigError(
            f"The tokenizer ends every text with {tokenizer.convert_ids_to_tokens(whole[-1:])[0]}, so nothing would "
            "follow a prompt: set add_eos_token to false in its tokenizer_config.json."
        )
    return whole[:start]


def plain(content: str | list[Message]) -> str:
    """The text of a message, with a mark for each image."""
    return "".join(texts_of(content))
