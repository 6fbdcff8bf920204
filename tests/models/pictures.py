"""Problems with pictures, drawn here."""

import json
from pathlib import Path

from PIL import Image

ANY_END = "^()"  # as answer_pattern: every completion that ends by itself is right, and a random model has some


def draw(folder: Path, number: int) -> str:
    """A picture with a size and colours of its own; its path in the folder."""
    picture = Image.new("RGB", (40 + 8 * (number % 3), 48), (20 * number % 256, 255 - 20 * number % 256, 99))
    picture.paste((0, 0, 0), (4, 4, 8 + 2 * number % 30, 20))
    picture.save(folder / f"{number}.png")
    return f"{number}.png"


def picture_rows(folder: Path, count: int = 12) -> list[dict]:
    """Rows with one picture each, but for the first, which has two, and the second, which has none."""
    rows = [{"question": f"{n}?", "answer": "x", "image": [draw(folder, n)]} for n in range(count)]
    rows[0] |= {"question": "from <image> to <image>?", "image": [draw(folder, 0), draw(folder, 1)]}
    rows[1] |= {"image": []}
    return rows


def write_rows(folder: Path, rows: list[dict]) -> str:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / "rows.jsonl")
