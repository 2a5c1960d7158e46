"""Conversations -> the tokens the model was trained to continue.

The layout is that of the published Llama 3.2 Vision template, with one difference: a system message
and pictures may come together, which the published one refuses. It is laid out in code and not in
Jinja, because the prompt is built from two kinds of piece that must not mix: marks, which are
single tokens of their own, and text, whose characters can never become a mark. A caller who writes
`<|eot_id|>` sends nine or so ordinary tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import date
from enum import StrEnum
from functools import lru_cache
from itertools import groupby
from pathlib import Path

from tokenizers import Tokenizer

from serving.core import Generation, Image, Message, RawPrompt, Tool, ToolCall


class Mark(StrEnum):
    """The tokens that give a prompt its structure."""

    BEGIN = "<|begin_of_text|>"
    HEADER = "<|start_header_id|>"
    END_HEADER = "<|end_header_id|>"
    END_TURN = "<|eot_id|>"
    IMAGE = "<|image|>"


class Text(str):
    """Characters that stay characters."""

    __slots__ = ()


class Own(Text):
    """Text of ours, the same in most prompts: its tokens are kept."""

    __slots__ = ()


Piece = Mark | Text

# strftime's %b would follow the locale; the model has seen English.
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MOST_AHEAD = 1024
_MOST_OWN = 64
_GUIDANCE = Text(
    "Given the following functions, please respond with a JSON for a function call "
    "with its proper arguments that best answers the given prompt.\n\n"
    'Respond in the format {"name": function name, '
    '"parameters": dictionary of argument name and its value}.'
    "Do not use variables.\n\n"
)


class Prompter:
    """Turns generations into token ids for one tokenizer. Safe to share between threads."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        # Without this, `encode` would find marks inside the caller's text.
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer
        self._marks: dict[Piece, int] = {mark: _id(tokenizer, mark) for mark in Mark}
        self._encode_own = lru_cache(_MOST_OWN)(self._encode)

    @classmethod
    def load(cls, checkpoint: Path) -> Prompter:
        """The prompter for a checkpoint folder.

        Raises:
            ValueError: its tokenizer lacks one of the marks, so it is not of this family.
        """
        return cls(Tokenizer.from_file(str(checkpoint / "tokenizer.json")))

    def tokens(self, generation: Generation, today: date) -> list[int]:
        """The prompt's token ids; `<|image|>` occurs once per image, in the caller's order."""
        ids: list[int] = []
        # Neighbouring texts are encoded together, as the tokenizer merges across their seam.
        for is_mark, pieces in groupby(layout(generation, today), _is_mark):
            run = list(pieces)
            if is_mark:
                ids += [self._marks[mark] for mark in run]
            elif all(type(text) is Own for text in run):
                ids += self._encode_own("".join(run))
            else:
                ids += self._encode("".join(run))
        return ids

    def _encode(self, text: str) -> list[int]:
        try:
            ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        except (TypeError, UnicodeEncodeError):  # JSON may carry half of a surrogate pair
            return self._encode(text.encode("utf-8", "replace").decode())
        return ids


class Ahead:
    """Prompts made for whoever sizes a request, and kept for whoever runs it. For one thread."""

    def __init__(self, prompter: Prompter) -> None:
        self._prompter = prompter
        self._made: dict[str, list[int]] = {}

    def count(self, generation: Generation, today: date) -> int:
        """The prompt's tokens; their number."""
        tokens = self._made[generation.id] = self._prompter.tokens(generation, today)
        if len(self._made) > _MOST_AHEAD:  # refused requests are never run
            del self._made[next(iter(self._made))]
        return len(tokens)

    def tokens(self, generation: Generation, today: date) -> list[int]:
        """Those made before, or made now."""
        made = self._made.pop(generation.id, None)
        return self._prompter.tokens(generation, today) if made is None else made


def _is_mark(piece: Piece) -> bool:
    return type(piece) is Mark


def _id(tokenizer: Tokenizer, mark: Mark) -> int:
    found: int | None = tokenizer.token_to_id(mark)
    if found is None:
        raise ValueError(f"the tokenizer has no {mark} token")
    return found


def length(generation: Generation) -> int:
    """The characters of the prompt, tools aside."""
    prompt = generation.prompt
    if isinstance(prompt, RawPrompt):
        return len(prompt.text)
    return sum(len(part) for turn in prompt for part in turn.content if isinstance(part, str))


def layout(generation: Generation, today: date) -> Iterator[Piece]:
    """The prompt as marks and texts, up to where the assistant begins to speak."""
    yield Mark.BEGIN
    if isinstance(generation.prompt, RawPrompt):
        yield from [Mark.IMAGE] * len(generation.prompt.images)
        yield Text(generation.prompt.text)
        return
    system, turns = _split_system(generation.prompt)
    if system or not generation.images:
        yield from _system_turn(system, bool(generation.tools), today)
    yield from _turns(turns, generation.tools)
    yield from _header("assistant")


def _split_system(messages: Sequence[Message]) -> tuple[str, Sequence[Message]]:
    """The text of a leading system message without pictures, and the other messages."""
    if not messages or messages[0].role != "system":
        return "", messages
    content = messages[0].content
    if not all(isinstance(part, str) for part in content):
        return "", messages
    return "".join(part for part in content if isinstance(part, str)).strip(), messages[1:]


def _header(role: str) -> Iterator[Piece]:
    yield from (Mark.HEADER, Own(role), Mark.END_HEADER, Own("\n\n"))


def _system_turn(text: str, has_tools: bool, today: date) -> Iterator[Piece]:
    yield from _header("system")
    if has_tools:
        yield Own("Environment: ipython\n")
    yield Own(
        "Cutting Knowledge Date: December 2023\n"
        f"Today Date: {today.day:02} {_MONTHS[today.month - 1]} {today.year}\n\n"
    )
    if text:
        yield Text(text)
    yield Mark.END_TURN


def _turns(messages: Sequence[Message], tools: Sequence[Tool]) -> Iterator[Piece]:
    """Every turn; the first, if it is the user's, also declares the tools."""
    if tools and (not messages or messages[0].role != "user"):
        messages = (Message("user", ()), *messages)
    for index, message in enumerate(messages):
        if message.tool_calls:
            yield from _calls(message)
        elif message.role == "tool":
            yield from _result(message)
        else:
            yield from _header(message.role)
            yield from _declared(tools, message) if tools and index == 0 else _content(message)
        yield Mark.END_TURN


def _content(message: Message) -> Iterator[Piece]:
    for part in message.content:
        yield Mark.IMAGE if isinstance(part, Image) else Text(part)


def _declared(tools: Sequence[Tool], message: Message) -> Iterator[Piece]:
    yield _GUIDANCE
    for tool in tools:
        yield Text(json.dumps(_schema(tool), ensure_ascii=False, indent=4) + "\n\n")
    # The published template trims this one message and no other.
    content = list(message.content)
    if content and isinstance(content[0], str):
        content[0] = content[0].lstrip()
    if content and isinstance(content[-1], str):
        content[-1] = content[-1].rstrip()
    yield from _content(Message("user", tuple(content)))


def _schema(tool: Tool) -> dict[str, object]:
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
    }
    return {"type": "function", "function": function}


def _calls(message: Message) -> Iterator[Piece]:
    yield from _header("assistant")
    yield Text("; ".join(map(_call, message.tool_calls)))


def _call(call: ToolCall) -> str:
    arguments = json.dumps(call.arguments, ensure_ascii=False)
    return f'{{"name": "{call.name}", "parameters": {arguments}}}'


def _result(message: Message) -> Iterator[Piece]:
    """What a tool answered: a JSON string, under the header the model knows tools by."""
    yield from _header("ipython")
    texts = "".join(part for part in message.content if isinstance(part, str))
    yield Text(json.dumps(texts, ensure_ascii=False))
    yield from (Mark.IMAGE for part in message.content if isinstance(part, Image))
