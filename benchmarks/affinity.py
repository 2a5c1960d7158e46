"""What four replicas find in their caches of what one four times as large would find.

Each replica is a process with the gateway and the engine on the small checkpoint of the repository,
its KV pool too small for all that is asked about. Before four of them stands HAProxy as Ray Serve
configures it: with our rules, which send what begins alike to one replica, and without, to the
replica with the fewest connections. The requests are the same: questions about pictures, a few of
which are asked about often, and the turns of conversations, mixed. No request names a session.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import tempfile
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import psutil
import uvloop
from PIL import Image as Pillow

from benchmarks import load, peer, report
from benchmarks.processes import Server, free_port
from serving.catalog import Catalog
from serving.core import Receipt

NAME = "affinity"
REPLICAS = 4
CONCURRENCY = 32
# Of one replica; the large one has four times as much of each.
ENGINE = {"max_num_seqs": 8, "max_num_batched_tokens": 1024, "num_gpu_blocks_override": 350}
BLOCK, CONTEXT = 32, 1024
PICTURES, TURNS = 150, 5
SIDES = ("one large replica", "four, by how requests begin", "four, fewest connections")
ACCOUNT, TOKEN = "a" * 32, "benchmark"
_TARGETS = {"hits": 0.9, "load": 1.3}
_LIMIT, _PATIENCE = 400.0, 300.0
_INSTRUCTION = "Answer in a few words. Say what you see and nothing else, and be kind to who asks."
_WORDS = ("red", "green", "circle", "square", "small", "large", "what", "where", "which", "is")


def main() -> None:
    """The command."""
    options = _options()
    if options.replica:
        uvloop.run(_replica(options.port, options.replica))
        return
    settings = {
        "engine": {**ENGINE, "block_size": BLOCK},
        "concurrency": CONCURRENCY,
        "pictures": PICTURES,
        "turns": TURNS,
        "requests": options.requests,
    }
    head = report.start(NAME, settings, options.quick, options.note)
    seen: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as name:
        for size, sides in ((REPLICAS, SIDES[:1]), (1, SIDES[1:])):
            with _replicas(Path(name), REPLICAS // size, size) as replicas:
                for side in sides:
                    seen[side] = _side(Path(name), side, replicas, options.requests)
                    print(side, seen[side], flush=True)
    _report(head, seen)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1600)
    parser.add_argument("--quick", action="store_true", help="300 requests")
    parser.add_argument("--note", default="")
    parser.add_argument("--replica", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.requests = 300
    return options


def _report(head: dict[str, Any], seen: dict[str, dict[str, Any]]) -> None:
    large = seen[SIDES[0]]
    rows = [
        {
            "": side,
            "pictures not encoded again": f"{each['pictures']:.3f}",
            "over one large": f"{each['pictures'] / large['pictures']:.2f}",
            "prompt tokens cached": f"{each['tokens']:.3f}",
            "over one large ": f"{each['tokens'] / large['tokens']:.2f}",
            "target": f"≥ {_TARGETS['hits']}" if side == SIDES[1] else "",
            "requests, most over mean": f"{each['load']:.2f}",
            "CPU, most over mean": f"{each['cpu']:.2f}",
            "its target": f"≤ {_TARGETS['load']}" if side == SIDES[1] else "",
        }
        for side, each in seen.items()
    ]
    remarks = [
        f"Requests of each replica, {side}: {each['requests']}" for side, each in seen.items()
    ]
    report.finish(head, rows, seen, list(seen.values()), remarks)


@contextmanager
def _replicas(folder: Path, count: int, size: int) -> Iterator[dict[int, peer.Peer]]:
    """So many replicas by their ports, each so many times the size."""
    environment = {"OMP_NUM_THREADS": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    started: dict[int, peer.Peer] = {}
    try:
        for _ in range(count):
            port = free_port()
            command = [f"benchmarks.{NAME}", "--replica", str(size), "--port", str(port)]
            started[port] = peer.Peer(command, environment, folder / f"{port}.log")
        for each in started.values():
            each.ask({"do": "count"})
        yield started
    finally:
        for each in started.values():
            each.close()


def _side(folder: Path, side: str, replicas: dict[int, peer.Peer], count: int) -> dict[str, Any]:
    """Shares of what was cached and of the load, of `count` requests to cold replicas."""
    for each in replicas.values():
        each.ask({"do": "forget"})
    before = [_cpu(each.pid) for each in replicas.values()]
    with ExitStack() as stack:
        (port, *others) = replicas
        if others:
            port = stack.enter_context(_proxy(folder, list(replicas), side == SIDES[1]))
        burst = asyncio.run(load.burst(port, _requests(count), CONCURRENCY, _LIMIT))
    if len(burst.answers) != count or any(each.status != 200 for each in burst.answers):
        raise RuntimeError(f"not all were answered: {Counter(a.status for a in burst.answers)}")
    spent = [_cpu(each.pid) for each in replicas.values()]
    cpu = [after - used for after, used in zip(spent, before, strict=True)]
    time.sleep(2.5)  # until the engine's stopwatch has been read
    found = [Counter(each.ask({"do": "count"})) for each in replicas.values()]
    total = sum(found, Counter())
    requests = [each["requests"] for each in found]
    return {
        "pictures": 1 - total["encoded"] / total["images"],
        "tokens": total["cached"] / total["prompt"],
        "load": max(requests) * len(found) / sum(requests),
        "cpu": max(cpu) * len(found) / sum(cpu),
        "requests": requests,
        "seconds": round(burst.seconds, 1),
    }


def _cpu(pid: int) -> float:
    """Seconds that a replica's processes have used."""
    root = psutil.Process(pid)
    times = [each.cpu_times() for each in (root, *root.children(recursive=True))]
    return sum(each.user + each.system for each in times)


@contextmanager
def _proxy(folder: Path, ports: Sequence[int], ours: bool) -> Iterator[int]:
    """HAProxy before replicas at `ports`, with our rules or as it is; its own port."""
    from ray.serve._private import haproxy
    from ray.serve.config import HTTPOptions

    from serving.cluster import affinity

    port, plain = free_port(), haproxy.HAPROXY_CONFIG_TEMPLATE
    config = haproxy.HAProxyConfig(
        socket_path=str(folder / "s"),
        server_state_base=str(folder),
        server_state_file=str(folder / "state"),
        stats_port=free_port(),
        metrics_port=free_port(),
        metrics_enabled=False,
        nbthread=1,
        http_options=HTTPOptions(host=load.HOST, port=port),
    )
    servers = [haproxy.ServerConfig(f"r{each}", load.HOST, each) for each in ports]
    backend = haproxy.BackendConfig("app", "/", servers=servers)
    file = folder / "haproxy.cfg"
    try:
        if ours:
            affinity.apply()
        haproxy.HAProxyApi(config, {"app": backend}, str(file))._generate_config_file_internal()
    finally:
        haproxy.HAPROXY_CONFIG_TEMPLATE = plain
    command = [haproxy.get_haproxy_binary(), "-db", "-f", str(file)]
    with Server(command, {}, folder / "haproxy.log") as server:
        server.wait(lambda: (folder / "s").exists(), _PATIENCE)
        time.sleep(3)  # until it has seen that all replicas are up
        yield port
    (folder / "s").unlink(missing_ok=True)


def _requests(count: int) -> list[bytes]:
    """Half of them about pictures, half turns of conversations, each long after the one before."""
    chance = random.Random(1)
    pictures = [_picture(seed) for seed in range(PICTURES)]
    popularity = [1 / rank for rank in range(1, PICTURES + 1)]
    asked = chance.choices(pictures, popularity, k=count // 2)
    placed = [(chance.uniform(0, count), _body(_words(chance, 12), image)) for image in asked]
    for _ in range(count // 2 // TURNS):
        at, turns = chance.uniform(0, count), []
        for _ in range(TURNS):
            turns.append({"role": "user", "content": _words(chance, 15)})
            placed.append((at, _body(turns)))
            turns.append({"role": "assistant", "content": _words(chance, 25)})
            at += chance.uniform(2, 4) * CONCURRENCY
    path = f"/client/v4/accounts/{ACCOUNT}/ai/run/{_model().id}"
    headers = [f"Authorization: Bearer {TOKEN}"]
    bodies = (body for _, body in sorted(placed, key=lambda each: each[0]))
    return [load.post(path, body, headers) for body in itertools.islice(bodies, count)]


def _words(chance: random.Random, count: int) -> str:
    return " ".join(chance.choices(_WORDS, k=count))


def _body(content: str | list[dict[str, str]], image: str | None = None) -> bytes:
    turns = [{"role": "user", "content": content}] if isinstance(content, str) else content
    body: dict[str, Any] = {"messages": [{"role": "system", "content": _INSTRUCTION}, *turns]}
    if image:
        body["image"] = image
    return json.dumps({**body, "max_tokens": 8, "temperature": 0}).encode()


def _picture(seed: int) -> str:
    """A JPEG of four tiles, some 25 kB, as a data URI."""
    small = Pillow.frombytes("RGB", (40, 40), random.Random(seed).randbytes(40 * 40 * 3))
    out = BytesIO()
    small.resize((480, 480), Pillow.Resampling.BICUBIC).save(out, "JPEG", quality=85)
    return "data:image/jpeg;base64," + b64encode(out.getvalue()).decode()


def _model(size: int = 1) -> Any:
    """The catalogue's, with an engine of so many times one replica's size."""
    (model,) = Catalog.read().models.values()
    sizes = {name: size * value for name, value in ENGINE.items()}
    kept = {name: value for name, value in model.engine.items() if name != "kv_cache_memory_bytes"}
    engine = {**kept, **sizes, "block_size": BLOCK, "kv_cache_memory_bytes": size * 2**28}
    return model.model_copy(update={"engine": engine, "context_window": CONTEXT, "max_images": 1})


async def _replica(port: int, size: int) -> None:
    """One replica's process: serves on `port`, and answers its parent's questions."""
    answers = peer.claim_stdout()
    import uvicorn

    from serving.engine.vllm import VllmEngine
    from serving.gateway.app import Gateway
    from serving.gateway.auth import Credentials

    counts: Counter[str] = Counter()

    def count(receipt: Receipt) -> None:
        used = receipt.usage
        counts.update(requests=1, images=receipt.images)
        counts.update(prompt=used.prompt_tokens, cached=used.cached_tokens)

    model = _model(size)
    engine = VllmEngine(model, encoded=lambda request, seconds: counts.update(encoded=1))
    gateway = Gateway(engine, Catalog(model), Credentials(ACCOUNT, TOKEN), observers=[count])
    config = uvicorn.Config(gateway, host=load.HOST, port=port, log_level="error", access_log=False)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.05)
    loop = asyncio.get_running_loop()

    def answer(question: dict[str, str]) -> dict[str, float]:
        if question["do"] == "forget":
            asyncio.run_coroutine_threadsafe(_forget(engine, counts), loop).result()
        return dict(counts)

    await asyncio.to_thread(peer.answer_all, answers, answer)
    server.should_exit = True
    await serving
    engine.close()


async def _forget(engine: Any, counts: Counter[str]) -> None:
    """As just started: no cache holds anything, nothing is counted."""
    llm = engine._llm
    await llm.reset_mm_cache()
    await llm.reset_encoder_cache()
    if not await llm.reset_prefix_cache():
        raise RuntimeError("a replica is still at work")
    counts.clear()


if __name__ == "__main__":
    main()
