"""Examination pictures and questions, by other code than the training generator.

Pictures are drawn with Pillow's polygons at four times their size and scaled down, laid out by
rules of their own, and stored as PNG or JPEG; nothing is shared with `pictures` but the names.
"""

import io
import math
import random
from dataclasses import dataclass

from PIL import Image, ImageDraw

KINDS = ("circle", "square", "triangle", "star")
PALETTE = {
    "red": ((255, 0, 0), (214, 39, 40), (200, 16, 46)),
    "green": ((0, 128, 0), (0, 200, 0), (44, 160, 44)),
    "blue": ((0, 0, 255), (31, 80, 200), (0, 56, 168)),
    "yellow": ((255, 255, 0), (255, 221, 0), (240, 228, 40)),
    "orange": ((255, 165, 0), (255, 127, 14), (245, 130, 20)),
    "purple": ((128, 0, 128), (148, 60, 189), (106, 27, 154)),
    "black": ((0, 0, 0), (15, 15, 15), (25, 22, 20)),
    "white": ((255, 255, 255), (250, 250, 250), (245, 245, 240)),
}


@dataclass(frozen=True)
class Figure:
    """A shape of the exam: centre and diameter in pixels."""

    kind: str
    colour: str
    x: float
    y: float
    diameter: float


@dataclass(frozen=True)
class Sheet:
    """A picture as a client would send it."""

    encoded: bytes
    media_type: str
    size: tuple[int, int]  # width, height
    background: str
    figures: tuple[Figure, ...]

    def image(self) -> Image.Image:
        return Image.open(io.BytesIO(self.encoded)).convert("RGB")


@dataclass(frozen=True)
class Question:
    """A question and the word that a right answer must hold, with those it must not."""

    topic: str
    text: str
    right: str
    wrong: tuple[str, ...]


def _corners(kind: str, x: float, y: float, diameter: float, tilt: float) -> list:
    """Outline corners of anything but a circle."""
    r = diameter / 2
    if kind == "square":
        raw = [(-r, -r), (r, -r), (r, r), (-r, r)]
        raw = [(px * 0.89, py * 0.89) for px, py in raw]
    elif kind == "triangle":
        raw = [(0, -r), (r * 0.95, r * 0.8), (-r * 0.95, r * 0.8)]
    else:
        raw = []
        for step in range(10):
            reach = r if step % 2 == 0 else r * 0.42
            turn = -math.pi / 2 + step * math.pi / 5
            raw.append((reach * math.cos(turn), reach * math.sin(turn)))
    cos, sin = math.cos(tilt), math.sin(tilt)
    return [(x + px * cos - py * sin, y + px * sin + py * cos) for px, py in raw]


def _paint(
    size: tuple[int, int], background: tuple, figures: list[tuple[Figure, tuple, float]]
) -> Image.Image:
    fine = 4 if max(size) <= 512 else 2
    sheet = Image.new("RGB", (size[0] * fine, size[1] * fine), background)
    pen = ImageDraw.Draw(sheet)
    for figure, ink, tilt in figures:
        x, y, d = figure.x * fine, figure.y * fine, figure.diameter * fine
        if figure.kind == "circle":
            pen.ellipse([x - d / 2, y - d / 2, x + d / 2, y + d / 2], fill=ink)
        else:
            pen.polygon(_corners(figure.kind, x, y, d, tilt), fill=ink)
    return sheet.resize(size, Image.LANCZOS)


def _sides(dice: random.Random) -> tuple[int, int]:
    """Width and height between 64 and 1,024 pixels, at most 4 to 1."""
    while True:
        width, height = (round(2 ** dice.uniform(6, 10)) for _ in range(2))
        if max(width, height) <= 4 * min(width, height):
            return width, height


def _place(dice: random.Random, size: tuple[int, int], count: int) -> list[tuple[float, ...]]:
    """(x, y, diameter) of shapes that do not touch; bounding circles stay in the picture."""
    width, height = size
    short = min(size)
    while True:
        spots: list[tuple[float, ...]] = []
        for _ in range(200):
            top = 2 / 3 if count == 1 else 0.5
            d = dice.uniform(0.2, top) * short
            margin = d * 0.64
            if 2 * margin > short:
                margin = short / 2
            x, y = dice.uniform(margin, width - margin), dice.uniform(margin, height - margin)
            if all(math.dist((x, y), s[:2]) > 0.64 * (d + s[2]) + 0.03 * short for s in spots):
                spots.append((x, y, d))
            if len(spots) == count:
                return spots


def sheet(dice: random.Random, count: int) -> Sheet:
    """A picture of `count` shapes, all of them different in kind when there are several."""
    size = _sides(dice)
    background = dice.choice(list(PALETTE))
    inks = [name for name in PALETTE if name != background]
    kinds = dice.sample(KINDS, count)
    painted = []
    for kind, (x, y, d) in zip(kinds, _place(dice, size, count), strict=True):
        colour = dice.choice(inks)
        tilt = dice.uniform(-0.2, 0.2) if dice.random() < 0.3 else 0.0
        painted.append((Figure(kind, colour, x, y, d), dice.choice(PALETTE[colour]), tilt))
    picture = _paint(size, dice.choice(PALETTE[background]), painted)
    buffer = io.BytesIO()
    if dice.random() < 0.5:
        picture.save(buffer, "PNG")
        media_type = "image/png"
    else:
        picture.save(buffer, "JPEG", quality=dice.randint(75, 95))
        media_type = "image/jpeg"
    figures = tuple(figure for figure, _, _ in painted)
    return Sheet(buffer.getvalue(), media_type, size, background, figures)


def _others(words, right: str) -> tuple[str, ...]:
    return tuple(word for word in words if word != right)


def colour_question(dice: random.Random, paper: Sheet) -> Question:
    text = dice.choice((
        "What colour is the shape?", "What color is the shape?", "Which colour is the shape?",
        "What is the color of the shape?", "What colour is the shape in the image?",
    ))  # fmt: skip
    right = paper.figures[0].colour
    return Question("colour", text, right, _others(PALETTE, right))


def shape_question(dice: random.Random, paper: Sheet) -> Question:
    text = dice.choice((
        "What shape is it?", "What shape is in the image?", "Which shape is it?",
        "What shape is this?", "What shape do you see?",
    ))  # fmt: skip
    right = paper.figures[0].kind
    return Question("shape", text, right, _others(KINDS, right))


def count_question(dice: random.Random, paper: Sheet) -> Question:
    text = dice.choice((
        "How many shapes are there?", "How many shapes are in the image?",
        "How many shapes do you see?", "Count the shapes.",
    ))  # fmt: skip
    words = ("one", "two", "three")
    right = words[len(paper.figures) - 1]
    return Question("count", text, right, _others(words, right))


def relation_question(dice: random.Random, paper: Sheet) -> Question | None:
    """Left or right (or above or below) of two shapes that are clearly apart on that axis."""
    first, second = dice.sample(paper.figures, 2)
    clear = (first.diameter + second.diameter) / 2
    across, down = first.x - second.x, first.y - second.y
    options = []
    if abs(across) > clear:
        options.append(("left or right of", ("right", "left") if across > 0 else ("left", "right")))
    if abs(down) > clear:
        options.append(("above or below", ("below", "above") if down > 0 else ("above", "below")))
    if not options:
        return None
    words, (right, wrong) = dice.choice(options)
    text = f"Is the {first.kind} {words} the {second.kind}?"
    return Question("relation", text, right, (wrong,))


def questions(seed: int, each: int) -> list[tuple[Sheet, Question]]:
    """`each` questions on every topic, every one on a picture of its own."""
    dice = random.Random(seed)
    paper = []
    for ask in (colour_question, shape_question):
        for _ in range(each):
            page = sheet(dice, 1)
            paper.append((page, ask(dice, page)))
    for number in range(each):
        page = sheet(dice, 1 + number % 3)
        paper.append((page, count_question(dice, page)))
    while len(paper) < 4 * each:
        page = sheet(dice, dice.choice((2, 3)))
        question = relation_question(dice, page)
        if question:
            paper.append((page, question))
    return paper


def passed(question: Question, answer: str) -> bool:
    """Whether the answer names the right word and no wrong one."""
    words = answer.lower().replace(".", " ").replace(",", " ").split()
    return question.right in words and not any(word in words for word in question.wrong)


def lists(seed: int, number: int) -> list[tuple[Sheet, str]]:
    """Pictures of two and of three shapes in turn, and requests for a list of these in JSON."""
    dice = random.Random(f"lists {seed}")
    asked = (
        "List the shapes in JSON with colors.", "List the shapes and their colours as JSON.",
        "Give all shapes and colors as JSON.",
    )  # fmt: skip
    return [(sheet(dice, 2 + index % 2), dice.choice(asked)) for index in range(number)]


def listed(paper: Sheet, reply: object) -> bool:
    """Whether the decoded reply has all of the picture's shapes and nothing else."""
    try:
        found = [
            (each["shape"], each.get("color") or each.get("colour")) for each in reply["shapes"]
        ]
    except (KeyError, TypeError, AttributeError):
        return False
    return sorted(found, key=str) == sorted(((f.kind, f.colour) for f in paper.figures), key=str)


_TOWNS = (
    "Paris", "London", "Berlin", "Madrid", "Rome", "Tokyo", "Oslo", "Lima", "Cairo", "Boston",
    "Leeds", "Nantes", "Turin", "Dresden", "Malmo", "Omaha", "Quito", "Tampa", "Basel", "Hanoi",
)  # fmt: skip


def _weather_tool(argument: str, name: str = "get_weather") -> dict:
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": "Get the current weather in a city",
            "parameters": {
                "type": "object",
                "properties": {argument: {"type": "string", "description": "The city"}},
                "required": [argument],
            },
        },
    }


def tool_requests() -> list[tuple[str, dict, dict]]:
    """(request, declared tool, the call expected): towns the model was and was not trained on."""
    variants = (("city", "get_weather"), ("location", "get_weather"), ("city", "weather_now"))
    return [
        (
            f"What is the weather in {town}?",
            _weather_tool(argument, name),
            {"name": name, "parameters": {argument: town}},
        )
        for town in _TOWNS
        for argument, name in variants
    ]
