"""From the bytes of an image file to the picture that people see.

Stands alone: the process with vLLM, beside which npo_core need not be installed, loads this file too.
"""

import struct
from contextlib import suppress
from io import BytesIO
from typing import Any

DAMAGED_EXIF = (SyntaxError, ValueError, TypeError, KeyError, struct.error)  # what Pillow raises of it
WIDE = ("I", "F")  # 32 bits a pixel; 16-bit PNGs were opened as I before Pillow 11


def as_seen(content: bytes) -> Any:
    """A picture (PIL.Image, RGB): turned as its EXIF says, on white where it is transparent, 16 bits scaled to 8.

    Raises:
        ValueError: its pixels are 32-bit numbers, of which nobody knows how bright they are.
        Exception: whatever Pillow's readers raise of a damaged file.
    """
    from PIL import Image, ImageOps

    with Image.open(BytesIO(content)) as opened:
        opened.load()  # headers of a file that was cut off are fine
        image, kind = opened, opened.format
        with suppress(*DAMAGED_EXIF):
            image = ImageOps.exif_transpose(opened)
        if image.mode.startswith("I;16") or (image.mode == "I" and kind == "PNG"):
            return eight_bits(image).convert("RGB")
        if image.mode in WIDE:
            raise ValueError("its pixels are 32-bit numbers: save it with 8 or 16 bits")
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return image.convert("RGB")


def eight_bits(image: Any) -> Any:
    """A grey picture of 16 bits a pixel in 8, to the nearest."""
    import numpy as np
    from PIL import Image

    return Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))
