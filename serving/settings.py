"""What an operator sets, from environment variables of the same names in capitals."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from serving import catalog
from serving.scaling import Costs


class Settings(BaseSettings):
    """The settings of one `serving up`. Unset credentials are looked up or made: `resolved`."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid")

    # Loopback: whoever wants to be reached from elsewhere says so.
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=1, le=65535)
    account_id: str = Field(default="", pattern="^([0-9a-f]{32})?$")
    api_token: str = Field(default="", pattern=r"^\S*$", repr=False)
    catalog: Path = catalog.DEFAULT
    # Replicas of the model on this machine; each loads the weights for itself.
    replicas: int = Field(default=1, ge=1)
    # If more than `replicas`, their number follows the load (docs/planning.md): by Ray Serve's
    # rule, or, given the engine's seconds for tokens and tiles as JSON, by work that waits.
    max_replicas: int = Field(default=0, ge=0)
    engine_seconds: Costs | None = None
    # How long a quiet replica is kept.
    downscale_seconds: float = Field(default=900.0, gt=0)
    # Pictures arrive as base64 inside JSON.
    max_body_bytes: int = Field(default=32 * 1024 * 1024, gt=0)
    state_dir: Path = Path(".state")
    # Accounts, tokens, usage: a file in the state folder unless this names a PostgreSQL.
    database_url: SecretStr = SecretStr("")
    # Keys the digests of tokens and the cache salts; made in the state folder unless given. All
    # replicas need the same.
    tenancy_secret: SecretStr = SecretStr("")
    # A name in serving/tenancy/prices.yaml, or `file#name`.
    prices: str = "default"
    # Limits shared by all replicas; without it each replica counts for itself.
    redis_url: SecretStr = SecretStr("")
    # While Redis is away: `open` lets each replica count for itself, `closed` serves nobody who
    # has limits.
    limits_fail: Literal["open", "closed"] = "open"
    # LoRA adapters that accounts bring, below the state folder unless given; all replicas need the
    # same folder under the same path.
    adapters_dir: Path | None = None
    # What may wait for the engine, and for how many seconds.
    queue_tokens: int = Field(default=1_000_000, gt=0)
    queue_pixels: int = Field(default=1_000_000_000, gt=0)
    queue_seconds: float = Field(default=60.0, gt=0)
    # Queued requests: how many a replica runs beside its clients' own, how many an account may have
    # waiting, and for how many hours results are kept.
    batch_concurrency: int = Field(default=8, ge=0)
    batch_items: int = Field(default=10_000, gt=0)
    batch_hours: float = Field(default=24.0, gt=0)
    # `/metrics`, of all replicas of a machine, on a port of its own; 0 is none. With a token, who
    # scrapes sends it as a bearer.
    metrics_host: str = "127.0.0.1"
    metrics_port: int = Field(default=9464, ge=0, le=65535)
    metrics_token: SecretStr = SecretStr("")
    # How many accounts have series of their own; the rest is one.
    metrics_accounts: int = Field(default=50, ge=0)
    # Files of PEM certificates to warn of before they expire, with commas between them.
    certificates: str = ""
    # Where Ray's own metrics are, to pass Serve's on; `serving up` knows.
    ray_metrics_url: str = ""
    # Traces go to this URL as OTLP over HTTP (`http://collector:4318/v1/traces`); of requests that
    # come without a trace of their own, this part.
    traces_endpoint: str = Field(default="", pattern=r"^(https?://\S+)?$")
    traces_ratio: float = Field(default=0.01, ge=0, le=1)
    log_format: Literal["text", "json"] = "text"
    # `info` has a line for each request.
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    # Native streams carry filler, so that the sizes of packets do not tell the sizes of tokens.
    stream_padding: bool = False
    # Accounts send the prompt `agree` once before they use the model: all of them (`true`), none,
    # or those whose ids are here with commas between them.
    licence_gate: str = Field(
        default="false", pattern="^(true|false|[0-9a-f]{32}(,[0-9a-f]{32})*)$"
    )

    @field_validator("licence_gate", mode="before")
    @classmethod
    def _as_booleans_are_written(cls, value: object) -> str:
        text = str(value).strip().lower()
        if text in ("1", "yes", "on"):
            return "true"
        return "false" if text in ("0", "no", "off") else text

    @property
    def metrics_url(self) -> str:
        """Where to scrape, from this machine."""
        host = f"[{self.metrics_host}]" if ":" in self.metrics_host else self.metrics_host
        return f"http://{host}:{self.metrics_port}/metrics"

    @property
    def certificate_files(self) -> tuple[Path, ...]:
        """Those of `certificates`."""
        return tuple(Path(name.strip()) for name in self.certificates.split(",") if name.strip())

    def resolved(self) -> Settings:
        """With an account and a token: the ones set, else those made at the first start.

        Raises:
            OSError: the state folder cannot be read or written.
        """
        if self.account_id and self.api_token:
            return self._placed()
        made = _kept(self.state_dir / "credentials")
        return self.model_copy(
            update={
                "account_id": self.account_id or made["ACCOUNT_ID"],
                "api_token": self.api_token or made["API_TOKEN"],
            }
        )._placed()

    def _placed(self) -> Settings:
        """With the state folder as a place and not relative to where a process runs."""
        files = ",".join(str(file.resolve()) for file in self.certificate_files)
        places = {"state_dir": self.state_dir.resolve(), "certificates": files}
        if self.adapters_dir is not None:
            places["adapters_dir"] = self.adapters_dir.resolve()
        return self.model_copy(update=places)


def _kept(file: Path) -> dict[str, str]:
    """The credentials in a file that only its owner reads, made if there is none."""
    if not file.exists():
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        made = {"ACCOUNT_ID": secrets.token_hex(16), "API_TOKEN": secrets.token_urlsafe(30)}
        file.touch(mode=0o600, exist_ok=False)
        file.write_text("".join(f"{name}={value}\n" for name, value in made.items()))
    lines = file.read_text().split()
    return dict(line.split("=", 1) for line in lines)
