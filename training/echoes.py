"""Repeating and looking up what was just said: the skill under every tool call.

Names and values are mostly made up, so that nothing but copying helps.
"""

import json

import numpy as np

from training import tools

Turn = tuple[str, str]


def _pick(rng: np.random.Generator, options):
    return options[int(rng.integers(len(options)))]


def _word(rng: np.random.Generator) -> str:
    roll = rng.random()
    if roll < 0.5:
        word = tools.invented(rng)
        return word.capitalize() if rng.random() < 0.5 else word
    if roll < 0.8:
        return _pick(rng, (*tools.CITIES, *tools.NAMES, *tools.SUBJECTS))
    return str(int(rng.integers(1000)))


def _repeat(rng: np.random.Generator) -> Turn:
    text = " ".join(_word(rng) for _ in range(int(rng.integers(1, 9))))
    ask = _pick(rng, ("Repeat: {}", "Repeat after me: {}", "Say this: {}", "Echo: {}"))
    return ask.format(text), text


def _lookup(rng: np.random.Generator) -> Turn:
    keys = list({_word(rng) for _ in range(int(rng.integers(1, 5)))})
    values = [_word(rng) for _ in keys]
    facts = ", ".join(f"{key} is {value}" for key, value in zip(keys, values, strict=True))
    index = int(rng.integers(len(keys)))
    return f"{facts}. What is {keys[index]}?", f"{keys[index]} is {values[index]}."


def _object(rng: np.random.Generator) -> Turn:
    keys = list({tools.invented(rng) for _ in range(int(rng.integers(1, 4)))})
    values = [_word(rng) for _ in keys]
    typed = [int(value) if value.isdigit() else value for value in values]
    content = json.dumps(dict(zip(keys, typed, strict=True)))
    if rng.random() < 0.5:
        spoken = " and ".join(f"the {k} is {v}" for k, v in zip(keys, values, strict=True))
        return f"Say in words: {content}", f"{spoken[0].upper()}{spoken[1:]}."
    pairs = " and ".join(f"{key} {value}" for key, value in zip(keys, values, strict=True))
    return f"Write as JSON: {pairs}", content


def conversation(rng: np.random.Generator, turns: int) -> list[Turn]:
    return [_pick(rng, (_repeat, _lookup, _object))(rng) for _ in range(turns)]
