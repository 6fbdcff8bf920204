"""A random Qwen3-VL and problems with pictures that are drawn here."""

import json
from pathlib import Path
from typing import Any

from npo_core.models.tiny import make_tokenizer, shrunk


def vision_config(text: dict[str, Any], vision: dict[str, Any]) -> Any:
    """Of a tiny model but for these fields of its language model and its vision tower."""
    from transformers import Qwen3VLConfig

    values = shrunk(Qwen3VLConfig().to_dict(), make_tokenizer())
    values["text_config"] |= text | {"tie_word_embeddings": True}
    if "head_dim" in text:  # the three axes share half a head
        share = text["head_dim"] // 16
        values["text_config"]["rope_parameters"] |= {"mrope_section": [3 * share, 5 * share // 2, 5 * share // 2]}
    values["vision_config"] |= vision
    return Qwen3VLConfig(**values | {"tie_word_embeddings": True})


def draw_problems(folder: Path, count: int, sides: tuple[int, int]) -> Path:
    """As many rows with a picture each, whose width and height are between the `sides`; the file of the rows."""
    from PIL import Image

    low, high = sides
    rows = []
    for number in range(count):
        size = (low + 37 * number % (high - low + 1), low + 53 * number % (high - low + 1))
        picture = Image.new("RGB", size, (29 * number % 256, 255 - 29 * number % 256, 99))
        picture.paste((0, 0, 0), (4, 4, 8 + number % (low - 8), low // 2))
        picture.save(folder / f"{number}.png")
        rows.append({"question": f"{number}?", "answer": "x", "image": f"{number}.png"})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "rows.jsonl"
