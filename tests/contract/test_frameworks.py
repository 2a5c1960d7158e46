"""Frameworks with a Workers AI client of their own, unmodified, with another base URL."""

import json
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import httpx
import pytest
from langchain_cloudflare import ChatCloudflareWorkersAI
from langchain_core.messages import HumanMessage, SystemMessage
from pydantic import BaseModel
from pydantic_ai import Agent, BinaryContent, ModelHTTPError

from serving.core import Image, Message
from serving.engine.fake import IMAGE_TOKENS
from tests.contract.conftest import ASKED, Running
from tests.contract.frameworks import (
    LangChain,
    LangChainOnOpenAI,
    LiteLLM,
    Llm,
    pydantic_ai,
)
from tests.contract.requests import CALL, PNG, SAY, SEE, TOOL

SEEN = Message("user", ("What colour?", Image(PNG)))
SAYING = [SystemMessage("Be brief."), HumanMessage("Say hello.")]


class Echo(BaseModel):
    """The fake's JSON."""

    echo: str


@pytest.fixture(params=[LangChain, LangChainOnOpenAI])
def chat(service: Running, request: pytest.FixtureRequest) -> ChatCloudflareWorkersAI:
    return request.param(service.place, ASKED).chat


def test_langchain_answers_and_streams(chat: ChatCloudflareWorkersAI) -> None:
    assert chat.invoke(SAYING).content == "Say hello."
    chunks = [str(chunk.content) for chunk in chat.stream(SAYING)]
    assert "".join(chunks) == "Say hello."
    assert len([chunk for chunk in chunks if chunk]) == 2


def test_langchain_calls_tools(service: Running, chat: ChatCloudflareWorkersAI) -> None:
    service.engine.answer = CALL
    found: Any = chat.bind_tools([TOOL]).invoke("weather?")
    assert [(call["name"], call["args"]) for call in found.tool_calls] == [
        ("get_weather", {"city": "Paris"})
    ]


def test_langchain_streams_calls(service: Running, chat: ChatCloudflareWorkersAI) -> None:
    if chat.endpoint_format == "openai_compatible":
        pytest.skip("this package reads no calls in OpenAI's streams")
    service.engine.answer = CALL
    chunks: Any = list(chat.bind_tools([TOOL]).stream("weather?"))
    calls = [call for chunk in chunks for call in chunk.tool_calls]
    assert [(call["name"], call["args"]) for call in calls] == [("get_weather", {"city": "Paris"})]


def test_langchain_structures_its_output(chat: ChatCloudflareWorkersAI) -> None:
    found = chat.with_structured_output(Echo, method="json_mode").invoke("hi")
    assert found == Echo(echo="hi")


def test_langchain_sees_a_picture(service: Running, chat: ChatCloudflareWorkersAI) -> None:
    chat.invoke([HumanMessage(SEE[0]["content"])])
    assert service.engine.generations[0].prompt == (SEEN,)


def test_langchain_raises_what_went_wrong(chat: ChatCloudflareWorkersAI) -> None:
    with pytest.raises(httpx.HTTPStatusError) as caught:
        chat.model_copy(update={"model": "@cf/nobody/none"}).invoke("x")
    assert caught.value.response.json()["errors"][0]["code"] == 5007


@pytest.fixture(params=["default", None])
async def agent(service: Running, request: pytest.FixtureRequest) -> AsyncIterator[Agent[None]]:
    """Behind AI Gateway and without."""
    async with pydantic_ai(service.place, request.param) as model:
        yield Agent(model)


async def test_pydantic_ai_answers_and_streams(agent: Agent[None]) -> None:
    found = await agent.run("Say hello.")
    assert (found.output, found.usage.output_tokens) == ("Say hello.", 2)
    async with agent.run_stream("Say hello.") as stream:
        texts = [text async for text in stream.stream_text(delta=True, debounce_by=None)]
    assert "".join(texts) == "Say hello."
    assert stream.usage.output_tokens == 2


async def test_pydantic_ai_uses_tools(service: Running, agent: Agent[None]) -> None:
    service.engine.answer = CALL

    @agent.tool_plain
    def get_weather(city: str) -> str:
        service.engine.answer = None
        return f"sunny in {city}"

    assert (await agent.run("weather?")).output == "sunny in Paris"


async def test_pydantic_ai_sees_a_picture(service: Running, agent: Agent[None]) -> None:
    await agent.run(["What colour?", BinaryContent(PNG, media_type="image/png")])
    assert service.engine.generations[0].prompt == (SEEN,)


async def test_pydantic_ai_structures_its_output(service: Running, agent: Agent[None]) -> None:
    found = await agent.run("hi", output_type=Echo)
    assert found.output == Echo(echo="hi")
    assert service.engine.generations[0].must_call


async def test_pydantic_ai_raises_what_went_wrong(agent: Agent[None]) -> None:
    with pytest.raises(ModelHTTPError) as caught:
        await agent.run("hi", model_settings={"temperature": 9})
    assert caught.value.status_code == 400
    assert "5006" in str(caught.value)


def test_litellm(service: Running) -> None:
    client = LiteLLM(service.place, ASKED)
    ask, litellm = partial(client.ask, messages=SAY), client.litellm
    found = ask(max_tokens=32)
    assert (found.choices[0].message.content, found.usage.total_tokens) == ("Say hello.", 4)
    assert "".join(c.choices[0].delta.content or "" for c in ask(stream=True)) == "Say hello."
    assert ask(messages=SEE).usage.prompt_tokens == 3 + IMAGE_TOKENS
    wanted = ask(response_format={"type": "json_object"})
    assert json.loads(wanted.choices[0].message.content) == {"echo": "Say hello."}
    with pytest.raises(litellm.BadRequestError, match="No such model"):
        client.elsewhere(model="@cf/x").text()
    with pytest.raises(litellm.AuthenticationError):
        client.elsewhere(token="wrong").text()
    service.engine.answer = CALL
    for streamed in (False, True):
        answered = ask(tools=[TOOL], stream=streamed)
        if streamed:
            answered = litellm.stream_chunk_builder(list(answered))
        (call,) = answered.choices[0].message.tool_calls
        assert call.function.name == "get_weather"
        assert json.loads(call.function.arguments) == {"city": "Paris"}


def test_llm_cloudflare(service: Running) -> None:
    client = Llm(service.place, ASKED)
    told = client.model.prompt("Say hello.", system="Be brief.")
    assert list(told) == ["Say", " hello.", ""]
    assert client.text() == "Say hello."
    with pytest.raises(Exception, match="401"):
        client.elsewhere(token="wrong").text()
