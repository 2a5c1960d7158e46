"""Frameworks with a Workers AI client of their own, unmodified, with another base URL."""

import json
import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from langchain_cloudflare import ChatCloudflareWorkersAI
from langchain_core.messages import HumanMessage, SystemMessage
from pydantic import BaseModel
from pydantic_ai import Agent, BinaryContent, ModelHTTPError
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai_cloudflare import CloudflareProvider

from serving.core import Image, Message
from serving.engine.fake import IMAGE_TOKENS
from tests.contract.conftest import Running
from tests.contract.requests import CALL, PNG, SAY, SEE, TOOL
from tests.gateway.conftest import ACCOUNT, MODEL, TOKEN

SEEN = Message("user", ("What colour?", Image(PNG)))
SAYING = [SystemMessage("Be brief."), HumanMessage("Say hello.")]


class Echo(BaseModel):
    """The fake's JSON."""

    echo: str


@pytest.fixture(params=["workers_ai", "openai_compatible"])
def chat(service: Running, request: pytest.FixtureRequest) -> ChatCloudflareWorkersAI:
    return ChatCloudflareWorkersAI(
        account_id=ACCOUNT,
        api_token=TOKEN,
        model=MODEL,
        base_url=service.api,
        endpoint_format=request.param,
        max_retries=0,
    )


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
    """Behind AI Gateway and without: the package's hosts are constants, its base URL a property."""

    class Provider(CloudflareProvider):
        @property
        def base_url(self) -> str:
            if request.param:
                return f"{service.host}/v1/{ACCOUNT}/{request.param}/workers-ai/v1"
            return service.openai

    async with httpx.AsyncClient() as http:
        provider = Provider(
            account_id=ACCOUNT, api_key=TOKEN, gateway_id=request.param, http_client=http
        )
        yield Agent(OpenAIChatModel(MODEL, provider=provider))


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


@pytest.fixture(scope="module")
def litellm() -> Iterator[Any]:
    """It fetches a price list when it is imported, unless told not to."""
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    import litellm

    litellm.telemetry = False
    yield litellm
    del os.environ["LITELLM_LOCAL_MODEL_COST_MAP"]


def test_litellm(service: Running, litellm: Any) -> None:
    def ask(**fields: Any) -> Any:
        return litellm.completion(
            **{
                "model": f"cloudflare/{MODEL}",
                "messages": SAY,
                "num_retries": 0,
                "api_key": TOKEN,
                **fields,
            },
            api_base=service.openai,
        )

    found = ask(max_tokens=32)
    assert (found.choices[0].message.content, found.usage.total_tokens) == ("Say hello.", 4)
    assert "".join(c.choices[0].delta.content or "" for c in ask(stream=True)) == "Say hello."
    assert ask(messages=SEE).usage.prompt_tokens == 3 + IMAGE_TOKENS
    wanted = ask(response_format={"type": "json_object"})
    assert json.loads(wanted.choices[0].message.content) == {"echo": "Say hello."}
    with pytest.raises(litellm.BadRequestError, match="No such model"):
        ask(model="cloudflare/@cf/x")
    with pytest.raises(litellm.AuthenticationError):
        ask(api_key="wrong")
    service.engine.answer = CALL
    for streamed in (False, True):
        answered = ask(tools=[TOOL], stream=streamed)
        if streamed:
            answered = litellm.stream_chunk_builder(list(answered))
        (call,) = answered.choices[0].message.tool_calls
        assert call.function.name == "get_weather"
        assert json.loads(call.function.arguments) == {"city": "Paris"}


def test_llm_cloudflare(service: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """It always streams: its other way is broken, whoever answers."""
    monkeypatch.setenv("CLOUDFLARE_ACCOUNT_ID", ACCOUNT)
    from llm_cloudflare import WorkersAI

    model: Any = WorkersAI(MODEL)
    model.api_base_url, model.key = service.openai, TOKEN
    assert list(model.prompt("Say hello.", system="Be brief.")) == ["Say", " hello.", ""]
    assert model.prompt("Say hello.").text() == "Say hello."
    model.key = "wrong"
    with pytest.raises(Exception, match="401"):
        model.prompt("Say hello.").text()
