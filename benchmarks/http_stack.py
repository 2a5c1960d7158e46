"""The whole HTTP stack, `serving up`, against vLLM's own OpenAI server, on the same tiny model.

Both stand side by side with the same engine settings and are loaded in turn, in short bursts in
random order: streaming and not, at several numbers of concurrent requests. All is started several
times, as a process is a little faster or slower than the last for as long as it runs. A third one
drives the engine without HTTP, for what the stack adds to the time to the first token. Every answer
must be a 200 of exactly the tokens asked for.

CPU time is counted per request and process. Front end: all but the engine core and, for `serving
up`, Ray's own processes, which run the same whether requests come or not and are shown apart. The
engine computes in one thread on either side: `bound` is about what the ratio would be if ours never
paused.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import uvloop
import yaml

from benchmarks import checkpoint, load, machine, peer, report, rounds
from benchmarks.processes import Server, free_port, interrupt_on_sigterm
from benchmarks.rounds import Spread

NAME = "http_stack"
SIDES = ("serving", "vllm")
TOKENS = 64
CONCURRENCY = (1, 16, 64)
# Requests in a burst, by concurrency.
COUNTS = {1: 20, 16: 128, 64: 320}
TARGETS = {
    (True, 1): 1.0,
    (True, 16): 1.0,
    (True, 64): 1.1,
    (False, 1): 0.97,
    (False, 16): 0.97,
    (False, 64): 0.97,
}
FRONT_TARGET = 0.65
ADDED_TARGET_MS = 3.0
MODEL = "@cf/meta/llama-3.2-11b-vision-instruct"
ENGINE = {
    "dtype": machine.dtype(),
    "enforce_eager": True,
    "max_num_seqs": 64,
    "max_num_batched_tokens": 2048,
    "kv_cache_memory_bytes": 2**30,
}
CONTEXT, IMAGES = 2048, 1
_START_LIMIT, _BURST_LIMIT = 400.0, 300.0


@dataclass(frozen=True)
class Work:
    """What is asked, for each seed something else, and the fewest tokens a right answer has."""

    ask: Callable[[int], list[dict[str, Any]]]
    fewest: int = TOKENS


@dataclass(frozen=True)
class Side:
    """A server and how to ask it."""

    server: Server
    port: int
    path: str
    headers: tuple[str, ...]
    extra: dict[str, Any]
    work: Work

    def requests(self, stream: bool, count: int, seed: int) -> list[bytes]:
        """Requests whose prompts are all different."""
        return list(itertools.islice(self.endless(stream, seed), count))

    def endless(self, stream: bool, seed: int) -> Iterator[bytes]:
        """The same without end, each made when it is asked for."""
        extra = self.extra if stream else {k: v for k, v in self.extra.items() if k == "model"}
        body = {"max_tokens": TOKENS, "temperature": 0, "stream": stream, **extra}
        for each in itertools.count(seed):
            data = json.dumps({"messages": self.work.ask(each), **body}).encode()
            yield load.post(self.path, data, self.headers)


def main() -> None:
    """The command."""
    options = _options()
    if options.side:
        _engine_alone(Path(options.folder))
        return
    settings = {
        "engine": ENGINE,
        "threads": 1,
        "starts": options.starts,
        "output_tokens": TOKENS,
        "requests_per_burst": {c: _count(c, options.quick) for c in CONCURRENCY},
        "vllm": "vllm.entrypoints.openai.api_server --disable-uvicorn-access-log",
        "serving": "serving up, one replica",
    }
    head = report.start(NAME, settings, options.quick, options.note)
    interrupt_on_sigterm()
    seen = []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        checkpoint.tiny(root / "model")
        head["settings"]["parameters"] = checkpoint.parameters(root / "model")
        for start in range(options.starts):
            folder = root / str(start)
            folder.mkdir()
            with ExitStack() as stack:
                ours = serving(stack, folder, tiny(root))
                sides = {"serving": ours, "vllm": _vllm(stack, folder, root / "model")}
                engine = _engine(stack, folder, root / "model")
                seen += uvloop.run(_rounds(sides, engine, options))
    _report(head, seen)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--starts", type=int, default=3, help="of all servers")
    parser.add_argument("--rounds", type=int, default=3, help="a start")
    parser.add_argument(
        "--quick", action="store_true", help="one start, two rounds, a quarter of the load"
    )
    parser.add_argument("--note", default="")
    parser.add_argument("--side", choices=("engine",), help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.starts, options.rounds = 1, 2
    return options


def _count(concurrency: int, quick: bool) -> int:
    return max(concurrency, COUNTS[concurrency] // 4) if quick else COUNTS[concurrency]


def conversation(seed: int) -> list[dict[str, str]]:
    """One question of about 40 tokens with the template around it; every seed asks another."""
    number = random.Random(seed).randrange(10**6, 10**7)
    return [{"role": "user", "content": f"What is {number} and the {seed}?"}]


def _environment(folder: Path) -> dict[str, str]:
    return {
        "OMP_NUM_THREADS": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CACHE_ROOT": str(folder / "cache"),
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }


def tiny(folder: Path) -> dict[str, Any]:
    """The catalogue's entry for the model there."""
    return {
        "checkpoint": str(folder / "model"),
        "context_window": CONTEXT,
        "max_images": IMAGES,
        "engine": ENGINE,
    }


def serving(
    stack: ExitStack,
    folder: Path,
    entry: Mapping[str, Any],
    name: str = "serving",
    settings: Mapping[str, str] | None = None,
    work: Work | None = None,
) -> Side:
    """Our stack, through its own command and a catalogue of one entry, with more settings."""
    catalog = folder / f"{name}.yaml"
    catalog.write_text(yaml.safe_dump({"models": {MODEL: entry}}))
    port, account, token = free_port(), secrets.token_hex(16), secrets.token_hex(16)
    own = {
        "PORT": str(port),
        "ACCOUNT_ID": account,
        "API_TOKEN": token,
        "CATALOG": str(catalog),
        "STATE_DIR": str(folder / name),
    }
    command = [str(Path(sys.executable).with_name("serving")), "up"]
    environment = {**_environment(folder), **own, **(settings or {})}
    server = stack.enter_context(Server(command, environment, folder / f"{name}.log"))
    path = f"/client/v4/accounts/{account}/ai/run/{MODEL}"
    headers = (f"Authorization: Bearer {token}",)
    side = Side(server, port, path, headers, {}, work or Work(conversation))
    server.wait(lambda: _answers(side), _START_LIMIT)
    return side


def _vllm(stack: ExitStack, folder: Path, model: Path) -> Side:
    """vLLM's own server, told the same."""
    port = free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", str(model), "--served-model-name", MODEL]
    command += ["--host", load.HOST, "--port", str(port), "--disable-uvicorn-access-log"]
    command += ["--max-model-len", str(CONTEXT), "--limit-mm-per-prompt", f'{{"image": {IMAGES}}}']
    for name, value in ENGINE.items():
        flag = "--" + name.replace("_", "-")
        command += [flag] if value is True else [flag, str(value)]
    server = stack.enter_context(Server(command, _environment(folder), folder / "vllm.log"))
    # Our streams end with the usage, so its streams shall.
    extra = {"model": MODEL, "stream_options": {"include_usage": True}}
    side = Side(server, port, "/v1/chat/completions", (), extra, Work(conversation))
    server.wait(lambda: _answers(side), _START_LIMIT)
    return side


def _engine(stack: ExitStack, folder: Path, model: Path) -> peer.Peer:
    """The engine without HTTP."""
    command = [f"benchmarks.{NAME}", "--side", "engine", "--folder", str(model)]
    child = peer.Peer(command, _environment(folder), folder / "engine.log")
    stack.callback(child.close)
    child.ask({"seed": 0, "count": 3})
    return child


def _answers(side: Side) -> bool:
    """Whether a first request is answered as all others must be."""
    try:
        first = asyncio.run(load.burst(side.port, side.requests(True, 1, 0), 1, _BURST_LIMIT))
    except OSError:
        return False
    return first.failures(TOKENS, side.work.fewest) == 0


async def _rounds(
    sides: dict[str, Side], engine: peer.Peer, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Everything of every round: a figure for each burst, and the engine's own first tokens."""
    cells = [(stream, c) for stream in (True, False) for c in CONCURRENCY]
    shuffle = random.Random(0).sample
    for side in sides.values():  # warm up
        for stream, concurrency in cells:
            await burst(side, stream, concurrency, concurrency, 1)
    seen = []
    for index in range(1, options.rounds + 1):
        figures: dict[str, Any] = {"load": round(os.getloadavg()[0], 2)}
        for stream, concurrency in shuffle(cells, len(cells)):
            cell = figures[cell_name(stream, concurrency)] = {}
            if stream and concurrency == 1:
                count = _count(1, options.quick)
                cell["engine"] = {"ttft_ms": engine.ask({"seed": index, "count": count})}
            for name in shuffle(SIDES, len(SIDES)):
                count = _count(concurrency, options.quick)
                cell[name] = await burst(sides[name], stream, concurrency, count, index)
        figures["idle"] = await _idle(sides)
        print(index, json.dumps(figures), flush=True)
        seen.append(figures)
    return seen


def cell_name(stream: bool, concurrency: int) -> str:
    """As in the result file."""
    return f"{'stream' if stream else 'plain'}/{concurrency}"


async def burst(side: Side, stream: bool, concurrency: int, count: int, index: int) -> Any:
    """Rate, latencies (ms) and CPU (ms per request and part) of one burst."""
    requests = side.requests(stream, count, 100_000 * index + 1000 * concurrency)
    before = side.server.cpu(part)
    burst = await load.burst(side.port, requests, concurrency, _BURST_LIMIT)
    spent = side.server.used_since(before, part)
    failures = burst.failures(TOKENS, side.work.fewest)
    if failures:
        worst = min(burst.answers, key=lambda answer: answer.completion_tokens)
        raise RuntimeError(f"{failures} of {count} requests failed, such as {worst}")
    firsts = sorted(1000 * answer.first for answer in burst.answers)
    return {
        "requests_per_second": round(count / burst.seconds, 3),
        "ttft_p50_ms": round(median(firsts), 2),
        "ttft_p95_ms": round(quantiles(firsts, n=20)[-1] if count > 1 else firsts[0], 2),
        "latency_p50_ms": round(1000 * median(answer.last for answer in burst.answers), 2),
        "prompt_tokens": round(median(answer.prompt_tokens for answer in burst.answers)),
        "events": round(median(answer.events for answer in burst.answers), 1),
        "cpu_ms": {name: round(1000 * each / count, 3) for name, each in spent.items()},
    }


async def _idle(sides: dict[str, Side], seconds: float = 3.0) -> dict[str, dict[str, float]]:
    """CPU per part without a request, in percent of a core."""
    before = {name: side.server.cpu(part) for name, side in sides.items()}
    await asyncio.sleep(seconds)
    idle = {}
    for name, side in sides.items():
        spent = side.server.used_since(before[name], part)
        idle[name] = {key: round(100 * each / seconds, 1) for key, each in spent.items()}
    return idle


def part(command_line: str) -> str:
    """What a process of either server is."""
    if command_line.startswith("VLLM::EngineCore"):
        return "engine"
    if "vllm.entrypoints" in command_line:
        return "server"
    if command_line.startswith("ray::ServeReplica"):
        return "replica"
    if "haproxy" in command_line.split(" ")[0]:
        return "haproxy"
    return "other"


def front(cpu: dict[str, float]) -> float:
    """CPU of the front end: what stands between the client and the engine core."""
    return sum(cpu.get(name, 0.0) for name in ("server", "replica", "haproxy"))


def _report(head: dict[str, Any], seen: list[dict[str, Any]]) -> None:
    rows, summary = [], {}
    for (stream, concurrency), target in TARGETS.items():
        name = cell_name(stream, concurrency)
        cells = [figures[name] for figures in seen]
        found = _compared(cells)
        summary[name] = {key: spread.json() for key, spread in found.items()}
        fronts = f"{found['serving front'].median:.1f} / {found['vllm front'].median:.1f}"
        rows.append(
            {
                "": f"{'streaming' if stream else 'not streaming'}, {concurrency}",
                "requests/s, ours / vLLM": f"{found['serving rate'].median:.1f} / "
                f"{found['vllm rate'].median:.1f}",
                "ratio": found["ratio"].text(),
                "target": f"≥ {target}",
                "bound": found["bound"].text(),
                "TTFT p50 ms, ours / vLLM": f"{found['serving ttft'].median:.1f} / "
                f"{found['vllm ttft'].median:.1f}",
                "front-end CPU ms/request, ours / vLLM": fronts,
                "front-end ratio": found["front ratio"].text()
                + (f", target ≤ {FRONT_TARGET}" if stream else ""),
                "events an answer": f"{found['serving events'].median:.0f} / "
                f"{found['vllm events'].median:.0f}"
                if stream
                else "",
                "engine CPU": f"{found['serving engine'].median:.1f} / "
                f"{found['vllm engine'].median:.1f}",
            }
        )
    remarks = [*_added(seen, summary), *_idling(seen, summary)]
    report.finish(head, rows, summary, seen, remarks)


def _added(seen: list[dict[str, Any]], summary: dict[str, Any]) -> list[str]:
    """What HTTP adds to the time to the first token, one request at a time."""
    ones = [figures[cell_name(True, 1)] for figures in seen]
    remarks = []
    for side in SIDES:
        added = Spread.of([one[side]["ttft_p50_ms"] - one["engine"]["ttft_ms"] for one in ones])
        summary[f"{side}: ms added to TTFT p50 over the engine alone"] = added.json()
        target = f"; target ≤ {ADDED_TARGET_MS:g}" if side == "serving" else ""
        remarks.append(f"{side} adds {added.text(1)} ms to the engine's own TTFT p50{target}")
    return remarks


def _idling(seen: list[dict[str, Any]], summary: dict[str, Any]) -> list[str]:
    """What the processes use without a request."""
    remarks = []
    for side in SIDES:
        names = sorted(seen[0]["idle"][side])
        idle = {
            name: Spread.of([figures["idle"][side].get(name, 0.0) for figures in seen])
            for name in names
        }
        summary[f"{side}: idle, percent of a core"] = {n: idle[n].json() for n in names}
        listed = ", ".join(f"{name} {idle[name].median:.1f}" for name in names)
        remarks.append(f"{side} idle, percent of a core: {listed}")
    return remarks


def _compared(cells: list[dict[str, Any]]) -> dict[str, Spread]:
    """The spreads of one kind of burst over the rounds."""
    rates = [{side: cell[side]["requests_per_second"] for side in SIDES} for cell in cells]
    fronts = [{side: front(cell[side]["cpu_ms"]) for side in SIDES} for cell in cells]
    found = {"ratio": rounds.ratios(rates, *SIDES), "front ratio": rounds.ratios(fronts, *SIDES)}
    for side in SIDES:
        found[f"{side} rate"] = rounds.each(rates, side)
        found[f"{side} front"] = rounds.each(fronts, side)
        found[f"{side} ttft"] = Spread.of([cell[side]["ttft_p50_ms"] for cell in cells])
        found[f"{side} events"] = Spread.of([cell[side]["events"] for cell in cells])
        found[f"{side} engine"] = Spread.of([cell[side]["cpu_ms"]["engine"] for cell in cells])
    found["bound"] = Spread.of([_bound(cell) for cell in cells])
    return found


def _bound(cell: dict[str, Any]) -> float:
    """The ratio if our engine, which is one thread, never waited for anything."""
    most = 1000 / float(cell["serving"]["cpu_ms"]["engine"])
    return most / float(cell["vllm"]["requests_per_second"])


def _engine_alone(folder: Path) -> None:
    """Drives AsyncLLM without HTTP, one request at a time; answers with the median TTFT (ms)."""
    answers = peer.claim_stdout()
    from transformers import AutoTokenizer
    from vllm import AsyncEngineArgs, SamplingParams
    from vllm.sampling_params import RequestOutputKind
    from vllm.v1.engine.async_llm import AsyncLLM

    words = AutoTokenizer.from_pretrained(folder)
    arguments = AsyncEngineArgs(
        str(folder), max_model_len=CONTEXT, limit_mm_per_prompt={"image": IMAGES}, **ENGINE
    )
    params = SamplingParams(temperature=0.0, max_tokens=TOKENS, output_kind=RequestOutputKind.DELTA)

    async def first_token(llm: AsyncLLM, seed: int) -> float:
        chat = words.apply_chat_template(
            conversation(seed), add_generation_prompt=True, return_dict=False
        )
        began, first, count = time.perf_counter(), 0.0, 0
        async for output in llm.generate({"prompt_token_ids": chat}, params, str(seed)):
            first = first or time.perf_counter() - began
            count += len(output.outputs[0].token_ids)
        if count != TOKENS:
            raise RuntimeError(f"{count} tokens")
        return 1000 * first

    async def start() -> AsyncLLM:
        return AsyncLLM.from_engine_args(arguments)

    async def some(llm: AsyncLLM, question: dict[str, Any]) -> float:
        first = 100_000 * question["seed"] + 90_000
        return median([await first_token(llm, first + n) for n in range(question["count"])])

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        llm = runner.run(start())
        peer.answer_all(answers, lambda question: round(runner.run(some(llm, question)), 3))
        llm.shutdown()


if __name__ == "__main__":
    main()
