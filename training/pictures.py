"""Training pictures: plain scenes of one to three shapes, drawn as the model will see them.

A scene is sampled in native pixels (64 to 1,024 a side). Most pictures are rasterised straight at
the size the image processor would resize them to, which costs a fraction of drawing them at their
native size; a share takes the long way (native drawing, JPEG, the processor's own resize) so that
ragged edges, compression and upscaling are seen too.
"""

import io
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image
from transformers.models.mllama.image_processing_pil_mllama import (
    get_all_supported_aspect_ratios,
    get_image_size_fit_to_canvas,
    get_optimal_tiled_canvas,
)

SHAPES = ("circle", "square", "triangle", "star")
COLOURS = ("red", "green", "blue", "yellow", "orange", "purple", "black", "white")
GRAY = len(COLOURS)  # only ever a background
COLOUR_NAMES = (*COLOURS, "gray")

TILE = 80  # pixels a side
PATCH = 10  # pixels a side
MAX_TILES = 4
GRID = TILE // PATCH
CELLS = 5  # a side of a patch, in the auxiliary mask
ASPECT_RATIOS = get_all_supported_aspect_ratios(MAX_TILES)

# Hue (degrees), saturation and value ranges of the named colours, well apart from one another.
_HSV = {
    "red": ((-10, 8), (0.75, 1), (0.62, 1)),
    "green": ((92, 150), (0.5, 1), (0.38, 1)),
    "blue": ((206, 246), (0.62, 1), (0.45, 1)),
    "yellow": ((49, 63), (0.65, 1), (0.82, 1)),
    "orange": ((20, 41), (0.78, 1), (0.86, 1)),
    "purple": ((266, 304), (0.42, 1), (0.4, 0.95)),
    "black": ((0, 360), (0, 0.6), (0, 0.12)),
    "white": ((0, 360), (0, 0.05), (0.93, 1)),
    "gray": ((0, 360), (0, 0.06), (0.42, 0.86)),
}
# The plain CSS names, which most drawing code uses.
_EXACT = {
    "red": ((255, 0, 0), (220, 20, 60), (200, 0, 0)),
    "green": ((0, 128, 0), (0, 255, 0), (50, 205, 50), (0, 160, 0)),
    "blue": ((0, 0, 255), (30, 60, 220), (65, 105, 225), (0, 0, 205)),
    "yellow": ((255, 255, 0), (255, 215, 0), (250, 220, 20)),
    "orange": ((255, 165, 0), (255, 140, 0), (255, 128, 0)),
    "purple": ((128, 0, 128), (160, 32, 240), (147, 51, 200)),
    "black": ((0, 0, 0), (20, 20, 20)),
    "white": ((255, 255, 255), (245, 245, 245)),
    "gray": ((128, 128, 128), (192, 192, 192), (211, 211, 211)),
}


@dataclass(frozen=True)
class Shape:
    """One shape; lengths and positions in native pixels, `angle` in radians."""

    kind: int
    colour: int
    rgb: tuple[float, float, float]
    x: float
    y: float
    radius: float  # of the circle through the outermost corners, before stretching
    angle: float
    stretch: tuple[float, float]  # horizontal, vertical
    points: int  # corners of a polygon or star; 0 for a circle
    inner: float  # radius of the inward corners over the outer; cos(pi/points) is a polygon

    @property
    def name(self) -> str:
        return SHAPES[self.kind]

    @property
    def colour_name(self) -> str:
        return COLOURS[self.colour]

    @property
    def reach(self) -> float:
        return self.radius * max(self.stretch)


@dataclass(frozen=True)
class Scene:
    """A picture to draw; sizes in native pixels."""

    width: int
    height: int
    background: int
    background_rgb: tuple[float, float, float]
    shapes: tuple[Shape, ...]

    @property
    def background_name(self) -> str:
        return COLOUR_NAMES[self.background]

    def place(self, shape: Shape) -> tuple[float, float]:
        """(across, down) of its centre, over the picture's width and height."""
        return shape.x / self.width, shape.y / self.height


def _rgb(rng: np.random.Generator, colour: int) -> tuple[float, float, float]:
    name = COLOUR_NAMES[colour]
    if rng.random() < 0.4:
        base = np.array(_EXACT[name][rng.integers(len(_EXACT[name]))], float)
        return tuple(np.clip(base + rng.normal(0, 4, 3), 0, 255))
    hue, saturation, value = (rng.uniform(*bounds) for bounds in _HSV[name])
    sector = (np.array([5.0, 3.0, 1.0]) + hue / 60) % 6
    return tuple(255 * (value - value * saturation * np.clip(np.minimum(sector, 4 - sector), 0, 1)))


def _size(rng: np.random.Generator) -> tuple[int, int]:
    """(width, height) in 64..1024 pixels with an aspect ratio of at most 4."""
    aspect = 1.0 if rng.random() < 0.3 else math.exp(rng.uniform(0, math.log(4)))
    short = math.exp(rng.uniform(math.log(64), math.log(1024 / aspect)))
    sides = round(short), min(1024, round(short * aspect), 4 * round(short))
    return sides if rng.random() < 0.5 else sides[::-1]


def _shape(rng: np.random.Generator, diameter: float) -> tuple[float, float, tuple, int, float]:
    """Kind and outline for a diameter: (kind, radius, angle, stretch, points, inner)."""
    kind = int(rng.integers(len(SHAPES)))
    turn = rng.random()
    tilt = (
        0.0 if turn < 0.6 else rng.normal(0, 0.15) if turn < 0.8 else rng.uniform(-math.pi, math.pi)
    )
    radius, stretch = diameter / 2, (1.0, 1.0)
    if kind == 0:
        return kind, radius, 0.0, stretch, 0, 1.0
    if kind == 1:
        if rng.random() < 0.6:  # the side, not the diagonal, spans the diameter
            radius *= math.sqrt(2)
        return kind, radius, tilt + math.pi / 4, stretch, 4, math.cos(math.pi / 4)
    if kind == 2:
        if rng.random() < 0.5:  # an isosceles triangle filling the diameter's bounding box
            stretch = (2 / math.sqrt(3), 4 / 3 * rng.uniform(0.8, 1.0))
        if rng.random() < 0.1:
            tilt += math.pi
        return kind, radius, tilt, stretch, 3, 0.5
    return kind, radius, tilt, stretch, 5 if rng.random() < 0.93 else 6, rng.uniform(0.36, 0.52)


def sample_scene(rng: np.random.Generator) -> Scene:
    """A random scene: one to three shapes in a picture of any supported size."""
    count = int(rng.choice([1, 2, 3], p=[0.42, 0.36, 0.22]))
    return _scene(rng, _size(rng), count, (0.68, 0.58, 0.5)[count - 1])


def sample_tile(rng: np.random.Generator) -> Scene:
    """A scene of exactly one tile, with one or two shapes as large or small as tiles ever hold."""
    count = 1 if rng.random() < 0.75 else 2
    return _scene(rng, (TILE, TILE), count, (0.95, 0.55)[count - 1])


def _scene(rng: np.random.Generator, size: tuple[int, int], count: int, largest: float) -> Scene:
    """Shapes inside the picture and clear of one another, at most `largest` of its shorter side."""
    width, height = size
    short = min(size)
    background = GRAY if rng.random() < 0.06 else int(rng.integers(len(COLOURS)))
    others = [c for c in range(len(COLOURS)) if c != background]
    shapes: list[Shape] = []
    attempts = 0
    while len(shapes) < count:
        attempts += 1
        if attempts > 40:
            largest, attempts, shapes = max(0.22, largest * 0.8), 0, []
        low, high = math.log(0.19), math.log(largest)
        log_uniform = math.exp(rng.uniform(low, high))
        share = log_uniform if rng.random() < 0.5 else rng.uniform(0.19, largest)
        kind, radius, angle, stretch, points, inner = _shape(rng, share * short)
        reach = radius * max(stretch)
        if 2 * reach > short:
            continue
        x, y = rng.uniform(reach, width - reach), rng.uniform(reach, height - reach)
        gap = rng.uniform(0.9, 1.15)
        if any(math.hypot(x - s.x, y - s.y) < gap * (reach + s.reach) for s in shapes):
            continue
        colour = int(rng.choice(others))
        shapes.append(
            Shape(kind, colour, _rgb(rng, colour), x, y, radius, angle, stretch, points, inner)
        )
    return Scene(width, height, background, _rgb(rng, background), tuple(shapes))


def signed_distance(shape: Shape, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """About the distance in pixels from the outline, negative inside; any broadcastable x, y."""
    dx, dy = x - shape.x, y - shape.y
    if shape.angle:
        cos, sin = math.cos(shape.angle), math.sin(shape.angle)
        dx, dy = dx * cos + dy * sin, dy * cos - dx * sin
    dx, dy = dx / shape.stretch[0], dy / shape.stretch[1]
    distance = np.hypot(dx, dy)
    if not shape.points:
        return distance - shape.radius
    # Fold the plane into half a corner's sector: one straight edge then bounds the whole outline.
    half = math.pi / shape.points
    fold = np.abs((np.arctan2(dx, -dy) + half) % (2 * half) - half)
    inward = shape.radius * shape.inner
    edge_x, edge_y = inward * math.cos(half) - shape.radius, inward * math.sin(half)
    length = math.hypot(edge_x, edge_y)
    along, across = distance * np.cos(fold), distance * np.sin(fold)
    return ((along - shape.radius) * edge_y - across * edge_x) / length


def _scaled(scene: Scene, width: int, height: int) -> Scene:
    horizontal, vertical = width / scene.width, height / scene.height
    mean = math.sqrt(horizontal * vertical)
    shapes = tuple(
        Shape(
            s.kind, s.colour, s.rgb, s.x * horizontal, s.y * vertical, s.radius * mean,
            s.angle, s.stretch, s.points, s.inner,
        )
        for s in scene.shapes
    )  # fmt: skip
    return Scene(width, height, scene.background, scene.background_rgb, shapes)


def rasterise(scene: Scene, softness: float = 1.0) -> np.ndarray:
    """uint8 (height, width, 3); edges are `softness` pixels wide, 0 draws them ragged."""
    picture = np.empty((scene.height, scene.width, 3), np.float32)
    picture[:] = scene.background_rgb
    for shape in scene.shapes:
        reach = shape.reach + 2
        left, right = max(0, int(shape.x - reach)), min(scene.width, int(shape.x + reach) + 1)
        top, bottom = max(0, int(shape.y - reach)), min(scene.height, int(shape.y + reach) + 1)
        xs = np.arange(left, right, dtype=np.float32) + 0.5
        ys = np.arange(top, bottom, dtype=np.float32)[:, None] + 0.5
        distance = signed_distance(shape, xs, ys)
        cover = np.clip(0.5 - distance / softness, 0, 1) if softness else distance < 0
        window = picture[top:bottom, left:right]
        window += cover[..., None] * (np.array(shape.rgb, np.float32) - window)
    return np.clip(picture + 0.5, 0, 255).astype(np.uint8)


def _jpeg(picture: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def fit(width: int, height: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """((rows, columns) of tiles, resized (height, width)), as the image processor decides."""
    canvas = get_optimal_tiled_canvas(height, width, MAX_TILES, TILE)
    resized = get_image_size_fit_to_canvas(height, width, canvas[0], canvas[1], TILE)
    return (int(canvas[0]) // TILE, int(canvas[1]) // TILE), (int(resized[0]), int(resized[1]))


def draw(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """The scene as the processor hands it on, before padding: uint8 (resized height, width, 3)."""
    _, (height, width) = fit(scene.width, scene.height)
    native = rng.random() < 0.25 and max(scene.width, scene.height) < rng.uniform(160, 1100)
    if native:
        picture = rasterise(scene, softness=0.0 if rng.random() < 0.4 else 1.0)
        if rng.random() < 0.5:
            picture = _jpeg(picture, int(rng.integers(60, 96)))
        return np.asarray(Image.fromarray(picture).resize((width, height), Image.BILINEAR))
    picture = rasterise(_scaled(scene, width, height), softness=rng.uniform(0.7, 1.9))
    if rng.random() < 0.15:
        picture = _jpeg(picture, int(rng.integers(70, 96)))
    return picture


def tiles(picture: np.ndarray, layout: tuple[int, int]) -> np.ndarray:
    """Pad with black to the canvas and cut: uint8 (MAX_TILES, TILE, TILE, 3), unused tiles 0."""
    rows, columns = layout
    canvas = np.zeros((rows * TILE, columns * TILE, 3), np.uint8)
    canvas[: picture.shape[0], : picture.shape[1]] = picture
    cut = canvas.reshape(rows, TILE, columns, TILE, 3).transpose(0, 2, 1, 3, 4)
    stack = np.zeros((MAX_TILES, TILE, TILE, 3), np.uint8)
    stack[: rows * columns] = cut.reshape(-1, TILE, TILE, 3)
    return stack


@dataclass(frozen=True)
class PatchTargets:
    """What each patch shows, for the auxiliary loss; (MAX_TILES, GRID * GRID) arrays.

    `shape` and `colour` are -1 outside the picture; `shape` is len(SHAPES) on the background;
    `centre` is 1 on the patch holding a shape's centre; `place` is that centre over the picture's
    size, (..., 2), meaningful on shapes only; `mask` says which of the patch's CELLS * CELLS cells
    lie on a shape, (..., CELLS * CELLS). `count` is the number of shapes, (MAX_TILES,), -1 on
    unused tiles.
    """

    shape: np.ndarray
    colour: np.ndarray
    centre: np.ndarray
    place: np.ndarray
    mask: np.ndarray
    count: np.ndarray


def _cut(grid: np.ndarray, layout: tuple[int, int], fill: int) -> np.ndarray:
    """(rows * GRID, columns * GRID, C) of the canvas to (MAX_TILES, GRID * GRID, C)."""
    rows, columns = layout
    split = grid.reshape(rows, GRID, columns, GRID, -1).transpose(0, 2, 1, 3, 4)
    out = np.full((MAX_TILES, GRID * GRID, split.shape[-1]), fill, grid.dtype)
    out[: rows * columns] = split.reshape(rows * columns, GRID * GRID, -1)
    return out


def patch_targets(scene: Scene) -> PatchTargets:
    layout, (height, width) = fit(scene.width, scene.height)
    down, across = layout[0] * GRID, layout[1] * GRID
    cell = PATCH / CELLS
    ys = ((np.arange(down * CELLS, dtype=np.float32) + 0.5) * cell)[:, None]
    xs = (np.arange(across * CELLS, dtype=np.float32) + 0.5) * cell
    inside = (np.arange(down) * PATCH < height)[:, None] & (np.arange(across) * PATCH < width)
    shape = np.where(inside, len(SHAPES), -1)
    colour = np.where(inside, scene.background, -1)
    centre = np.zeros(inside.shape, np.int64)
    place = np.zeros((*inside.shape, 2), np.float32)
    mask = np.zeros((down, across, CELLS * CELLS), bool)
    scaled = _scaled(scene, width, height).shapes
    for item, drawn in zip(scaled, scene.shapes, strict=True):
        cells = signed_distance(item, xs, ys) < 0
        cells = cells.reshape(down, CELLS, across, CELLS).transpose(0, 2, 1, 3)
        cells = cells.reshape(mask.shape)
        mask |= cells
        covered = cells.sum(-1) > 2
        row, column = int(item.y // PATCH), int(item.x // PATCH)
        covered[row, column] = True
        centre[row, column] = 1
        shape[covered], colour[covered] = item.kind, item.colour
        place[covered] = scene.place(drawn)
    return PatchTargets(
        _cut(shape, layout, -1)[..., 0],
        _cut(colour, layout, -1)[..., 0],
        _cut(centre, layout, 0)[..., 0],
        _cut(place, layout, 0),
        _cut(mask, layout, 0),
        np.where(np.arange(MAX_TILES) < layout[0] * layout[1], len(scene.shapes), -1),
    )
