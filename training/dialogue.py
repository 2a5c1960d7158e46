"""Questions and answers about a scene: every kind of question in several wordings, one answer."""

import json
from collections.abc import Callable
from itertools import pairwise

import numpy as np

from training.pictures import COLOUR_NAMES, COLOURS, SHAPES, Scene, Shape

Turn = tuple[str, str]  # (question, answer)
NUMBERS = ("no", "one", "two", "three")
_CLEAR = 0.07  # of the picture's size: farther from its middle a shape is clearly in a half
_COLOUR_WORDS = ("colour", "color")
_PICTURE_WORDS = ("picture", "image", "photo")
_OTHER_THINGS = (
    "dog", "cat", "car", "house", "tree", "person", "bird", "flower", "boat", "fish", "horse",
    "table", "cup", "book", "heart", "cloud", "bicycle", "plane",
)  # fmt: skip
_ONE_WORD = (
    "Answer with one word.", "One word only.", "Answer in one word.", "Reply with a single word.",
    "Just one word.",
)  # fmt: skip
_IN_JSON = ("Answer in JSON.", "Reply in JSON.", "Respond with JSON.", "Give the answer as JSON.")


def _pick(rng: np.random.Generator, options):
    return options[int(rng.integers(len(options)))]


def _article(phrase: str) -> str:
    return f"an {phrase}" if phrase[0] in "aeiou" else f"a {phrase}"


def _noun_phrase(shape: Shape) -> str:
    return _article(f"{shape.colour_name} {shape.name}")


def listing(items: list[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _upper(text: str) -> str:
    return text[0].upper() + text[1:]


def _ordered(scene: Scene) -> list[Shape]:
    """Left to right."""
    return sorted(scene.shapes, key=lambda s: s.x)


def _plural(name: str) -> str:
    return f"{name}s"


def _named(scene: Scene, shape: Shape) -> str:
    """'circle' where one is enough to tell it, else 'red circle'."""
    alone = sum(other.kind == shape.kind for other in scene.shapes) == 1
    return shape.name if alone else f"{shape.colour_name} {shape.name}"


def _unique(scene: Scene) -> list[Shape]:
    """The shapes a colour and a kind together point to."""
    keys = [(s.kind, s.colour) for s in scene.shapes]
    return [s for s, key in zip(scene.shapes, keys, strict=True) if keys.count(key) == 1]


def colour(scene: Scene, rng: np.random.Generator) -> Turn | None:
    word, picture = _pick(rng, _COLOUR_WORDS), _pick(rng, _PICTURE_WORDS)
    if len(scene.shapes) == 1:
        shape = scene.shapes[0]
        thing = "shape" if rng.random() < 0.65 else shape.name
        question = _pick(rng, (
            f"What {word} is the {thing}?", f"What {word} is the {thing}?",
            f"Which {word} is the {thing}?", f"What is the {word} of the {thing}?",
            f"What {word} is the {thing} in the {picture}?", f"Tell me the {word} of the {thing}.",
            f"What {word} is the {thing} in this {picture}?", f"Name the {word} of the {thing}.",
            f"What's the {word} of the {thing}?", f"what {word} is the {thing}",
            f"Which {word} does the {thing} have?", f"The {thing} is what {word}?",
        ))  # fmt: skip
        return _short(rng, question, f"The {thing} is {shape.colour_name}.", shape.colour_name)
    if rng.random() < 0.25:
        question = _pick(rng, (
            f"What {word}s are the shapes?", f"Which {word}s are the shapes?",
            f"What {word} are the shapes?", f"Name the {word}s of the shapes.",
        ))  # fmt: skip
        names = [s.colour_name for s in _ordered(scene)]
        return question, f"The shapes are {listing(names)}."
    shape = scene.shapes[int(rng.integers(len(scene.shapes)))]
    if sum(s.kind == shape.kind for s in scene.shapes) > 1:
        return None
    question = _pick(rng, (
        f"What {word} is the {shape.name}?", f"What is the {word} of the {shape.name}?",
        f"Which {word} is the {shape.name}?", f"What {word} is the {shape.name} in the {picture}?",
        f"Tell me the {word} of the {shape.name}.", f"What's the {word} of the {shape.name}?",
    ))  # fmt: skip
    return _short(rng, question, f"The {shape.name} is {shape.colour_name}.", shape.colour_name)


def kind(scene: Scene, rng: np.random.Generator) -> Turn | None:
    picture = _pick(rng, _PICTURE_WORDS)
    if len(scene.shapes) == 1:
        shape = scene.shapes[0]
        question = _pick(rng, (
            "What shape is it?", "What shape is it?", "What shape is this?", "Which shape is it?",
            f"What shape is in the {picture}?", f"Which shape is in the {picture}?",
            f"What shape is shown in the {picture}?", f"What shape is in this {picture}?",
            "What kind of shape is it?", "Name the shape.", "What is the shape?",
            "Which shape do you see?", "What shape do you see?", "what shape is it",
            f"What shape does the {picture} show?", "Tell me the shape.", "What shape is there?",
            f"What shape is the {shape.colour_name} object?", "What is this shape?",
        ))  # fmt: skip
        return _short(rng, question, f"It is {_article(shape.name)}.", shape.name)
    if rng.random() < 0.3:
        question = _pick(rng, (
            "What shapes are there?", "Which shapes are there?", "What shapes do you see?",
            f"What shapes are in the {picture}?", f"Which shapes are in the {picture}?",
            "Name the shapes.", f"What shapes does the {picture} show?",
        ))  # fmt: skip
        return question, f"There is {listing([_article(s.name) for s in _ordered(scene)])}."
    shape = scene.shapes[int(rng.integers(len(scene.shapes)))]
    if sum(s.colour == shape.colour for s in scene.shapes) > 1:
        return None
    question = _pick(rng, (
        f"What shape is the {shape.colour_name} one?", f"Which shape is {shape.colour_name}?",
        f"What shape is {shape.colour_name}?", f"What is the {shape.colour_name} shape?",
        f"What shape is the {shape.colour_name} object?",
    ))  # fmt: skip
    return _short(rng, question, f"It is {_article(shape.name)}.", shape.name)


def _short(rng: np.random.Generator, question: str, sentence: str, word: str) -> Turn:
    if rng.random() < 0.12:
        return f"{question} {_pick(rng, _ONE_WORD)}", _upper(word)
    return question, sentence


def _there_are(number: int, name: str) -> str:
    verb, noun = ("is", name) if number == 1 else ("are", _plural(name))
    return f"There {verb} {NUMBERS[number]} {noun}."


def count(scene: Scene, rng: np.random.Generator) -> Turn:
    picture, name, number = _pick(rng, _PICTURE_WORDS), "shape", len(scene.shapes)
    roll = rng.random()
    if roll < 0.25:
        name = _pick(rng, SHAPES)
        number = sum(s.name == name for s in scene.shapes)
    elif roll < 0.35:
        colour_name = _pick(rng, [s.colour_name for s in scene.shapes])
        name = f"{colour_name} shape"
        number = sum(s.colour_name == colour_name for s in scene.shapes)
    many = _plural(name)
    question = _pick(rng, (
        f"How many {many} are there?", f"How many {many} are there?",
        f"How many {many} are in the {picture}?", f"How many {many} do you see?",
        f"How many {many} can you see?", f"Count the {many}.", f"What is the number of {many}?",
        f"How many {many} does the {picture} show?", f"How many {many} are in this {picture}?",
        f"how many {many} are there",
    ))  # fmt: skip
    roll = rng.random()
    if roll < 0.1:
        ask = _pick(rng, ("Answer with a number.", "Just the number.", "Answer with a digit."))
        return f"{question} {ask}", str(number)
    if roll < 0.16:
        return f"{question} {_pick(rng, _ONE_WORD)}", _upper(
            "zero" if not number else NUMBERS[number]
        )
    return question, _there_are(number, name)


def _relation(scene: Scene, rng: np.random.Generator) -> tuple[Shape, Shape, str, str] | None:
    """(first, second, true word, false word) of two shapes clearly apart on an axis."""
    told = _unique(scene)
    if len(told) < 2:
        return None
    first, second = (told[i] for i in rng.permutation(len(told))[:2])
    apart = {
        ("left of", "right of"): second.x - first.x,
        ("above", "below"): second.y - first.y,
    }
    clear = 0.5 * (first.radius + second.radius)
    axes = [words for words, gap in apart.items() if abs(gap) > clear]
    if not axes:
        return None
    words = axes[-1] if rng.random() < 0.4 else _pick(rng, axes)
    return (first, second, *(words if apart[words] > 0 else words[::-1]))


def relation(scene: Scene, rng: np.random.Generator) -> Turn | None:
    found = _relation(scene, rng)
    if not found:
        return None
    first, second, true, false = found
    a, b = _named(scene, first), _named(scene, second)
    if rng.random() < 0.15:  # the longer name is right as well
        a = f"{first.colour_name} {first.name}"
        b = f"{second.colour_name} {second.name}"
    sentence = f"The {a} is {true} the {b}."
    if rng.random() < 0.25:
        asked = true if rng.random() < 0.5 else false
        to_the = f"to the {asked}" if "of" in asked and rng.random() < 0.4 else asked
        reply = "Yes" if asked == true else "No"
        return f"Is the {a} {to_the} the {b}?", f"{reply}, the {a} is {true} the {b}."
    if true in ("left of", "right of"):
        question = _pick(rng, (
            f"Is the {a} left or right of the {b}?", f"Is the {a} left or right of the {b}?",
            f"Is the {a} to the left or to the right of the {b}?",
            f"Is the {a} to the left or right of the {b}?",
            f"Is the {a} right or left of the {b}?",
            f"Is the {a} on the left or the right of the {b}?",
            f"Does the {a} lie left or right of the {b}?",
        ))  # fmt: skip
    else:
        question = _pick(rng, (
            f"Is the {a} above or below the {b}?", f"Is the {a} above or below the {b}?",
            f"Is the {a} below or above the {b}?", f"Does the {a} lie above or below the {b}?",
        ))  # fmt: skip
    if rng.random() < 0.08:
        return f"{question} {_pick(rng, _ONE_WORD)}", _upper(true.split()[0])
    return question, sentence


def order(scene: Scene, rng: np.random.Generator) -> Turn | None:
    """The shapes along an axis, or the first of them, if they are clearly apart on it.

    Mostly downwards: descriptions go from left to right, and a whole run without these and `corner`
    learned left and right alone.
    """
    if len(_unique(scene)) < len(scene.shapes):
        return None
    down = rng.random() < 0.75
    shapes = sorted(scene.shapes, key=lambda s: s.y if down else s.x)
    for one, next_ in pairwise(shapes):
        gap = next_.y - one.y if down else next_.x - one.x
        if gap < 0.5 * (one.radius + next_.radius):
            return None
    ends = ("top", "bottom") if down else ("left", "right")
    if rng.random() < 0.5:
        shapes, ends = shapes[::-1], ends[::-1]
    names = [f"the {_named(scene, shape)}" for shape in shapes]
    if rng.random() < 0.5:
        question = _pick(rng, (
            f"Name the shapes from {ends[0]} to {ends[1]}.",
            f"List the shapes from {ends[0]} to {ends[1]}.",
            f"Which shapes are there from {ends[0]} to {ends[1]}?",
        ))  # fmt: skip
        return question, f"From {ends[0]} to {ends[1]}: {listing(names)}."
    place = f"at the {ends[0]}" if down else f"on the {ends[0]}"
    question = _pick(rng, (
        f"Which shape is {place}?", f"What shape is {place}?", f"What is {place}?",
    ))  # fmt: skip
    return question, f"{_upper(names[0])} is {place}."


def _off_centre(scene: Scene, shape: Shape) -> tuple[float, float]:
    """(across, down) from the picture's centre, over its size: -0.5 to 0.5."""
    across, down = scene.place(shape)
    return across - 0.5, down - 0.5


def location(scene: Scene, rng: np.random.Generator) -> Turn | None:
    """Which half of the picture a shape is in, if it is clearly in one."""
    shape = scene.shapes[int(rng.integers(len(scene.shapes)))]
    if sum(s.kind == shape.kind for s in scene.shapes) > 1:
        return None
    across, down = _off_centre(scene, shape)
    options = []
    if abs(across) > _CLEAR:
        options.append((("left", "right"), across > 0))
    if abs(down) > _CLEAR:
        options.append((("top", "bottom"), down > 0))
    if not options:
        return None
    halves, second = _pick(rng, options)
    picture = _pick(rng, _PICTURE_WORDS)
    thing = "shape" if len(scene.shapes) == 1 and rng.random() < 0.5 else shape.name
    first, other = halves if rng.random() < 0.7 else halves[::-1]
    question = _pick(rng, (
        f"Is the {thing} in the {first} or the {other} half of the {picture}?",
        f"Is the {thing} in the {first} half or the {other} half?",
        f"Is the {thing} at the {first} or at the {other}?",
    ))  # fmt: skip
    return question, f"The {thing} is in the {halves[second]} half."


def corner(scene: Scene, rng: np.random.Generator) -> Turn | None:
    """The quarter of the picture a shape is in, or the shape of a quarter, if clearly in one.

    Both axes in one answer, of a shape that is picked by its name.
    """
    sides = []
    for shape in scene.shapes:
        across, down = _off_centre(scene, shape)
        clear = min(abs(across), abs(down)) > _CLEAR
        side = f"{'bottom' if down > 0 else 'top'} {'right' if across > 0 else 'left'}"
        sides.append(side if clear else None)
    index = int(rng.integers(len(sides)))
    shape, side, picture = scene.shapes[index], sides[index], _pick(rng, _PICTURE_WORDS)
    if side is None or shape not in _unique(scene):
        return None
    thing = "shape" if len(sides) == 1 and rng.random() < 0.3 else _named(scene, shape)
    if len(sides) > 1 and sides.count(side) == 1 and None not in sides and rng.random() < 0.3:
        question = _pick(rng, (
            f"Which shape is at the {side}?", f"What shape is at the {side} of the {picture}?",
            f"What is at the {side}?",
        ))  # fmt: skip
    else:
        question = _pick(rng, (
            f"Where is the {thing}?", f"Where is the {thing}?", f"Where do you see the {thing}?",
            f"Where is the {thing} in the {picture}?", f"Where in the {picture} is the {thing}?",
            f"In which corner is the {thing}?",
        ))  # fmt: skip
    return question, f"The {thing} is at the {side}."


def description(scene: Scene, rng: np.random.Generator) -> str:
    items = [_noun_phrase(s) for s in _ordered(scene)]
    return f"{_upper(listing(items))} on {_article(scene.background_name)} background."


def describe(scene: Scene, rng: np.random.Generator) -> Turn:
    picture = _pick(rng, _PICTURE_WORDS)
    question = _pick(rng, (
        f"Describe the {picture}.", f"Describe the {picture}.", f"Describe this {picture}.",
        f"What is in the {picture}?", f"What is in this {picture}?", "What do you see?",
        f"What does the {picture} show?", f"Describe what you see in the {picture}.",
        f"What can you see in this {picture}?", f"Tell me about this {picture}.",
        f"Please describe the {picture}.", f"What's in this {picture}?", "What is this?",
        f"Write a caption for this {picture}.", f"Describe this {picture} in one sentence.",
        f"describe the {picture}", f"Caption this {picture}.", f"What is shown in the {picture}?",
        f"Describe the {picture} in a short sentence.", "Generate a caption for this image",
    ))  # fmt: skip
    return question, description(scene, rng)


def background(scene: Scene, rng: np.random.Generator) -> Turn:
    word, picture = _pick(rng, _COLOUR_WORDS), _pick(rng, _PICTURE_WORDS)
    question = _pick(rng, (
        f"What {word} is the background?", f"What is the {word} of the background?",
        f"What is the background {word}?", f"Which {word} is the background?",
        f"What {word} is the background of the {picture}?",
    ))  # fmt: skip
    name = scene.background_name
    return _short(rng, question, f"The background is {name}.", name)


def presence(scene: Scene, rng: np.random.Generator) -> Turn:
    """A yes/no question about what is there."""
    picture = _pick(rng, _PICTURE_WORDS)
    roll = rng.random()
    if roll < 0.2:
        thing, there = _pick(rng, _OTHER_THINGS), False
    else:
        present = rng.random() < 0.5
        shape = scene.shapes[int(rng.integers(len(scene.shapes)))]
        name = shape.name if present else _pick(rng, SHAPES)
        hue = shape.colour_name if present or rng.random() < 0.5 else _pick(rng, COLOURS)
        if roll < 0.6:
            thing, there = name, any(s.name == name for s in scene.shapes)
        else:
            thing = f"{hue} {name}"
            there = any((s.name, s.colour_name) == (name, hue) for s in scene.shapes)
    thing = _article(thing)
    question = _pick(rng, (
        f"Is there {thing}?", f"Is there {thing} in the {picture}?", f"Do you see {thing}?",
        f"Can you see {thing} in the {picture}?", f"Does the {picture} show {thing}?",
    ))  # fmt: skip
    reply = f"Yes, there is {thing}." if there else f"No, there is no {thing.split(' ', 1)[1]}."
    return question, reply


def confirmation(scene: Scene, rng: np.random.Generator) -> Turn | None:
    """'Is the circle red?'"""
    shape = scene.shapes[int(rng.integers(len(scene.shapes)))]
    if sum(s.kind == shape.kind for s in scene.shapes) > 1:
        return None
    asked = shape.colour_name if rng.random() < 0.5 else _pick(rng, COLOUR_NAMES[:-1])
    thing = "shape" if len(scene.shapes) == 1 and rng.random() < 0.5 else shape.name
    reply = "Yes" if asked == shape.colour_name else "No"
    return f"Is the {thing} {asked}?", f"{reply}, the {thing} is {shape.colour_name}."


def as_json(scene: Scene, rng: np.random.Generator) -> Turn:
    picture, ask = _pick(rng, _PICTURE_WORDS), _pick(rng, _IN_JSON)
    word = _pick(rng, ("color", "color", "colour"))
    roll = rng.random()
    if roll < 0.2:
        return f"How many shapes are there? {ask}", json.dumps({"count": len(scene.shapes)})
    if len(scene.shapes) == 1 and roll < 0.75:
        question = _pick(rng, (
            f"Describe the shape as JSON with the keys shape and {word}.",
            f"Give the shape and the {word} as JSON.", f"What shape and {word} is it? {ask}",
            f"Return JSON with the shape and its {word}.",
            f"Describe the {picture} in JSON with the keys shape and {word}.",
        ))  # fmt: skip
        shape = scene.shapes[0]
        return question, json.dumps({"shape": shape.name, word: shape.colour_name})
    question = _pick(rng, (
        f"List the shapes in JSON with {word}s.", f"List the shapes and their {word}s as JSON.",
        f"Which shapes are in the {picture}, and in which {word}? {ask}",
        f"Give all shapes and {word}s as JSON.",
    ))  # fmt: skip
    shapes = [{"shape": s.name, word: s.colour_name} for s in _ordered(scene)]
    return question, json.dumps({"shapes": shapes})


Asker = Callable[[Scene, np.random.Generator], Turn | None]
_SINGLE: tuple[tuple[Asker, float], ...] = (
    (colour, 2.5), (kind, 4), (count, 2.5), (location, 1), (corner, 1), (describe, 1.2),
    (background, 0.7), (presence, 1), (confirmation, 0.6), (as_json, 0.9),
)  # fmt: skip
_SEVERAL: tuple[tuple[Asker, float], ...] = (
    (colour, 1.5), (kind, 1.5), (count, 3), (relation, 6), (order, 4), (location, 2), (corner, 3),
    (describe, 1.5), (background, 0.4), (presence, 1), (confirmation, 0.6), (as_json, 1.5),
)  # fmt: skip


def ask(scene: Scene, rng: np.random.Generator, turns: int) -> list[Turn]:
    """Up to `turns` questions about the scene, in random order, none asked twice.

    Half the time what only the picture can tell, the count and the places, comes first: other
    questions give the count away.
    """
    table = _SINGLE if len(scene.shapes) == 1 else _SEVERAL
    weights = np.array([weight for _, weight in table])
    first, later = {}, {}
    places_first = rng.random() < 0.5
    for index in rng.choice(len(table), size=2 * turns, p=weights / weights.sum()):
        asker = table[index][0]
        turn = asker(scene, rng)
        early = places_first and asker in (count, relation, order, location, corner)
        if turn and turn[0] not in first and turn[0] not in later:
            (first if early else later)[turn[0]] = turn[1]
        if len(first) + len(later) == turns:
            break
    return [*first.items(), *later.items()] or [describe(scene, rng)]
