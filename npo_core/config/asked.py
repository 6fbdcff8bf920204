"""How problems become prompts and how their answers are judged, whatever they come from."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from npo_core.config.closed import Closed
from npo_core.config.verifier import ExactVerifier, Verifier, one_group


class Asked(Closed):
    """Problems that a language model is asked as text."""

    answer_pattern: str = Field(
        r"####\s*(.+)$",
        description="regular expression whose group 1 is the final answer; "
        "the last match counts, in reference and completion alike",
    )
    verifier: Verifier = ExactVerifier()
    verifiers: dict[str, Verifier] = Field(
        {}, description="other verifiers by name, for sources (verifier) and rows (columns.verifier) that need one"
    )
    system_prompt: str = Field("", description="said before every prompt; empty: nothing")
    chat: Literal["auto", "always", "never"] = Field(
        "auto",
        description="render prompts by the model's chat template; auto: where the tokenizer has one, and refuse a chat "
        "model without; never: plain text",
    )
    chat_template_kwargs: dict[str, Any] = Field(
        {}, description="what the chat template is told besides, for example enable_thinking: false"
    )
    max_prompt_tokens: int | None = Field(
        None, ge=1, description="tokens that a rendered prompt may have, those of its images counted; none: any"
    )
    on_long: Literal["drop", "error"] = Field("drop", description="what is done with longer prompts; drops are counted")

    def verifier_named(self, name: str) -> Verifier:
        """One of `verifiers`, or `verifier` for an empty name. Raises KeyError if there is none."""
        return self.verifiers[name] if name else self.verifier

    @model_validator(mode="after")
    def _prompts_are_asked(self) -> Self:
        if fixed := {"tokenize", "add_generation_prompt"} & set(self.chat_template_kwargs):
            raise ValueError(
                f"problems.chat_template_kwargs has {', '.join(sorted(fixed))}: prompts are always rendered as text "
                "that asks for an answer; leave it out"
            )
        return self

    @model_validator(mode="after")
    def _pattern_works(self) -> Self:
        one_group(self.answer_pattern, "problems.answer_pattern")
        return self
