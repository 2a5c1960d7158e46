"""The flags that several commands share, and the scenario they make."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from loadtest.core import UsageError
from loadtest.scenario import Scenario, build, read

Url = Annotated[str | None, typer.Option(help="Base URL: .../client/v4 or .../v1")]
Token = Annotated[str | None, typer.Option(envvar="LOADTEST_TOKEN", help="API token")]
Api = Annotated[str | None, typer.Option(help="workers-ai or openai")]
Account = Annotated[str | None, typer.Option(help="Account id, for workers-ai")]
Model = Annotated[str | None, typer.Option()]
Duration = Annotated[str | None, typer.Option(help="60, 90s, 5m")]
MaxTokens = Annotated[str | None, typer.Option(help="Output tokens: 64, uniform(10, 200)...")]
PromptTokens = Annotated[
    str | None, typer.Option(help="Prompt tokens: 128, lognormal(300, 0.6)...")
]
Image = Annotated[str | None, typer.Option(help="A picture of this size with each prompt: 640x480")]
Slo = Annotated[str | None, typer.Option(help="'ttft p95 < 500ms, errors < 0.1%'")]
Seed = Annotated[int | None, typer.Option()]
Timeout = Annotated[str | None, typer.Option(help="Of one request")]
Transport = Annotated[str | None, typer.Option(help="raw or httpx")]
Insecure = Annotated[bool | None, typer.Option("--insecure", help="Do not verify certificates")]
Metrics = Annotated[str | None, typer.Option(help="URL of the server's Prometheus metrics")]
Records = Annotated[Path | None, typer.Option(help="Write all requests: .jsonl or .parquet")]
Json = Annotated[Path | None, typer.Option("--json", help="Write the summary here")]
Html = Annotated[Path | None, typer.Option(help="Write a page with plots")]
Csv = Annotated[Path | None, typer.Option(help="Write every figure as name,value")]
Calibration = Annotated[float, typer.Option(help="Seconds of self-calibration; 0 for none", min=0)]


def target(**flags: Any) -> dict[str, Any]:
    """The `target` of a scenario, of the flags that were given."""
    return {key: value for key, value in flags.items() if value is not None}


def tenant(
    max_tokens: str | None, prompt_tokens: str | None, image: str | None, stream: bool | None
) -> dict[str, Any]:
    """The one tenant that flags describe."""
    given = {"output_tokens": max_tokens, "prompt_tokens": prompt_tokens, "stream": stream}
    found = {key: value for key, value in given.items() if value is not None}
    return found | ({"images": "1", "sizes": [image]} if image else {})


def scenario(file: Path | None, data: dict[str, Any]) -> Scenario:
    """From a file (YAML, or Python with User classes) with flags laid over it, or flags alone.

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
