"""Training conversations as messages: about a picture, plain talk, or tools."""

import numpy as np

from training import dialogue, echoes, prompt, tools, topics
from training.pictures import Scene, sample_scene

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def date(rng: np.random.Generator) -> str:
    return f"{int(rng.integers(1, 29)):02d} {_MONTHS[rng.integers(12)]} {rng.integers(2023, 2032)}"


def _system(rng: np.random.Generator, share: float) -> list[dict]:
    if rng.random() >= share:
        return []
    text = topics.SYSTEM_PROMPTS[rng.integers(len(topics.SYSTEM_PROMPTS))]
    return [{"role": "system", "content": text}]


def _alternate(turns: list[tuple[str, str]]) -> list[dict]:
    roles = ("user", "assistant")
    return [
        {"role": role, "content": text}
        for turn in turns
        for role, text in zip(roles, turn, strict=True)
    ]


def about(scene: Scene, rng: np.random.Generator, turns: int) -> str:
    """A rendered conversation on one picture, which comes before or after the first question."""
    asked = dialogue.ask(scene, rng, turns)
    if len(asked) < turns and rng.random() < 0.3:
        asked.append(topics.turn(rng))
    messages = _alternate(asked)
    parts = [{"type": "image"}, {"type": "text", "text": messages[0]["content"]}]
    messages[0]["content"] = parts if rng.random() < 0.75 else parts[::-1]
    return prompt.render([*_system(rng, 0.35), *messages], date=date(rng))


def talk(rng: np.random.Generator) -> str:
    """A rendered conversation without a picture: plain talk, echoes, or with tools declared."""
    roll = rng.random()
    if roll < 0.45:
        messages, declared = tools.conversation(rng)
        return prompt.render([*_system(rng, 0.5), *messages], tools=declared, date=date(rng))
    if roll < 0.7:
        turns = echoes.conversation(rng, int(rng.integers(2, 6)))
    else:
        turns = topics.conversation(rng, int(rng.integers(1, 9)))
        if rng.random() < 0.3:
            turns.insert(int(rng.integers(len(turns) + 1)), tools.unanswerable(rng))
    return prompt.render([*_system(rng, 0.5), *_alternate(turns)], date=date(rng))


def any_text(rng: np.random.Generator) -> str:
    return about(sample_scene(rng), rng, 4) if rng.random() < 0.5 else talk(rng)
