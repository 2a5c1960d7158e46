"""The chat template, rendered the way transformers and vLLM render it."""

import json
from functools import cache
from pathlib import Path

from jinja2 import Template
from jinja2.sandbox import ImmutableSandboxedEnvironment

TEMPLATE = Path(__file__).with_name("chat_template.jinja")


def _tojson(value: object, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


@cache
def _template() -> Template:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = _tojson
    return environment.from_string(TEMPLATE.read_text())


def render(
    messages: list[dict],
    tools: list[dict] | None = None,
    date: str = "26 Jul 2024",
    generate: bool = False,
) -> str:
    """The prompt text; with `generate`, up to where the assistant begins to speak."""
    return _template().render(
        messages=messages,
        tools=tools,
        date_string=date,
        add_generation_prompt=generate,
        bos_token="<|begin_of_text|>",
    )
