"""GRPOTrainer on prompts that are text with places for images, as problems from data are rendered.

TRL takes images only in chats that it renders itself. Here they are put beside the rendered prompts where TRL calls the
model: in generation, and in every forward pass over completions. A batch carries the numbers of its prompts in the data
set instead of pixels: a prompt's images are decoded once a generation batch, whatever the size of its group, and
snapshots inside a generation window stay small.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from inspect import signature
from typing import Any

import numpy as np
import torch
from accelerate.utils.operations import recursively_apply
from PIL import Image
from trl import GRPOTrainer

from npo_core.errors import ConfigError
from npo_core.models.inputs import PromptInputs, beside_ids, prompt_inputs

IMAGES = 6  # position in what GRPOTrainer._generate returns
NUMBERS = "prompt_numbers"  # key in a batch: [B] rows of the training data


class ImageTrainer(GRPOTrainer):
    """GRPOTrainer that opens the images of its training prompts.

    Args:
        images: gives the images (PIL.Image) of a prompt id, in their order in the prompt; None: prompts are text alone.
            The data set then needs a column `prompt_id`, and its prompts are text, not chats.
    """

    open_images: Callable[[str], Sequence[Any]] | None = None  # TRL's own code may run without `__init__`
    _numbers: torch.Tensor | None = None  # of the rows that the model is called for

    def __init__(self, *args: Any, images: Callable[[str], Sequence[Any]] | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.open_images = images
        self._read: dict[int, PromptInputs] = {}  # of the newest generation batch, by number

    def _bare(self, model: Any) -> Any:
        """The transformers model, whatever wraps it."""
        model = self.accelerator.unwrap_model(model)
        return model.get_base_model() if hasattr(model, "peft_config") else model

    @cached_property
    def _blank(self) -> dict[str, torch.Tensor]:
        """A small picture as the vision tower takes it; nothing where prompts have none, or the model no tower."""
        processor = getattr(self.processing_class, "image_processor", None)
        look = getattr(self._bare(self.model).base_model, "get_image_features", None)
        if self.open_images is None or processor is None or look is None:
            return {}
        fields, taken = processor(images=[Image.new("RGB", (32, 32))], return_tensors="pt"), signature(look).parameters
        return {name: values.to(self.accelerator.device) for name, values in fields.items() if name in taken}

    @contextmanager
    def _seeing(self, model: Any, fields: dict[str, Any]) -> Iterator[None]:
        """Around a pass of training: the vision tower is called, also where no row of this process has a picture.

        It sees a blank one then, which counts for nothing. Without it, FSDP2 in another process would wait for this
        one's part of the tower, and DDP, where activations are computed again, for the gradients of it. One process
        alone does the same, so that AdamW, which passes over weights without a gradient, decays the same weights.
        """
        if "pixel_values" in fields or not self._blank:
            yield
            return
        base = self._bare(model).base_model

        def see(module: torch.nn.Module, given: Any, embedded: torch.Tensor) -> torch.Tensor:
            found: list[torch.Tensor] = []
            recursively_apply(found.append, base.get_image_features(**self._blank))
            return embedded + sum(values.sum() for values in found).to(embedded.dtype) * 0

        hook = base.get_input_embeddings().register_forward_hook(see)
        try:
            yield
        finally:
            hook.remove()

    @cached_property
    def _number_of(self) -> dict[str, int]:
        """Prompt id -> row of the training data."""
        return {id_: number for number, id_ in enumerate(self.train_dataset["prompt_id"])}

    def _prompt(self, number: int) -> PromptInputs:
        """A prompt with its images, read once a generation batch; anew after a resumption."""
        if number not in self._read:
            row = self.train_dataset[number]
            images = self.open_images(row["prompt_id"]) if self.open_images else ()
            self._read[number] = prompt_inputs(self.processing_class, row["prompt"], images)
        return self._read[number]

    def _generate_and_score_completions(self, inputs):
        if self.open_images is None:
            return super()._generate_and_score_completions(inputs)
        self._read = {}
        self._numbers = torch.tensor([self._number_of[row["prompt_id"]] for row in inputs])
        output = super()._generate_and_score_completions(inputs)
        output[NUMBERS] = self._numbers.to(output["completion_ids"].device)
        return output

    def _tokenize_prompts(self, prompts):
        if self.open_images is None or self._numbers is None:
            return super()._tokenize_prompts(prompts)
        numbers = self._numbers.tolist()
        tokens = [self._prompt(number).ids for number in numbers]
        ids = self.train_dataset[numbers]["prompt_id"] if self.use_vllm else []
        return tokens, [list(self.open_images(id_)) for id_ in ids] or None, self._fields_beside(slice(None))

    def _fields_beside(self, part: slice) -> dict[str, Any]:
        """What goes beside some of the prompts that are asked, padded on the left among themselves."""
        if self._numbers is None:
            return {}
        rows = [self._prompt(number) for number in self._numbers[part].tolist()]
        width = max(len(row.ids) for row in rows)
        return beside_ids(rows, [width - len(row.ids) for row in rows], width)

    def _fields_of(self, part: slice, images: Sequence[Sequence[Any] | None] | None, fields: dict) -> dict[str, Any]:
        """What goes beside some of the prompts: of this trainer's own images, or the part of what TRL has."""
        return fields_of_part(part, images, fields) if self.open_images is None else self._fields_beside(part)

    def _generate(self, prompts, *args, **kwargs):
        generated = super()._generate(prompts, *args, **kwargs)
        if self.open_images is None:
            return generated
        return (*generated[:IMAGES], None, *generated[IMAGES + 1 :])  # else TRL would render the prompts once more

    def _compute_loss(self, model, inputs):
        self._numbers = inputs.get(NUMBERS)
        return super()._compute_loss(model, inputs)

    def _get_per_token_logps_and_entropies(
        self, model, input_ids, attention_mask, logits_to_keep, batch_size=None, **kwargs
    ):
        """TRL's, over parts of `batch_size` rows, each with its images."""
        called = super()._get_per_token_logps_and_entropies
        if self._numbers is None:
            return called(model, input_ids, attention_mask, logits_to_keep, batch_size, **kwargs)
        size, found = batch_size or len(input_ids), []
        for start in range(0, len(input_ids), size):
            part = slice(start, start + size)
            fields = self._fields(self._numbers[part].tolist(), input_ids.shape[1], logits_to_keep)
            with self._seeing(model, fields):
                found.append(called(model, input_ids[part], attention_mask[part], logits_to_keep, **(kwargs | fields)))
        logps, entropies, losses = zip(*found, strict=True)
        whole = None if entropies[0] is None else torch.cat(entropies)
        return torch.cat(logps), whole, None if losses[0] is None else torch.stack(losses).mean()

    def _fields(self, numbers: list[int], width: int, completion: int) -> dict[str, Any]:
        """What goes beside ids [rows, width] of prompts, padded on the left, and completions of `completion` tokens."""
        prompts = [self._prompt(number) for number in numbers]
        fields = beside_ids(prompts, [width - completion - len(prompt.ids) for prompt in prompts], width)
        fields = {name: value.to(self.accelerator.device) for name, value in fields.items()}
        return fields | {"num_images": [prompt.images for prompt in prompts]} if fields else {}


def fields_of_part(
    part: slice, images: Sequence[Sequence[Any] | None] | None, fields: dict[str, Any]
) -> dict[str, Any]:
    """The part of a processor's fields that belongs to some of a batch's prompts; none where these have no image.

    Args:
        images: those of each prompt. fields: lists have an item for each prompt; tensors a row for each image, for each
            prompt, or, beside `image_grid_thw`, for each patch.

    Raises:
        ConfigError: nobody can tell which rows belong to a prompt.
    """
    counts = [len(row or ()) for row in images or ()]
    if not sum(counts[part]):
        return {}
    found, first = {}, sum(counts[: part.start])
    of_images, grid = slice(first, first + sum(counts[part])), fields.get("image_grid_thw")
    for name, values in fields.items():
        if name == "pixel_values" and grid is not None:
            patches = [0, *np.cumsum(np.prod(np.asarray(grid), axis=-1))]
            found[name] = values[patches[of_images.start] : patches[of_images.stop]]
        elif isinstance(values, list) and len(values) == len(counts):
            found[name] = values[part]
        elif len(values) in (sum(counts), len(counts)):
            found[name] = values[of_images if len(values) == sum(counts) else part]
        else:
            raise ConfigError(
                f"generation_batch cannot divide the field {name} of these images, which become tiles: leave it out."
            )
    return found
