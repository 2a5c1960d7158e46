"""The whole stack, started as an operator starts it: HAProxy, Ray Serve, gateway, vLLM, plugin."""

import base64
import json
import os
import re
import resource
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from PIL import Image, ImageDraw

from serving.catalog import Catalog
from tests.e2e.stack import MODEL, TOKEN, Stack, path, stack

pytestmark = pytest.mark.timeout(600)

# Thousands of tokens if nobody stops it: an answer has to meet its schema.
NUMBERS = {"type": "array", "items": {"enum": [7]}, "minItems": 3000, "maxItems": 3000}
ENDLESS = {
    "messages": [{"role": "user", "content": "Count"}],
    "max_tokens": 7000,
    "response_format": {"type": "json_schema", "json_schema": NUMBERS},
}


AT_ONCE = next(iter(Catalog.read().models.values())).slots


@pytest.fixture(scope="module")
def up(tmp_path_factory):
    """One stack for the module, with a short queue; its last test stops it."""
    inherited = {name: value for name, value in os.environ.items() if name != "TMPDIR"}
    folder = tmp_path_factory.mktemp("stack")
    with stack(folder, inherited=inherited, QUEUE_TOKENS="10000") as made:
        print(f"\nstarted in {made.seconds:.0f} s")  # noqa: T201 - shown with -s
        yield made


def picture(colour: str) -> str:
    """A circle of a colour on white, as a data URL."""
    drawn = Image.new("RGB", (240, 240), "white")
    ImageDraw.Draw(drawn).ellipse((60, 60, 180, 180), fill=colour)
    out = BytesIO()
    drawn.save(out, "PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def looking_at(colour: str, **fields) -> dict:
    content = [
        {"type": "text", "text": "What colour is the circle?"},
        {"type": "image_url", "image_url": {"url": picture(colour)}},
    ]
    return {"messages": [{"role": "user", "content": content}], "temperature": 0, **fields}


def events(text: str) -> list[dict]:
    """The frames of a stream, which must end in [DONE]."""
    frames = [line.removeprefix("data: ") for line in text.splitlines() if line]
    assert frames.pop() == "[DONE]"
    return [json.loads(frame) for frame in frames]


def computing(up: Stack, seconds: float = 1.0) -> float:
    """The share of a core that the engine process uses."""
    core = up.find("EngineCore")
    before = sum(core.cpu_times()[:2])
    time.sleep(seconds)
    return (sum(core.cpu_times()[:2]) - before) / seconds


def test_it_says_how_to_use_it(up):
    """The first printed command works when pasted into a shell."""
    command = up.said[up.said.index("curl") :].split("\nEND\n")[0] + "\nEND\n"
    out = subprocess.run(["bash", "-c", command], capture_output=True, check=True, timeout=60)
    assert json.loads(out.stdout)["success"] is True


def test_the_printed_command_with_a_picture(up):
    """So does the second."""
    command = up.said[up.said.rindex("curl") :].split("\nEND\n")[0] + "\nEND\n"
    root = Path(__file__).parents[2]
    out = subprocess.run(
        ["bash", "-c", command], capture_output=True, check=True, timeout=60, cwd=root
    )
    assert json.loads(out.stdout)["success"] is True


def test_a_plain_answer(up):
    """In the envelope, with the usage."""
    reply = up.run({"prompt": "What is the capital of France?", "max_tokens": 20})
    body = reply.json()
    assert (reply.status_code, body["success"], body["errors"]) == (200, True, [])
    assert body["result"]["response"]
    assert body["result"]["usage"]["completion_tokens"] <= 20


def command(up: Stack, *words: str) -> str:
    """What `serving` prints, beside the running stack."""
    done = subprocess.run(
        [Path(sys.executable).with_name("serving"), *words],
        env=up.environment,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def test_tenants_made_while_it_runs(up):
    """They are served at once, share no cache, and are charged for what they used."""
    body = {"prompt": "The same long secret. " * 40, "max_tokens": 4}
    accounts = [command(up, "account", "create", name) for name in ("one", "two")]
    usages = []
    for account in accounts:
        with up.client(command(up, "token", "create", account)) as client:
            replies = [client.post(path(account=account), json=body) for _ in range(2)]
            assert client.post(path(), json=body).status_code == 403
        usages.append([reply.json()["result"]["usage"] for reply in replies])
    for first, again in usages:
        assert first["prompt_tokens_details"]["cached_tokens"] == 0
        assert again["prompt_tokens_details"]["cached_tokens"] > 0
    time.sleep(2.5)  # usage is shipped once a second
    told = ("usage", "--format", "json", "--account", accounts[0], "--by", "outcome")
    rows = {row["outcome"]: row for row in json.loads(command(up, *told))}
    used = sum(usage["prompt_tokens"] for usage in usages[0])
    assert (rows["ok"]["requests"], rows["ok"]["prompt_tokens"]) == (2, used)
    assert "rejected" not in rows  # whose account it is was not theirs to use


@pytest.mark.parametrize(
    "model",
    ["@cf%2Fmeta%2Fllama-3.2-11b-vision-instruct", "%40cf/meta/llama-3.2-11b-vision-instruct/"],
)
def test_encoded_model_ids(up, model):
    """As both official SDKs send them, and worse."""
    with up.client() as client:
        assert client.post(path(model), json={"prompt": "Hi", "max_tokens": 2}).status_code == 200


def test_queued_requests(up):
    """Run by the worker beside the gateway, on the event loop of the engine."""
    queue = {"queueRequest": "true"}
    body = {"requests": [looking_at("red"), {"prompt": "Hello", "external_reference": "a"}]}
    answer = up.run(body, params=queue).json()["result"]
    assert answer["status"] == "queued"
    deadline = time.monotonic() + 60
    while True:
        found = up.run({"request_id": answer["request_id"]}, params=queue).json()["result"]
        if "responses" in found or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    seen, said = found["responses"]
    assert seen["success"] is said["success"] is True
    assert "red" in seen["result"]["response"].lower()
    assert said["result"]["response"]
    assert said["external_reference"] == "a"


def test_a_stream_adds_up_to_the_plain_answer(up):
    """Frame by frame, for a request with a picture."""
    plain = up.run(looking_at("red")).json()["result"]
    frames = events(up.run(looking_at("red", stream=True)).text)
    assert "".join(frame["response"] for frame in frames) == plain["response"]
    assert frames[-1]["usage"] == plain["usage"]


def test_answers_depend_on_the_picture(up):
    """The same words about different circles."""
    answers = {up.run(looking_at(colour)).json()["result"]["response"] for colour in COLOURS}
    assert len(answers) > 1


COLOURS = ("red", "blue", "green", "yellow")


@pytest.mark.parametrize(
    ("status", "code", "request_"),
    [
        pytest.param(400, 9106, {"headers": {"authorization": ""}}, id="no-token"),
        pytest.param(401, 10000, {"headers": {"authorization": "Bearer x"}}, id="wrong-token"),
        pytest.param(403, 10000, {"url": path(account="f" * 32)}, id="other-account"),
        pytest.param(400, 5007, {"url": path("@cf/meta/nothing")}, id="unknown-model"),
        pytest.param(400, 5006, {"json": {}}, id="no-prompt"),
        pytest.param(400, 5006, {"json": {"prompt": "x", "temperature": 6}}, id="too-hot"),
        pytest.param(400, 8006, {"json": {"prompt": "x", "image": "eA=="}}, id="bad-image"),
        pytest.param(413, 5021, {"json": {"prompt": "x", "max_tokens": 10**7}}, id="too-long"),
    ],
)
def test_errors(up, status, code, request_):
    """Status and code of the contract, through the whole stack."""
    with up.client() as client:
        reply = client.post(**{"url": path(), "json": {"prompt": "Hi"}, **request_})
    assert (reply.status_code, reply.json()["errors"][0]["code"]) == (status, code)


def test_many_at_once(up):
    """More than the engine runs together, text and pictures mixed: all are answered."""
    bodies = [
        looking_at(COLOURS[i % 4], max_tokens=8) if i % 2 else {"prompt": "Hi", "max_tokens": 8}
        for i in range(40)
    ]
    with ThreadPoolExecutor(20) as pool:
        assert {reply.status_code for reply in pool.map(up.run, bodies)} == {200}


def test_more_than_may_wait_is_told_when_to_come_back(up):
    """By admission, in the words of the API: nothing before it refuses or holds back."""
    with ExitStack() as held:
        clients = [held.enter_context(endless(up)) for _ in range(600)]
        deadline = time.monotonic() + 30
        refused: list[socket.socket] = []
        while up.total("serving_queue_requests") != len(clients) - len(refused) - AT_ONCE:
            assert time.monotonic() < deadline, "some neither wait nor run nor are refused"
            time.sleep(0.5)
            refused, _, _ = select.select(clients, (), (), 0)
        answers = [client.recv(10_000).decode() for client in refused]
    assert len(answers) > 100
    for answer in answers:
        head, _, body = answer.partition("\r\n\r\n")
        assert head.startswith("HTTP/1.1 429 ")
        # What all that waits will take at the speed of lately. A second is the least that is said,
        # so on a fast machine too, and where nothing has ended yet.
        assert 1 <= int(re.search(r"retry-after: (\d+)", head)[1]) <= 60
        assert json.loads(body)["errors"][0]["code"] == 3040
    until_idle(up)


def test_metrics_of_the_gateway_and_of_vllm_agree(up):
    names = ("serving_completion_tokens_total", "vllm:generation_tokens_total")
    before = [up.total(name) for name in names]
    used = [up.run({"prompt": "Hello"}).json()["result"]["usage"] for _ in range(3)]
    after = [up.total(name) for name in names]
    tokens = sum(usage["completion_tokens"] for usage in used)
    assert [b - a for a, b in zip(before, after, strict=True)] == [tokens, tokens]
    assert 'model_name="' + MODEL + '"' in up.metrics()
    assert 0 <= up.total("vllm:kv_cache_usage_perc") <= 1
    assert up.total("serving_replica_up") == 1


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
def test_a_client_that_leaves_stops_the_engine(up, stream):
    """The engine falls idle in the middle of a long answer."""
    with endless(up, stream=stream):
        time.sleep(1)
        assert computing(up) > 0.1
    until_idle(up)


@contextmanager
def endless(up: Stack, **fields: Any) -> Iterator[socket.socket]:
    """A connection that has asked for an answer of thousands of tokens."""
    with socket.create_connection(("127.0.0.1", up.port)) as client:
        data = json.dumps({**ENDLESS, **fields}).encode()
        head = (
            f"POST {path()} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\n"
            f"content-length: {len(data)}\r\n\r\n"
        )
        client.sendall(head.encode() + data)
        yield client


def until_idle(up: Stack) -> None:
    deadline = time.monotonic() + 10
    while computing(up) > 0.03:
        assert time.monotonic() < deadline, "the engine goes on for nobody"


def test_nothing_listens_beyond_loopback(up):
    """Not HAProxy, not Ray, not Serve, not vLLM: no socket takes packets from elsewhere."""
    open_ = [
        (process.name(), each.laddr.ip, each.laddr.port)
        for process in up.tree()
        for each in process.net_connections("inet")
        if each.status == psutil.CONN_LISTEN or (not each.raddr and each.laddr)
    ]
    assert (up.port,) in {(port,) for _, _, port in open_}
    loopback = ("127.0.0.1", "::1", "::ffff:127.0.0.1")
    assert [each for each in open_ if each[1] not in loopback] == []


def test_haproxy_reaches_the_replica_through_a_file(up):
    """Of this user alone, on which it answers as on its port."""
    folder = Path(up.find("EngineCore").environ()["TMPDIR"])
    (written,) = folder.glob("*/haproxy.cfg")
    (server,) = [x for x in written.read_text().splitlines() if "server SERVE_REPLICA" in x]
    file = Path(server.partition("unix@")[2].split()[0])
    assert file.stat().st_mode & 0o777 == 0o600
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(file))) as client:
        assert client.get("http://replica/-/healthz").status_code == 200


def test_a_killed_engine_is_replaced(up):
    """Its replica turns unhealthy, Ray Serve starts another, and requests work again."""
    engine, replica = up.find("EngineCore"), up.find("ServeReplica")
    engine.kill()
    replica.wait(60)
    _until_answered(up)
    assert up.find("EngineCore").pid != engine.pid
    logs = Path(up.said.split("log files are in ")[1].splitlines()[0])
    (said,) = logs.glob(f"worker-*-{replica.pid}.out")
    assert "the engine has died" in said.read_text()


@pytest.mark.slow
def test_a_killed_replica_takes_its_engine_along(up):
    """No orphan computes on; Ray Serve starts another."""
    engine, replica = up.find("EngineCore"), up.find("ServeReplica")
    replica.kill()
    engine.wait(15)
    _until_answered(up)


def _until_answered(up: Stack, seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            if up.run({"prompt": "Hi", "max_tokens": 2}).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        assert time.monotonic() < deadline, "nobody answers"
        time.sleep(1)


def test_ctrl_c_leaves_nothing(up):
    """No process, no port, no file; this is the module's last test."""
    tree = up.tree()
    folder = up.said.split("log files are in ")[1].split("/session_latest")[0]
    assert Path(folder).exists()
    assert up.find("EngineCore").environ()["TMPDIR"] == folder
    assert up.interrupt() == 0
    _, alive = psutil.wait_procs(tree, timeout=5)
    assert alive == []
    assert not Path(folder).exists()
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", up.port))


def test_too_few_open_files_are_told_at_once(tmp_path):
    """Before anything is started, and with what to do about it."""
    few = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))}
    said = r"may open 1024 files.*RAY_SERVE_HAPROXY_MAXCONN"
    with pytest.raises(AssertionError, match=said), stack(tmp_path, options=few):
        pass
