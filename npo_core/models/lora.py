"""Low-rank adapters: from settings to what peft takes."""

from peft import LoraConfig, get_peft_model
from peft.tuners.lora import Linear
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import PreTrainedModel

from npo_core.config import Lora
from npo_core.errors import ConfigError
from npo_core.models.load import sees_images

NOT_LANGUAGE = r"(?!.*\blanguage_model\.).*"  # names of what a vision-language model has besides its language model


def lora_config(settings: Lora, model: PreTrainedModel) -> LoraConfig:
    """The adapters that these settings mean for a model."""
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=settings.targets or "all-linear",
        exclude_modules=NOT_LANGUAGE if sees_images(model.config) and not settings.vision else None,
    )


def check_targets(settings: Lora, model: PreTrainedModel) -> None:
    """Whether a model can be adapted so; it has adapters afterwards.

    Raises:
        ConfigError: a target is no linear layer inside the model.
    """
    try:
        adapted = get_peft_model(model, lora_config(settings, model))
    except ValueError as error:
        raise ConfigError(
            f"model.lora.targets = {settings.targets}: {error} Name linear layers such as q_proj, or leave targets out "
            "for all of them; layers of a vision tower are adapted where model.lora.vision = true."
        ) from None
    layers = {name: layer for name, layer in adapted.named_modules() if isinstance(layer, BaseTunerLayer)}
    missing = [target for target in settings.targets if not any(name.endswith(f".{target}") for name in layers)]
    output = adapted.get_output_embeddings()
    missing += [name for name, layer in layers.items() if layer is output or not isinstance(layer, Linear)]
    if missing:
        raise ConfigError(
            f"model.lora.targets = {settings.targets}: {', '.join(missing)} is no linear layer inside the model "
            "(the output layer takes no adapter); name layers such as q_proj, or leave targets out for all of them."
        )
