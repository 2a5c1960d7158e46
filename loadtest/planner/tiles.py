"""How many tiles the model's processor cuts a picture into."""

from __future__ import annotations

from math import inf

from loadtest.payloads import Size

MOST = 4


def tiles(size: Size, tile: int = 560) -> int:
    """Tiles of the canvas that Llama 3.2 Vision's processor chooses.

    Of the canvases of at most four tiles: the one that enlarges the picture least; if all would
    shrink it, the one that shrinks it least; of equals the smallest.
    """
    shapes = [(w, h) for w in range(1, MOST + 1) for h in range(1, MOST + 1) if w * h <= MOST]

    def worth(shape: tuple[int, int]) -> tuple[float, int]:
        scale = min(shape[0] * tile / size.width, shape[1] * tile / size.height)
        loss = scale - 1 if scale >= 1 else 1e6 - scale if scale < 1 else inf
        return loss, shape[0] * shape[1]

    width, height = min(shapes, key=worth)
    return width * height


def computed(tiles: int) -> int:
    """Tiles the vision tower computes for a request with so many: it pads each picture to four.

    Of several small pictures in one request this counts too few.
    """
    return -(-tiles // MOST) * MOST
