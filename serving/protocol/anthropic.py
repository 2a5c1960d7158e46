"""Anthropic's messages, `ai/v1/messages`.

Here bodies are read; `anthropic_output` writes what comes back. Thinking is not something
this model does: the parameter is ignored and such blocks are dropped.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from serving.core import Generation, Image, Message, Tool, ToolCall
from serving.errors import InvalidChoice, InvalidInput
from serving.protocol import images, messages, openai, payload, response_format, sampling, tools
from serving.protocol.anthropic_output import Writer, counted, failure
from serving.protocol.dialect import Ask, Dialect

_UNSERVED = ("mcp_servers", "container")  # they would change the answer
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


class Body(msgspec.Struct, kw_only=True):
    """A message's request. Workers AI's defaults hold for what is absent, `max_tokens` too."""

    messages: Annotated[list[dict[str, Any]], Meta(min_length=1)]
    model: str = ""
    system: str | list[dict[str, Any]] = ""
    stream: bool = False
    max_tokens: openai.Tokens | None = None
    temperature: Annotated[float, Meta(ge=0, le=5)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_k: Annotated[int, Meta(ge=1)] | None = None
    stop_sequences: list[str] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: dict[str, Any] | None = None
    output_config: dict[str, Any] | None = None
    lora: str | None = None  # Workers AI's own, beside Anthropic's fields
    mcp_servers: list[Any] | None = None
    container: Any = None


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
    images.check_count(messages.count_images(turns), model.max_images)
    offered, must_call = tools.choose(_tools(body.tools or []), _choice(body.tool_choice))
    generation = Generation(
        id=ask.id,
        model=model.id,
        prompt=turns,
        sampling=sampling.parse(_drawn(body)),
        tools=offered,
        json=response_format.parse_flat((body.output_config or {}).get("format")),
        stream=body.stream,
        must_call=must_call,
        lora=model.lora(body.lora),
    )
    one_call = bool((body.tool_choice or {}).get("disable_parallel_tool_use"))
    return generation, Writer(generation, one_call)


DIALECT = Dialect(parse, failure)
COUNT = Dialect(parse, failure, counted)


def _drawn(body: Body) -> dict[str, Any]:
    given = {
        "max_tokens": body.max_tokens,
        "temperature": body.temperature,
        "top_p": body.top_p,
        "top_k": body.top_k,
        "stop": body.stop_sequences,
    }
    return {name: value for name, value in given.items() if value is not None}


def _tools(items: list[dict[str, Any]]) -> tuple[Tool, ...]:
    for index, item in enumerate(items):
        if item.get("type") not in (None, "custom"):
            raise InvalidInput(f"'/tools/{index}/type' must be custom")
    return tools.parse([{**item, "parameters": item.get("input_schema")} for item in items])


def _choice(choice: dict[str, Any] | None) -> Any:
    match choice:
        case None:
            return None
        case {"type": "tool", "name": str(name)}:
            return {"function": {"name": name}}
        case {"type": str(kind)} if kind in _CHOICES:
            return _CHOICES[kind]
    raise InvalidChoice


def _turns(body: Body) -> Iterator[Message]:
    if isinstance(body.system, str):
        system = body.system
    else:
        system = "\n\n".join(str(block.get("text", "")) for block in body.system)
    if system:
        yield Message("system", (system,))
    for index, item in enumerate(body.messages):
        yield from _turn(item, f"/messages/{index}")


def _turn(item: dict[str, Any], path: str) -> Iterator[Message]:
    """A message's turns: results of tools are blocks of it here, and turns of their own inside."""
    role, content = item.get("role"), item.get("content")
    if role not in ("user", "assistant", "system"):
        raise InvalidInput(f"'{path}/role' must be user or assistant")
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(blocks, list) or not all(isinstance(block, dict) for block in blocks):
        raise InvalidInput(f"'{path}/content' must be a string or an array of blocks")
    pieces: list[str | Image] = []
    calls: list[ToolCall] = []
    for index, block in enumerate(blocks):
        match block:
            case {"type": "tool_use", "id": str(id_), "name": str(name), "input": dict(given)}:
                at = f"{path}/content/{index}"
                calls.append(ToolCall(name, messages.arguments(given, at), id_))
            case {"type": "tool_result", "tool_use_id": str(id_)}:
                result = _pieces(block.get("content") or "", f"{path}/content/{index}/content")
                yield Message("tool", tuple(result), tool_call_id=id_)
            case _:
                pieces += _pieces([block], f"{path}/content")
    if pieces or calls or not blocks:
        yield Message(role, tuple(pieces), tuple(calls))


def _pieces(content: Any, path: str) -> Iterator[str | Image]:
    if isinstance(content, str):
        yield content
        return
    for index, block in enumerate(content if isinstance(content, list) else [content]):
        match block:
            case {"type": "text", "text": str(text)}:
                yield text
            case {"type": "image", "source": {"type": "base64", "data": str(data)}}:
                yield images.parse_text(data)
            case {"type": "image", "source": {"type": "url", "url": str(url)}}:
                yield images.parse_text(url)
            case {"type": "thinking" | "redacted_thinking"}:
                continue
            case _:
                raise InvalidInput(f"'{path}/{index}' must be a text or an image block")
