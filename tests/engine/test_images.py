"""Decoding what clients send, good and bad."""

from io import BytesIO

import pytest
from PIL import Image as Pillow

from serving.core import Image
from serving.engine import images
from serving.errors import InvalidImage

RED, BLUE = (255, 0, 0), (0, 0, 255)


def encoded(picture: Pillow.Image, format_: str, **options) -> Image:
    out = BytesIO()
    picture.save(out, format_, **options)
    return Image(out.getvalue())


@pytest.mark.parametrize("format_", images.FORMATS)
def test_formats(format_):
    """Each decodes to RGB of its size."""
    decoded = images.decode(encoded(Pillow.new("RGB", (7, 5), RED), format_))
    assert (decoded.mode, decoded.size) == ("RGB", (7, 5))
    assert all(abs(a - b) < 3 for a, b in zip(RED, decoded.getpixel((3, 2)), strict=True))


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "I;16"])
def test_modes(mode):
    """Whatever the pixels were, RGB comes out."""
    format_ = "JPEG" if mode == "CMYK" else "PNG"
    assert images.decode(encoded(Pillow.new(mode, (4, 4)), format_)).mode == "RGB"


def test_transparency_becomes_white():
    """What shows through is paper, not the black of the hidden pixels."""
    clear = encoded(Pillow.new("RGBA", (4, 4), (0, 0, 0, 0)), "PNG")
    assert images.decode(clear).getpixel((1, 1)) == (255, 255, 255)


def test_exif_orientation_is_applied():
    """A portrait photo stored sideways comes out upright."""
    exif = Pillow.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to show
    photo = encoded(Pillow.new("RGB", (8, 2)), "JPEG", exif=exif)
    assert images.decode(photo).size == (2, 8)


def test_animations_give_their_first_frame():
    """GIF and WebP alike."""
    frames = [Pillow.new("RGB", (4, 4), colour) for colour in (RED, BLUE)]
    for format_ in ("GIF", "WEBP"):
        film = encoded(frames[0], format_, save_all=True, append_images=frames[1:])
        assert images.decode(film).getpixel((1, 1))[0] > 200


def test_bombs_are_refused_before_they_unfold():
    """Ten thousand pixels square in a few kilobytes."""
    bomb = encoded(Pillow.new("1", (10_000, 10_000)), "PNG")
    assert len(bomb.data) < 100_000
    with pytest.raises(InvalidImage, match="exceeds 64000000 pixels"):
        images.decode(bomb)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"hello", id="text"),
        pytest.param(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", id="postscript"),
        pytest.param(encoded(Pillow.new("RGB", (99, 99), RED), "PNG").data[:-40], id="cut-png"),
        pytest.param(encoded(Pillow.effect_noise((99, 99), 9), "JPEG").data[:900], id="cut-jpeg"),
        pytest.param(encoded(Pillow.new("RGB", (9, 9)), "TIFF").data, id="unwanted-format"),
    ],
)
def test_damaged_files_are_the_callers_fault(data):
    """Nothing but InvalidImage comes out."""
    with pytest.raises(InvalidImage, match="cannot decode image"):
        images.decode(Image(data))
