"""OpenAI's responses, `ai/v1/responses`, without a store: each request brings its conversation.

Here bodies are read; `openai_output` writes what comes back.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from serving.core import Generation, Image, Message
from serving.errors import InvalidChoice, InvalidInput
from serving.protocol import (
    images,
    messages,
    openai,
    payload,
    response_format,
    sampling,
    tools,
)
from serving.protocol.dialect import Ask, Dialect
from serving.protocol.openai_output import Writer

# They need a store, or tools of OpenAI's own.
_UNSERVED = ("previous_response_id", "conversation", "background", "prompt")


class Body(msgspec.Struct, kw_only=True):
    """A response's request."""

    model: str = ""
    input: str | list[dict[str, Any]] = ""
    instructions: str | None = None
    stream: bool = False
    max_output_tokens: openai.Tokens | None = None
    temperature: Annotated[float, Meta(ge=0, le=5)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=2)] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    text: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=0)] | None = None
    previous_response_id: str | None = None
    conversation: Any = None
    background: bool | None = None
    prompt: Any = None
    lora: str | None = None  # Workers AI's own, beside OpenAI's fields


def parse(data: bytes, ask: Ask) -> tuple[Generation, Writer]:
    """A request to the model that the body names.

    Raises:
        BadRequest: see `native.parse`.
    """
    body = payload.shaped(data, Body)
    model = ask.find(body.model)
    for name in _UNSERVED:
        if getattr(body, name):
            raise InvalidInput(f"'/{name}' is not supported")
    turns = tuple(_turns(body))
    if not body.input:
        raise InvalidInput("'/input' must have at least one item")
    images.check_count(messages.count_images(turns), model.max_images)
    offered, must_call = tools.choose(_tools(body), _choice(body.tool_choice))
    generation = Generation(
        id=ask.id,
        model=model.id,
        prompt=turns,
        sampling=sampling.parse(_drawn(body)),
        tools=offered,
        json=response_format.parse_flat((body.text or {}).get("format")),
        stream=body.stream,
        must_call=must_call,
        lora=model.lora(body.lora),
    )
    one_call = body.parallel_tool_calls is False
    return generation, Writer(generation, _blank(generation, ask, body), one_call)


DIALECT = Dialect(parse, openai.failure)


def _drawn(body: Body) -> dict[str, Any]:
    given = {
        "max_tokens": body.max_output_tokens,
        "temperature": body.temperature,
        "top_p": body.top_p,
    }
    return {name: value for name, value in given.items() if value is not None}


def _choice(choice: Any) -> Any:
    match choice:
        case {"type": "function", "name": str(name)}:
            return {"function": {"name": name}}
        case None | str():
            return choice
    raise InvalidChoice


def _tools(body: Body) -> tuple[Any, ...]:
    for index, tool in enumerate(body.tools or ()):
        if tool.get("type") != "function":
            raise InvalidInput(f"'/tools/{index}/type' must be function")
    return tools.parse(body.tools)


def _turns(body: Body) -> Iterator[Message]:
    if body.instructions:
        yield Message("system", (body.instructions,))
    if isinstance(body.input, str):
        yield Message("user", (body.input,))
        return
    for index, item in enumerate(body.input):
        yield from _turn(item, f"/input/{index}")


def _turn(item: dict[str, Any], path: str) -> Iterator[Message]:
    """The message of an input item; reasoning is dropped, since the model has none."""
    match item:
        case {"type": "reasoning"}:
            return
        case {"type": "function_call", "call_id": str(id_)}:
            call = {"id": id_, "name": item.get("name"), "arguments": item.get("arguments")}
            yield from messages.parse([{"role": "assistant", "tool_calls": [call]}])
        case {"type": "function_call_output", "call_id": str(id_), "output": output}:
            yield Message("tool", _content(output, f"{path}/output"), tool_call_id=id_)
        case {"role": str(role), "content": content} if item.get("type", "message") == "message":
            role = messages.role(role)
            yield Message(role, _content(content, f"{path}/content"))
        case _:
            raise InvalidInput(f"'{path}' must be a message, a function_call or its output")


def _content(content: Any, path: str) -> tuple[str | Image, ...]:
    if isinstance(content, str):
        return (content,)
    if not isinstance(content, list):
        raise InvalidInput(f"'{path}' must be a string or an array of parts")
    return tuple(_part(part, f"{path}/{index}") for index, part in enumerate(content))


def _part(part: Any, path: str) -> str | Image:
    match part:
        case {"type": "input_text" | "output_text" | "text", "text": str(text)}:
            return text
        case {"type": "refusal", "refusal": str(text)}:
            return text
        case {"type": "input_image", "image_url": str(url)}:
            return images.parse_text(url)
    raise InvalidInput(f"'{path}' must be an input_text or an input_image with an image_url")


def _blank(generation: Generation, ask: Ask, body: Body) -> dict[str, Any]:
    """The response before it has any output, with the request's own fields in it."""
    drawn = generation.sampling
    return {
        "id": f"resp_{generation.id}",
        "object": "response",
        "created_at": ask.created,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": drawn.max_tokens,
        "metadata": body.metadata or {},
        "model": generation.model,
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": None,
        "store": False,
        "temperature": drawn.temperature,
        "text": {"format": {"type": "text"}, **(body.text or {})},
        "tool_choice": body.tool_choice or "auto",
        "tools": body.tools or [],
        "top_p": 1.0 if drawn.top_p is None else drawn.top_p,
        "truncation": "disabled",
        "usage": None,
    }
