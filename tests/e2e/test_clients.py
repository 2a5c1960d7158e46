"""The public clients drive the whole stack, started as an operator starts it: nothing is scripted.

One stack for all of them: HAProxy, Ray Serve, the gateway, vLLM and the repository's checkpoint,
which names colours, calls `get_weather` and writes JSON. Each client must see what the others see.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import jsonschema
import psutil
import pytest
import yaml

from tests.contract import clients, frameworks, javascript
from tests.contract.clients import CAPITAL, Asked, Client, Place, Turns
from tests.deploy.unit import DEPLOY, Unit
from tests.e2e.stack import ACCOUNT, MODEL, TOKEN, Stack, free_port, stack
from tests.e2e.test_stack import COLOURS, looking_at

pytestmark = pytest.mark.timeout(600)

PYTHON: tuple[type[Client], ...] = (
    clients.Curl,
    clients.OpenAI,
    clients.Anthropic,
    clients.Cloudflare,
    frameworks.LangChain,
    frameworks.LangChainOnOpenAI,
    frameworks.PydanticAI,
    frameworks.PydanticAIDirect,
    frameworks.LiteLLM,
    frameworks.Llm,
)
NODE: tuple[type[Client], ...] = (
    javascript.OpenAI,
    javascript.Cloudflare,
    javascript.Vercel,
    javascript.LangChain,
)
# Each is shown another picture.
COLOUR = dict(zip((*PYTHON, *NODE), cycle(COLOURS), strict=False))


def said(words: str) -> Turns:
    return [{"role": "user", "content": words}]


SAY = said("Hello!")


def asked(colour: str) -> Asked:
    return Asked(
        say=SAY,
        see=looking_at(colour)["messages"],
        call=said("What is the weather in Paris?"),
        json=said("What is the capital of France? Answer in JSON."),
    )


def able(ability: str) -> Any:
    """The clients that can do it, as the parameter `client`."""
    cases = [
        pytest.param(
            kind,
            id=f"{kind.__name__}-{kind.__module__.rpartition('.')[2]}",
            marks=javascript.INSTALLED if kind in NODE else (),
        )
        for kind in COLOUR
        if getattr(kind, ability, None)
    ]
    return pytest.mark.parametrize("client", cases, indirect=True)


@pytest.fixture(scope="module")
def unit(tmp_path_factory: pytest.TempPathFactory) -> Unit:
    settings = {"ACCOUNT_ID": ACCOUNT, "API_TOKEN": TOKEN, "TENANCY_SECRET": "s" * 32}
    state = tmp_path_factory.mktemp("clients") / "state"
    state.mkdir(mode=0o700)  # as StateDirectory has it
    return Unit.read(state, settings)


@pytest.fixture(scope="module")
def up(unit: Unit) -> Iterator[Stack]:
    """Started as systemd does it by deploy/llama-vision.service; the last test stops it."""
    folder = Path(unit.environment["STATE_DIR"]).parent
    with stack(
        folder, *unit.command, inherited={}, options=unit.options(), **unit.environment
    ) as made:
        yield made


@pytest.fixture(scope="module")
def made(up: Stack) -> dict[type[Client], Client]:
    """Every client; those for JavaScript see everything in one run and are kept for it."""
    place = Place(up.url, ACCOUNT, TOKEN)
    return {kind: kind(place, asked(colour)) for kind, colour in COLOUR.items()}


@pytest.fixture
def client(made: dict[type[Client], Client], request: pytest.FixtureRequest) -> Client:
    return made[request.param]


@pytest.fixture(scope="module")
def answer(up: Stack) -> str:
    """What the API says to `SAY`, without a package in between."""
    return up.run({"messages": SAY, "temperature": 0}).json()["result"]["response"]


@able("text")
def test_text(client: Client, answer: str) -> None:
    text = client.text()
    assert text
    if client.cold:
        assert text == answer


@able("stream")
def test_a_stream(client: Client, answer: str) -> None:
    """It comes in pieces that are the whole answer."""
    pieces = [piece for piece in client.stream() if piece]
    assert len(pieces) > 1
    if client.cold:
        assert "".join(pieces) == answer


@able("picture")
def test_a_picture(client: Client) -> None:
    text = client.picture().lower()
    assert [colour for colour in COLOURS if colour in text] == [COLOUR[type(client)]]


@able("calls")
def test_a_call_of_a_tool(client: Client) -> None:
    assert client.calls() == [("get_weather", {"city": "Paris"})]


@able("streamed_calls")
def test_a_streamed_call(client: Client) -> None:
    assert client.streamed_calls() == [("get_weather", {"city": "Paris"})]


@able("json")
def test_json(client: Client) -> None:
    """By guided decoding: what the model knows of capitals does not matter."""
    found = client.json()
    jsonschema.validate(found, CAPITAL if client.strict else {"type": "object"})


@able("text")
@pytest.mark.parametrize(
    ("status", "changes"),
    [
        pytest.param(400, {"model": "@cf/nobody/none"}, id="model"),
        pytest.param(401, {"token": "wrong"}, id="token"),
    ],
)
def test_errors(client: Client, status: int, changes: dict[str, str]) -> None:
    with pytest.raises(Exception) as caught:
        client.elsewhere(**changes).text()
    assert client.status(caught.value) == status


@able("models")
def test_paging_ends(client: Client) -> None:
    assert client.models() == [MODEL]


def test_a_forced_call_meets_its_schema(made: dict[type[Client], Client]) -> None:
    """By guided decoding, whatever the model would say."""
    openai = made[clients.OpenAI]
    tool = {"type": "function", "function": {"name": "visit", "parameters": CAPITAL}}
    found = openai.client.chat.completions.create(
        model=MODEL, messages=SAY, tools=[tool], tool_choice="required"
    )
    ((name, arguments),) = clients.of_openai(found)
    assert name == "visit"
    jsonschema.validate(arguments, CAPITAL)


def test_a_response(made: dict[type[Client], Client], answer: str) -> None:
    """OpenAI's newer endpoint: the same answer, whole and in events."""
    client = made[clients.OpenAI].client
    fields = {"model": MODEL, "input": SAY, "temperature": 0}
    whole = client.responses.create(**fields)
    assert whole.output_text == answer
    *_, last = client.responses.create(**fields, stream=True)
    assert (last.type, last.response.usage) == ("response.completed", whole.usage)


def test_usage_of_a_stream_is_that_of_the_whole(made: dict[type[Client], Client]) -> None:
    openai = made[clients.OpenAI]
    ask = partial(openai.client.chat.completions.create, model=MODEL, temperature=0)
    *_, last = ask(messages=openai.asked.see, stream=True)
    assert last.usage == ask(messages=openai.asked.see).usage
    assert last.usage.prompt_tokens > last.usage.completion_tokens > 0


def test_what_anthropics_api_adds(made: dict[type[Client], Client], answer: str) -> None:
    """Tokens are counted exactly, and a stop sequence is named."""
    messages = made[clients.Anthropic].client.messages
    cold = {"model": MODEL, "max_tokens": 99, "messages": SAY, "extra_body": {"temperature": 0}}
    counted = messages.count_tokens(model=MODEL, messages=SAY)
    assert counted.input_tokens == messages.create(**cold).usage.input_tokens
    word = answer.split()[-1]
    stopped = messages.create(**cold, stop_sequences=[word])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", word)


def test_tasks_schema_and_token(made: dict[type[Client], Client]) -> None:
    client = made[clients.Cloudflare].client
    (task,) = client.ai.tasks.list(account_id=ACCOUNT)
    assert task["name"] == "Text Generation"
    shown = client.ai.models.schema.get(account_id=ACCOUNT, model=MODEL)
    assert len(shown.to_dict()["input"]["oneOf"]) == 2
    assert client.user.tokens.verify().status == "active"


ABILITIES = {
    "Text": "text",
    "Stream": "stream",
    "Tools": "calls",
    "Picture": "picture",
    "JSON": "json",
    "Errors": "text",
    "Paging": "models",
}


def test_the_documented_table_is_what_is_driven_here() -> None:
    document = (Path(__file__).parents[2] / "docs" / "compatibility.md").read_text()
    section = document.partition("\n## Clients")[2].partition("\n## ")[0]
    lines = [line.strip("| ").split("|") for line in section.splitlines() if line.startswith("|")]
    head, _, *told = [[cell.strip() for cell in line] for line in lines]
    table = {row[0]: dict(zip(head[1:], row[1:], strict=False)) for row in told}
    driven = set()
    for kind in COLOUR:
        (row,) = (row for row in table if row.startswith(kind.name))
        driven.add(row)
        for column, ability in ABILITIES.items():
            can = getattr(kind, ability, None) is not None
            assert table[row].get(column, "").startswith("yes") == can, (row, column)
    assert driven == table.keys()


def test_compose_finds_it_healthy(up: Stack) -> None:
    """By the command of deploy/compose.yaml; and not where nobody listens."""
    service = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["serving"]
    how, python, *words = service["healthcheck"]["test"]
    assert (how, python) == ("CMD", "python")
    for port, status in ((up.port, 0), (free_port(), 1)):
        command = [sys.executable, *(word.replace(":8000/", f":{port}/") for word in words)]
        done = subprocess.run(command, capture_output=True, check=False, timeout=30)
        assert done.returncode == status, done.stderr
    threads = sum(process.num_threads() for process in up.tree())
    assert threads < service["pids_limit"], "a container has no more"


def test_systemd_has_nothing_to_kill_when_it_stops_it(up: Stack, unit: Unit) -> None:
    """The main process is told, ends the others, and has not failed. The module's last test."""
    tree = up.tree()
    state = Path(up.environment["STATE_DIR"])
    assert [each for each in state.rglob("*") if each.stat().st_mode & 0o77] == []
    up.process.send_signal(unit.kill_signal)
    assert up.process.wait(unit.patience) == 0
    _, alive = psutil.wait_procs(tree, timeout=1)
    assert alive == []
