"""Where a text names one shape of a scene, for the loss that ties names to places."""

import re
from collections.abc import Iterator

from training.pictures import COLOURS, SHAPES, Scene

_NAME = re.compile(rf"\b(?:({'|'.join(COLOURS)}) )?({'|'.join(SHAPES)})\b")


def mentions(text: str, scene: Scene) -> Iterator[tuple[int, float, float]]:
    """(index of the name's last character, across, down) of names that fit one shape alone.

    Across and down are the shape's centre over the picture's width and height, from 0 to 1.
    """
    for found in _NAME.finditer(text):
        hue, name = found.groups()
        fitting = [s for s in scene.shapes if s.name == name and hue in (None, s.colour_name)]
        if len(fitting) == 1:
            yield found.end() - 1, *scene.place(fitting[0])
