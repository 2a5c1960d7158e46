"""What every client is made to ask."""

import base64
from io import BytesIO
from typing import Any

from PIL import Image as Pillow


def _picture() -> bytes:
    out = BytesIO()
    Pillow.new("RGB", (8, 8), "red").save(out, "PNG")
    return out.getvalue()


PNG = _picture()
URI = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "description": "The city"}},
    "required": ["city"],
}
FUNCTION: dict[str, Any] = {
    "name": "get_weather",
    "description": "Get the current weather in a city",
    "parameters": PARAMETERS,
}
TOOL: Any = {"type": "function", "function": FUNCTION}
CALL = '{"name": "get_weather", "parameters": {"city": "Paris"}}'
LONG_CALL = '{"name": "get_weather", "parameters": {"city": "New York"}}'
TWO_CALLS = f'{CALL}; {{"name": "get_weather", "parameters": {{"city": "Rome"}}}}'
SAY: list[Any] = [{"role": "user", "content": "Say hello."}]
SEE: list[Any] = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "What colour?"},
            {"type": "image_url", "image_url": {"url": URI}},
        ],
    }
]
# A turn of a conversation that used a tool.
AFTER_CALL: list[Any] = [
    *SAY,
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "chatcmpl-tool-0123456789",
                "type": "function",
                "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "chatcmpl-tool-0123456789", "content": "sunny"},
]
