"""What is found wrong with problems and pictures before a vision-language model is trained on them."""

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from npo_core.config import DataProblems
from npo_core.errors import ConfigError, DataError
from npo_core.models.inputs import prompt_inputs, read_prompts
from npo_core.models.load import load_processor
from npo_core.problems.data import prompt_lengths
from npo_core.problems.load import load_problems
from tests.models.pictures import draw, write_rows


@pytest.fixture
def problems(tmp_path, tiny):
    """Reads rows as problems of the tiny model that sees."""
    for number in range(4):
        draw(tmp_path, number)

    def read(rows: list[dict], **fields):
        source = {"path": write_rows(tmp_path, rows), "columns": {"images": ["image"]}}
        settings = DataProblems(kind="data", train=source, held_out_rows=1, answer_pattern="^()", **fields)
        return load_problems(settings, processor=load_processor(tiny("qwen3_vl")))

    return read


def row(number: int, **changes) -> dict:
    return {"question": f"{number}?", "answer": "x", "image": [f"{number}.png"]} | changes


def test_tokens_of_images_count(problems, tmp_path, tiny):
    for number, size in enumerate([(32, 32), (64, 64), (300, 40), (37, 211)]):
        Image.new("RGB", size).save(tmp_path / f"{number}.png")
    found = problems([row(0), row(1), row(2), row(3, image=["3.png", "0.png"]), row(3, image=[])])
    read = [*found.train, *found.held_out]
    processor = load_processor(tiny("qwen3_vl"))
    lengths = [len(prompt.ids) for prompt in read_prompts(processor, read)]
    assert prompt_lengths(read, processor) == lengths and len(set(lengths)) >= 4
    with pytest.raises(DataError, match=rf"more than problems.max_prompt_tokens = {max(lengths) - 1} tokens: row"):
        problems([row(0), row(1), row(2), row(3, image=["3.png", "0.png"])], max_prompt_tokens=max(lengths) - 1,
                 on_long="error")  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"question": "<image> and <image>?"}, "2 places for images, and 1 images"),
        ({"question": "what is <|image_pad|>?"}, r"its prompt has 2 places for images .<.image_pad.>., and it has 1"),
        ({"question": "what is <|image_pad|>?", "image": None}, "its prompt has 1 places .* and it has 0 images"),
        ({"image": ["thin.png"]}, "the model's processor refuses an image .*aspect ratio"),
    ],
)
def test_rows_that_the_model_cannot_be_given(problems, tmp_path, wrong, words):
    Image.new("RGB", (4000, 8)).save(tmp_path / "thin.png")
    with pytest.raises(DataError, match=f"{words}.*: row 2$"):
        problems([row(0), row(1, **wrong), row(2)])


def test_a_template_that_only_the_processor_has(problems, tiny, monkeypatch):
    expected = problems([row(0), row(1)]).fingerprint
    load = AutoProcessor.from_pretrained

    def without(*args, **kwargs):
        processor = load(*args, **kwargs)
        processor.tokenizer.chat_template = None
        return processor

    monkeypatch.setattr(AutoProcessor, "from_pretrained", without)
    assert problems([row(0), row(1)]).fingerprint == expected


def test_plain_prompts_have_no_place_for_images(problems):
    with pytest.raises(DataError, match=r"its prompt has 0 places for images .*: rows "):
        problems([row(0), row(1), row(2)], chat="never")


def test_a_model_that_cuts_images_into_tiles(tiny):
    processor = load_processor(tiny("qwen3_vl"))

    class Tiles:
        tokenizer = processor.tokenizer

        def __call__(self, **_):
            ids = torch.tensor([[5, 5]])
            return {"input_ids": ids, "attention_mask": ids, "pixel_values": torch.zeros(4, 3, 8, 8)}

    with pytest.raises(ConfigError, match="Tiles cuts images into tiles"):
        prompt_inputs(Tiles(), "<|image_pad|>", [Image.new("RGB", (8, 8))])


def test_a_processor_without_its_package(tiny, monkeypatch):
    def fails(*_, **__):
        raise ImportError("Qwen3VLVideoProcessor requires the Torchvision library")

    monkeypatch.setattr(AutoProcessor, "from_pretrained", fails)
    with pytest.raises(ConfigError, match="requires the Torchvision library.*install the extra `vision`"):
        load_processor(tiny("qwen3_vl"))
