"""Frameworks with a client of Workers AI, unmodified."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import cached_property
from typing import Any, ClassVar

import httpx
from langchain_cloudflare import ChatCloudflareWorkersAI
from pydantic_ai import Agent, BinaryContent, Tool
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai_cloudflare import CloudflareProvider

from tests.contract.clients import CAPITAL, Calls, Capital, Client, Place, of_openai
from tests.contract.requests import FUNCTION, TOOL


class LangChain(Client):
    name = "`langchain-cloudflare`, native and OpenAI endpoints"
    endpoint = "workers_ai"
    strict = False

    @cached_property
    def chat(self) -> ChatCloudflareWorkersAI:
        return ChatCloudflareWorkersAI(
            account_id=self.place.account,
            api_token=self.place.token,
            model=self.place.model,
            base_url=self.place.api,
            endpoint_format=self.endpoint,
            temperature=0,
            max_retries=0,
        )

    def text(self) -> str:
        return self.chat.invoke(self.asked.say).content

    def stream(self) -> list[str]:
        return [chunk.content for chunk in self.chat.stream(self.asked.say)]

    def picture(self) -> str:
        return self.chat.invoke(self.asked.see).content

    def calls(self) -> Calls:
        found: Any = self.chat.bind_tools([TOOL]).invoke(self.asked.call)
        return [(call["name"], call["args"]) for call in found.tool_calls]

    def streamed_calls(self) -> Calls:
        chunks: Any = self.chat.bind_tools([TOOL]).stream(self.asked.call)
        calls = [call for chunk in chunks for call in chunk.tool_calls]
        return [(call["name"], call["args"]) for call in calls]

    def json(self) -> Any:
        model: Any = self.chat.with_structured_output(CAPITAL, method="json_mode")
        return model.invoke(self.asked.json)


class LangChainOnOpenAI(LangChain):
    endpoint = "openai_compatible"
    streamed_calls = None  # the package reads no calls in OpenAI's streams


@asynccontextmanager
async def pydantic_ai(place: Place, gateway: str | None) -> AsyncIterator[OpenAIChatModel]:
    """The package's hosts are constants, its base URL a property."""

    class Provider(CloudflareProvider):
        @property
        def base_url(self) -> str:
            if gateway:
                return f"{place.host}/v1/{place.account}/{gateway}/workers-ai/v1"
            return place.openai

    async with httpx.AsyncClient() as http:
        provider = Provider(
            account_id=place.account, api_key=place.token, gateway_id=gateway, http_client=http
        )
        yield OpenAIChatModel(place.model, provider=provider, settings={"temperature": 0})


class PydanticAI(Client):
    name = "`pydantic-ai-cloudflare`, behind AI Gateway and direct"
    gateway: ClassVar[str | None] = "default"

    def _use(self, use: Callable[[OpenAIChatModel], Awaitable[Any]]) -> Any:
        async def used() -> Any:
            async with pydantic_ai(self.place, self.gateway) as model:
                return await use(model)

        return asyncio.run(used())

    def text(self) -> str:
        words = self.asked.say[0]["content"]
        return self._use(lambda model: Agent(model).run(words)).output

    def stream(self) -> list[str]:
        async def use(model: OpenAIChatModel) -> list[str]:
            async with Agent(model).run_stream(self.asked.say[0]["content"]) as stream:
                return [text async for text in stream.stream_text(delta=True, debounce_by=None)]

        return self._use(use)

    def picture(self) -> str:
        words, image = self.asked.see[0]["content"]
        parts = [words["text"], BinaryContent.from_data_uri(image["image_url"]["url"])]
        return self._use(lambda model: Agent(model).run(parts)).output

    def _agent(self, model: OpenAIChatModel, made: Calls) -> Agent:
        """Notes the calls that are made; the model puts in words what they return."""

        def get_weather(**arguments: Any) -> dict[str, str]:
            made.append(("get_weather", arguments))
            return {"condition": "sunny"}

        tool = Tool.from_schema(
            get_weather, FUNCTION["name"], FUNCTION["description"], FUNCTION["parameters"]
        )
        return Agent(model, tools=[tool])

    def calls(self) -> Calls:
        made: Calls = []
        words = self.asked.call[0]["content"]
        assert self._use(lambda model: self._agent(model, made).run(words)).output
        return made

    def streamed_calls(self) -> Calls:
        made: Calls = []

        async def use(model: OpenAIChatModel) -> str:
            words = self.asked.call[0]["content"]
            async with self._agent(model, made).run_stream(words) as stream:
                return await stream.get_output()

        assert self._use(use)
        return made

    def json(self) -> Any:
        words = self.asked.json[0]["content"]
        found = self._use(lambda model: Agent(model).run(words, output_type=Capital))
        return found.output.model_dump()


class PydanticAIDirect(PydanticAI):
    gateway = None


class LiteLLM(Client):
    name = "`litellm`"
    strict = False

    @cached_property
    def litellm(self) -> Any:
        # It fetches a price list when it is imported, unless told not to.
        os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
        import litellm

        litellm.telemetry = False
        return litellm

    def ask(self, **fields: Any) -> Any:
        return self.litellm.completion(
            model=f"cloudflare/{self.place.model}",
            api_base=self.place.openai,
            api_key=self.place.token,
            num_retries=0,
            temperature=0,
            **fields,
        )

    def text(self) -> str:
        return self.ask(messages=self.asked.say).choices[0].message.content

    def stream(self) -> list[str]:
        chunks = self.ask(messages=self.asked.say, stream=True)
        return [chunk.choices[0].delta.content or "" for chunk in chunks]

    def picture(self) -> str:
        return self.ask(messages=self.asked.see).choices[0].message.content

    def calls(self) -> Calls:
        return of_openai(self.ask(messages=self.asked.call, tools=[TOOL]))

    def streamed_calls(self) -> Calls:
        chunks = self.ask(messages=self.asked.call, tools=[TOOL], stream=True)
        return of_openai(self.litellm.stream_chunk_builder(list(chunks)))

    def json(self) -> Any:
        found = self.ask(messages=self.asked.json, response_format={"type": "json_object"})
        return json.loads(found.choices[0].message.content)


class Llm(Client):
    """It always streams: its other way is broken, whoever answers."""

    name = "`llm` with `llm-cloudflare`"
    cold = False

    @cached_property
    def model(self) -> Any:
        os.environ["CLOUDFLARE_ACCOUNT_ID"] = self.place.account
        from llm_cloudflare import WorkersAI

        model: Any = WorkersAI(self.place.model)
        model.api_base_url, model.key = self.place.openai, self.place.token
        return model

    def text(self) -> str:
        return self.model.prompt(self.asked.say[0]["content"]).text()

    def stream(self) -> list[str]:
        return list(self.model.prompt(self.asked.say[0]["content"]))

    def status(self, error: Exception) -> int:
        return int(re.search(r"status code: (\d+)", str(error))[1])
