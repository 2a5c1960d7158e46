"""The `serving` command."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer
from pydantic import ValidationError

from serving.catalog import Catalog
from serving.cluster import environment
from serving.commands import account, limit, token, usage
from serving.commands.top import top
from serving.settings import Settings

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

app.add_typer(account.app, name="account")
app.add_typer(token.app, name="token")
app.add_typer(limit.app, name="limit")
app.add_typer(usage.app, name="usage")
app.command()(top)

_SAMPLE = Path(__file__).parent.parent / "docs" / "sample.png"


@app.callback()
def _root() -> None:
    """Llama 3.2 Vision behind the Workers AI contract."""


@app.command()
def up() -> None:
    """Serve on this machine until Ctrl-C. Settings are environment variables: HOST, PORT..."""
    _interrupt_on_sigterm()
    settings = _settings()
    try:
        with _folder() as folder:
            most = max(settings.replicas, settings.max_replicas)
            environment.prepare(folder, os.cpu_count() or 1, most)
            _serve(settings, folder)
    except KeyboardInterrupt:
        _say("stopped")
    except (OSError, RuntimeError, ValueError) as error:
        _say(f"cannot serve: {error}")
        raise typer.Exit(1) from error


def _serve(settings: Settings, folder: Path) -> None:
    """Start everything, say so, and wait to be interrupted."""
    began = time.monotonic()
    _say("starting Ray Serve")
    from serving.cluster import local  # its imports read the environment prepared above

    with local.cluster(settings, folder):
        _interrupt_on_sigterm()  # Ray has put its own handler there
        _say(f"loading the model; log files are in {folder}/session_latest/logs")
        local.deploy(settings)
        ready = f"ready after {time.monotonic() - began:.0f} s; Ctrl-C stops it"
        _say(f"{ready}\n\n{_examples(settings)}")  # at once: whoever waits for it reads all of it
        signal.pause()


def _settings() -> Settings:
    try:
        return Settings().resolved()
    except (OSError, ValidationError) as error:
        _say(f"settings: {error}")
        raise typer.Exit(2) from error


@contextmanager
def _folder() -> Iterator[Path]:
    """A private folder with a path short enough for Ray's unix sockets (107 bytes at most)."""
    folder = Path(tempfile.mkdtemp(prefix="lvs-", dir="/tmp"))
    try:
        yield folder
    except (KeyboardInterrupt, SystemExit):
        shutil.rmtree(folder, ignore_errors=True)
        raise
    # After a failure the logs in it stay.


def _examples(settings: Settings) -> str:
    """Commands that work when pasted into another terminal in this folder."""
    model = next(iter(Catalog.read(settings.catalog).models))
    url = f"http://{settings.host}:{settings.port}/client/v4/accounts/{settings.account_id}/ai/run/"
    curl = f"curl -s {url}{model} -H 'Authorization: Bearer {settings.api_token}' -d @- <<END\n"
    text = '{"prompt": "What is the capital of France?"}\nEND\n'
    picture = (
        '{"messages": [{"role": "user", "content": [\n'
        '  {"type": "text", "text": "What is in this picture?"},\n'
        '  {"type": "image_url", "image_url": {"url": "data:image/png;base64,'
        f'$(base64 -w0 {os.path.relpath(_SAMPLE)})"}}}}]}}]}}\nEND\n'
    )
    return f"Ask something:\n\n{curl}{text}\nShow a picture:\n\n{curl}{picture}{_metrics(settings)}"


def _metrics(settings: Settings) -> str:
    """Where they are, if anywhere, and the command that shows them."""
    if not settings.metrics_port:
        return ""
    command = "serving" if shutil.which("serving") else os.path.relpath(sys.argv[0])
    return f"\nSee what it does:\n\n{command} top\n\nFor Prometheus: {settings.metrics_url}\n"


def _interrupt_on_sigterm() -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def _say(line: str) -> None:
    print(f"serving: {line}", flush=True)


def main() -> None:
    """The console script."""
    app()
