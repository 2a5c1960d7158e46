"""The public clients of Workers AI, unmodified, each made to ask for the same things.

What a client has a method for, its package can do; the errors are those of the package. Its row in
docs/compatibility.md has its `name`. More of them: `frameworks`, `javascript`.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

import anthropic
import cloudflare
import openai
from pydantic import BaseModel

from tests.contract.requests import FUNCTION, TOOL
from tests.gateway.conftest import MODEL

Turns = list[dict[str, Any]]
Calls = list[tuple[str, dict[str, Any]]]

CAPITAL: Any = {
    "type": "object",
    "properties": {"capital": {"enum": ["Oslo", "Paris", "Rome"]}},
    "required": ["capital"],
    "additionalProperties": False,
}


class Capital(BaseModel):
    """What `CAPITAL` describes."""

    capital: Literal["Oslo", "Paris", "Rome"]


@dataclass(frozen=True)
class Place:
    """Where a service is and who asks: all that a client is told."""

    host: str
    account: str
    token: str
    model: str = MODEL

    @property
    def api(self) -> str:
        """Where Cloudflare's clients start from."""
        return f"{self.host}/client/v4"

    @property
    def ai(self) -> str:
        """Where Anthropic's start from."""
        return f"{self.api}/accounts/{self.account}/ai"

    @property
    def openai(self) -> str:
        """Where OpenAI's start from."""
        return f"{self.ai}/v1"


@dataclass(frozen=True)
class Asked:
    """What is asked: in words, about a picture, for a call of `FUNCTION`, for a `CAPITAL`.

    Each is one turn of the user's; that about a picture is a text and a picture.
    """

    say: Turns
    see: Turns
    call: Turns
    json: Turns


class FailedError(Exception):
    """What an answer with this status is to a client without errors of its own."""

    def __init__(self, status_code: int, text: str) -> None:
        super().__init__(text)
        self.status_code = status_code


class Client:
    """`cold` ones can ask for the likeliest answer, which is the same every time.

    Those that are not `strict` ask for JSON of any kind.
    """

    name: ClassVar[str]
    cold: ClassVar[bool] = True
    strict: ClassVar[bool] = True

    def __init__(self, place: Place, asked: Asked) -> None:
        self.place, self.asked = place, asked

    def elsewhere(self, **changes: str) -> Client:
        """The same client in a place that differs so."""
        return type(self)(replace(self.place, **changes), self.asked)

    def status(self, error: Exception) -> int:
        """The HTTP status that an error of the package tells."""
        return getattr(error, "status_code", None) or error.response.status_code


class OpenAI(Client):
    name = "`openai` (Python)"

    @cached_property
    def client(self) -> openai.OpenAI:
        place = self.place
        return openai.OpenAI(base_url=place.openai, api_key=place.token, max_retries=0)

    def _ask(self, turns: Turns, **fields: Any) -> Any:
        create = self.client.chat.completions.create
        return create(model=self.place.model, messages=turns, temperature=0, **fields)

    def text(self) -> str:
        return self._ask(self.asked.say).choices[0].message.content

    def stream(self) -> list[str]:
        chunks = self._ask(self.asked.say, stream=True)
        return [chunk.choices[0].delta.content for chunk in chunks]

    def picture(self) -> str:
        return self._ask(self.asked.see).choices[0].message.content

    def calls(self) -> Calls:
        return of_openai(self._ask(self.asked.call, tools=[TOOL]))

    def streamed_calls(self) -> Calls:
        chunks = self._ask(self.asked.call, tools=[TOOL], stream=True)
        parts = [part for chunk in chunks for part in chunk.choices[0].delta.tool_calls or []]
        text = "".join(part.function.arguments for part in parts)
        return [(parts[0].function.name, json.loads(text))]

    def json(self) -> Any:
        wanted = {"type": "json_schema", "json_schema": {"name": "c", "schema": CAPITAL}}
        found = self._ask(self.asked.json, response_format=wanted)
        return json.loads(found.choices[0].message.content)

    def models(self) -> list[str]:
        return [model.id for model in self.client.models.list()]


def of_openai(completion: Any) -> Calls:
    """The calls in a chat completion."""
    calls = completion.choices[0].message.tool_calls
    return [(call.function.name, json.loads(call.function.arguments)) for call in calls]


class Anthropic(Client):
    name = "`anthropic` (Python)"

    @cached_property
    def client(self) -> anthropic.Anthropic:
        place = self.place
        return anthropic.Anthropic(base_url=place.ai, api_key=place.token, max_retries=0)

    def _fields(self, turns: Turns, **fields: Any) -> Any:
        asked = {"model": self.place.model, "max_tokens": 256, "messages": turns, **fields}
        return {**asked, "extra_body": {"temperature": 0}}

    @property
    def _with_tool(self) -> Any:
        schema = {"input_schema": FUNCTION["parameters"]}
        tool = {"name": FUNCTION["name"], "description": FUNCTION["description"], **schema}
        return self._fields(self.asked.call, tools=[tool])

    def text(self) -> str:
        return self.client.messages.create(**self._fields(self.asked.say)).content[0].text

    def stream(self) -> list[str]:
        with self.client.messages.stream(**self._fields(self.asked.say)) as stream:
            return list(stream.text_stream)

    def picture(self) -> str:
        words, image = self.asked.see[0]["content"]
        data = image["image_url"]["url"].partition(",")[2]
        source = {"type": "base64", "media_type": "image/png", "data": data}
        turns = [{"role": "user", "content": [words, {"type": "image", "source": source}]}]
        return self.client.messages.create(**self._fields(turns)).content[0].text

    def calls(self) -> Calls:
        content = self.client.messages.create(**self._with_tool).content
        return [(block.name, block.input) for block in content]

    def streamed_calls(self) -> Calls:
        with self.client.messages.stream(**self._with_tool) as stream:
            return [(block.name, block.input) for block in stream.get_final_message().content]

    def json(self) -> Any:
        asked = self._fields(self.asked.json, output_format=Capital)
        return self.client.messages.parse(**asked).parsed_output.model_dump()


class Native(Client):
    """What speaks `ai/run`."""

    def run(self, **fields: Any) -> Any:
        """The result."""
        raise NotImplementedError

    def lines(self, **fields: Any) -> Iterable[str]:
        """The stream."""
        raise NotImplementedError

    def _frames(self, **fields: Any) -> list[Any]:
        datas = [line.removeprefix("data: ") for line in self.lines(**fields) if line]
        assert datas.pop() == "[DONE]"
        return [json.loads(data) for data in datas]

    def text(self) -> str:
        return self.run(messages=self.asked.say)["response"]

    def stream(self) -> list[str]:
        return [frame["response"] for frame in self._frames(messages=self.asked.say)]

    def picture(self) -> str:
        words, image = self.asked.see[0]["content"]
        return self.run(prompt=words["text"], image=image["image_url"]["url"])["response"]

    def calls(self) -> Calls:
        return _flat([self.run(messages=self.asked.call, tools=[FUNCTION])])

    def streamed_calls(self) -> Calls:
        return _flat(self._frames(messages=self.asked.call, tools=[FUNCTION]))

    def json(self) -> Any:
        wanted = {"type": "json_schema", "json_schema": CAPITAL}
        return self.run(messages=self.asked.json, response_format=wanted)["response"]


def _flat(results: Iterable[Any]) -> Calls:
    calls = [call for result in results for call in result.get("tool_calls", ())]
    return [(call["name"], call["arguments"]) for call in calls]


class Cloudflare(Native):
    name = "`cloudflare` (Python)"

    @cached_property
    def client(self) -> cloudflare.Cloudflare:
        place = self.place
        return cloudflare.Cloudflare(base_url=place.api, api_token=place.token, max_retries=0)

    def _fields(self, **fields: Any) -> Any:
        return {"account_id": self.place.account, "temperature": 0, **fields}

    def run(self, **fields: Any) -> Any:
        return self.client.ai.run(self.place.model, **self._fields(**fields))

    def lines(self, **fields: Any) -> Iterable[str]:
        asked = self._fields(**fields, stream=True)
        with self.client.ai.with_streaming_response.run(self.place.model, **asked) as response:
            yield from response.iter_lines()

    def models(self) -> list[str]:
        """The package asks for pages until one is empty."""
        found: Any = self.client.ai.models.list(account_id=self.place.account, per_page=1)
        return [model["name"] for model in found]


class Curl(Native):
    """The documentation's lines, which name no content type."""

    name = "`curl` as in Cloudflare's documentation"

    def _said(self, path: str, *options: str) -> str:
        command = ["curl", "-sS", f"{self.place.ai}/{path}", "-w", "\n%{http_code}", *options]
        command += ["-H", f"Authorization: Bearer {self.place.token}"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        text, _, status = done.stdout.rpartition("\n")
        if status != "200":
            raise FailedError(int(status), text)
        return text

    def _post(self, fields: dict[str, Any]) -> str:
        body = json.dumps({**fields, "temperature": 0})
        return self._said(f"run/{self.place.model}", "-X", "POST", "-d", body)

    def run(self, **fields: Any) -> Any:
        return json.loads(self._post(fields))["result"]

    def lines(self, **fields: Any) -> Iterable[str]:
        return self._post({**fields, "stream": True}).splitlines()

    def models(self) -> list[str]:
        pages = [
            json.loads(self._said(f"models/search?per_page=1&page={page}"))["result"]
            for page in (1, 2)
        ]
        assert pages.pop() == []
        return [model["name"] for model in pages[0]]
