"""The flags that several commands share, and the scenario they make."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from loadtest.core import UsageError
from loadtest.scenario import Scenario, build, read

Url = Annotated[str | None, typer.Option(help="Base URL: .../client/v4 or .../v1")]
Token = Annotated[str | None, typer.Option(envvar="LOADTEST_TOKEN", help="API token")]
Api = Annotated[
    str | None, typer.Option(help="workers-ai or openai; of a URL that ends in /v1 openai")
]
Account = Annotated[str | None, typer.Option(help="Account id, for workers-ai")]
Model = Annotated[str | None, typer.Option(help="Its name, as the API has it")]
Concurrency = Annotated[int | None, typer.Option(help="Users, in a closed loop")]
Rate = Annotated[
    str | None,
    typer.Option(
        help="Requests/s, in an open loop: 10, ramp(1, 20), steps(5, 10), spike(5, 50), "
        "sine(5, 20, 60)"
    ),
]
By = Annotated[str, typer.Option(help="rate or concurrency")]
Duration = Annotated[str | None, typer.Option(help="60, 90s, 5m")]
MaxTokens = Annotated[str | None, typer.Option(help="Output tokens: 64, uniform(10, 200)...")]
PromptTokens = Annotated[
    str | None, typer.Option(help="Prompt tokens: 128, lognormal(300, 0.6)...")
]
Image = Annotated[str | None, typer.Option(help="A picture of this size with each prompt: 640x480")]
Slo = Annotated[str | None, typer.Option(help="'ttft p95 < 500ms, errors < 0.1%'")]
Stream = Annotated[bool | None, typer.Option("--stream/--no-stream", help="Ask for streams")]
Seed = Annotated[int | None, typer.Option(help="Of schedule and lengths")]
Timeout = Annotated[str | None, typer.Option(help="Of one request")]
Transport = Annotated[str | None, typer.Option(help="raw or httpx")]
Insecure = Annotated[bool | None, typer.Option("--insecure", help="Do not verify certificates")]
Metrics = Annotated[str | None, typer.Option(help="URL of the server's Prometheus metrics")]
Records = Annotated[Path | None, typer.Option(help="Write all requests: .jsonl or .parquet")]
Json = Annotated[Path | None, typer.Option("--json", help="Write the summary here")]
Html = Annotated[Path | None, typer.Option(help="Write a page with plots")]
Csv = Annotated[Path | None, typer.Option(help="Write every figure as name,value")]
Calibration = Annotated[float, typer.Option(help="Seconds of self-calibration; 0 for none", min=0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The flags that say who is asked and what; the same words as in a scenario."""

    token: Token = None
    api: Api = None
    account: Account = None
    model: Model = None
    timeout: Timeout = None
    transport: Transport = None
    insecure: Insecure = None
    metrics: Metrics = None
    max_tokens: MaxTokens = None
    prompt_tokens: PromptTokens = None
    image: Image = None
    stream: Stream = None
    seed: Seed = None
    slo: Slo = None

    def scenario(self, file: Path | None, url: str | None, **more: Any) -> Scenario:
        """From a file (YAML, or Python with User classes) with flags laid over it, or flags alone.

        Raises:
            UsageError: it cannot be read, or makes no scenario.
        """
        target = {name: getattr(self, name) for name in _OF_TARGET}
        if url and url.rstrip("/").endswith("/v1"):  # no base of Workers AI's own route does
            target["api"] = self.api or "openai"
        tenant = self._tenant()
        data = {
            "target": _given({"url": url, **target}),
            "tenants": [tenant] if tenant else None,
            "seed": self.seed,
            "slo": self.slo,
            **more,
        }
        return scenario(file, data)

    def _tenant(self) -> dict[str, Any]:
        """The one tenant that flags describe."""
        asked = {
            "output_tokens": self.max_tokens,
            "prompt_tokens": self.prompt_tokens,
            "stream": self.stream,
        }
        return _given(asked) | ({"images": "1", "sizes": [self.image]} if self.image else {})


_OF_TARGET = (
    *("token", "api", "account", "model"),
    *("timeout", "transport", "insecure", "metrics"),
)


def spelled_out(command: Callable[..., None]) -> Callable[..., None]:
    """A command with flags in the place of its parameter `asked`: typer reads signatures."""
    flags = get_type_hints(Asked, include_extras=True)
    defaults = {field.name: field.default for field in fields(Asked)}
    kind = inspect.Parameter.KEYWORD_ONLY

    @functools.wraps(command)
    def called(**given: Any) -> None:
        asked = Asked(**{name: given.pop(name) for name in flags})
        command(asked=asked, **given)

    own = inspect.signature(command, eval_str=True)
    parameters = {
        name: each.replace(kind=kind) for name, each in own.parameters.items() if name != "asked"
    }
    parameters |= {
        name: inspect.Parameter(name, kind, default=defaults[name], annotation=hint)
        for name, hint in flags.items()
    }
    called.__signature__ = own.replace(parameters=list(parameters.values()))  # type: ignore[attr-defined]
    called.__annotations__ = {name: each.annotation for name, each in parameters.items()}
    return called


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def scenario(file: Path | None, data: dict[str, Any]) -> Scenario:
    """From a file (YAML, or Python with User classes) with `data` laid over it, or that alone.

    Raises:
        UsageError: it cannot be read, or makes no scenario.
    """
    data = {key: value for key, value in data.items() if value not in (None, {}, [])}
    if file is None or file.suffix == ".py":
        users = {"users": str(file)} if file else {}
        if file is not None and not file.is_file():
            raise UsageError(f"no such file: {file}")
        if "url" not in data.get("target", {}):
            raise UsageError("give --url (or a scenario that has a target)")
        # What a LoadShape decides has to begin with something.
        load = {"concurrency": 1} if file else {}
        return build({"load": load, **data, **users})
    try:
        text = file.read_text()
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from error
    return read(text, data)
