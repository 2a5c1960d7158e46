"""Pictures as clients send them -> RGB pixels. Slow and CPU-bound: call it off the event loop."""

from __future__ import annotations

import warnings
from io import BytesIO

from PIL import Image as Pillow
from PIL import ImageOps

from serving.core import Image
from serving.errors import InvalidImage

# What browsers show. Pillow's other decoders are older, odder and a needless risk.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
# A 50-megapixel photo passes; a small file that unfolds to gigabytes does not (RGB: 3 bytes each).
MAX_PIXELS = 64_000_000


def decode(image: Image) -> Pillow.Image:
    """Upright RGB pixels, transparency on white, the first frame of an animation.

    Raises:
        InvalidImage: not one of `FORMATS`, damaged, cut short, or over `MAX_PIXELS`.
    """
    try:
        with warnings.catch_warnings():  # Pillow warns of bombs; the limit below is the judge
            warnings.simplefilter("ignore", Pillow.DecompressionBombWarning)
            return _decode(image.data)
    except InvalidImage:
        raise
    # Damaged files make Pillow's decoders raise nearly anything.
    except Exception as error:
        raise InvalidImage("reason cannot decode image") from error


def size(image: Image) -> tuple[int, int]:
    """Width and height by its header, cheaply; (0, 0) for what `decode` will refuse."""
    try:
        with Pillow.open(BytesIO(image.data), formats=FORMATS) as picture:
            return picture.size
    except Exception:  # as above
        return 0, 0


def _decode(data: bytes) -> Pillow.Image:
    with Pillow.open(BytesIO(data), formats=FORMATS) as picture:
        width, height = picture.size
        if width * height > MAX_PIXELS:
            raise InvalidImage(f"reason image of {width}x{height} exceeds {MAX_PIXELS} pixels")
        picture.load()
        return _on_white(ImageOps.exif_transpose(picture))


def _on_white(picture: Pillow.Image) -> Pillow.Image:
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    layer = picture.convert("RGBA")
    paper = Pillow.new("RGBA", layer.size, "white")
    paper.alpha_composite(layer)
    return paper.convert("RGB")
