"""A run as its author writes it: flags, or YAML with the same words. Unknown keys are refused.

target: {url: "http://127.0.0.1:8000/client/v4", api: workers-ai, account: a, model: m}
load: {rate: "ramp(1, 20)", arrivals: poisson}
duration: 60s
slo: ttft p95 < 500ms, errors < 0.1%
tenants:
  - {name: chat, share: 3, prompt_tokens: "lognormal(300, 0.6)", turns: 4, think: "exponential(5)"}
  - {name: vision, token: secret, images: 1, sizes: [1120x1120], output_tokens: 128}
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)

from loadtest import arrivals, slo
from loadtest.core import LoadtestError, UsageError
from loadtest.distributions import Distribution
from loadtest.expressions import seconds
from loadtest.payloads import Size
from loadtest.slo import Objective
from loadtest.workload import Pictures, Prefixes, Workload

_SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")


def size(text: str) -> Size:
    """Read `640x480`.

    Raises:
        UsageError: it is not that.
    """
    found = _SIZE.fullmatch(text.strip())
    if not found or not (0 < int(found[1]) <= 8192 and 0 < int(found[2]) <= 8192):
        raise UsageError(f"not a size: {text!r}; try 640x480 (at most 8192)")
    return Size(int(found[1]), int(found[2]))


def _checked(read: Any) -> AfterValidator:
    """Keep the text; refuse what `read` cannot read."""

    def check(text: str) -> str:
        try:
            read(text)
        except LoadtestError as error:
            raise ValueError(str(error)) from error
        return text

    return AfterValidator(check)


def _seconds(value: Any) -> float:
    try:
        return seconds(value)
    except UsageError as error:
        raise ValueError(str(error)) from error


_AsText = BeforeValidator(lambda value: str(value) if isinstance(value, int | float) else value)
Duration = Annotated[float, BeforeValidator(_seconds), Field(gt=0)]
Drawn = Annotated[str, _AsText, _checked(Distribution.parse)]
Rate = Annotated[str, _AsText, _checked(lambda text: arrivals.profile(text, 1.0))]
Arrivals = Annotated[str, _checked(arrivals.process)]
Pixels = Annotated[str, _checked(size)]
Objectives = Annotated[str, _checked(slo.parse)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Target(_Part):
    """Where requests go. `url` is the base as the SDK of the dialect takes it."""

    url: str
    api: Literal["workers-ai", "openai"] = "workers-ai"
    account: str | None = None
    model: str = "@cf/meta/llama-3.2-11b-vision-instruct"
    token: SecretStr = SecretStr("")
    timeout: Duration = 120.0
    transport: Literal["raw", "httpx"] = "raw"
    insecure: bool = False
    metrics: str | None = Field(default=None, description="The server's Prometheus endpoint")


class Trace(_Part):
    """A recorded load: `azure`, `mooncake`, `burstgpt` or `access-log`."""

    file: Path
    format: Literal["azure", "mooncake", "burstgpt", "access-log"]
    speed: float = Field(default=1.0, gt=0)


class Load(_Part):
    """Exactly one of users (closed loop), a rate, or a trace (open loop)."""

    concurrency: int | None = Field(default=None, ge=1, le=100_000)
    rate: Rate | None = None
    arrivals: Arrivals = "poisson"
    trace: Trace | None = None
    ramp: float | None = Field(default=None, ge=0, description="Seconds over which users start")
    limit: int = Field(
        default=10_000, ge=1, description="Most requests in flight; more fail as overflow"
    )

    @model_validator(mode="after")
    def _one(self) -> Load:
        given = [v for v in (self.concurrency, self.rate, self.trace) if v is not None]
        if len(given) != 1:
            raise ValueError("give exactly one of concurrency, rate and trace")
        return self


class PrefixPool(_Part):
    """Prompts that share their beginning, so that a share of them should hit a prefix cache."""

    pool: int = Field(ge=1)
    tokens: int = Field(ge=1)
    share: float = Field(default=1.0, ge=0, le=1)


class PicturePool(_Part):
    """Pictures that are sent again, so that a share of them should come from a cache."""

    pool: int = Field(ge=1)
    share: float = Field(default=1.0, ge=0, le=1)


class Tenant(_Part):
    """Who asks, how much of the load is theirs, and what they ask."""

    name: str = "default"
    share: Annotated[float, Field(gt=0)] = 1.0
    weight: Annotated[float, Field(gt=0, description="Of its account; for simulations")] = 1.0
    token: SecretStr | None = None
    account: str | None = None
    model: str | None = None
    adapter: str | None = None
    slo: Objectives | None = None
    prompt_tokens: Drawn = "128"
    output_tokens: Drawn = "64"
    images: Drawn = "0"
    sizes: tuple[Pixels, ...] = ()
    jpeg: bool = False
    turns: Drawn = "1"
    think: Drawn = "0"
    prefixes: PrefixPool | None = None
    pictures: PicturePool | None = None
    stream: bool = True

    @model_validator(mode="after")
    def _sized(self) -> Tenant:
        if self.images != "0" and not self.sizes:
            raise ValueError("images need sizes")
        if self.pictures and self.images == "0":
            raise ValueError("a pool of pictures needs images")
        return self

    def workload(self) -> Workload:
        """What they ask, ready to be drawn from."""
        pool, pictures = self.prefixes, self.pictures
        return Workload(
            prompt_tokens=Distribution.parse(self.prompt_tokens),
            output_tokens=Distribution.parse(self.output_tokens),
            images=Distribution.parse(self.images),
            sizes=tuple(size(each) for each in self.sizes),
            jpeg=self.jpeg,
            turns=Distribution.parse(self.turns),
            think=Distribution.parse(self.think),
            prefixes=Prefixes(pool.pool, pool.tokens, pool.share) if pool else None,
            pictures=Pictures(pictures.pool, pictures.share) if pictures else None,
            stream=self.stream,
        )


class Scenario(_Part):
    """Everything about a run but who does it."""

    target: Target
    load: Load
    duration: Duration | None = None
    requests: int | None = Field(default=None, ge=1)
    slo: Objectives | None = None
    seed: int = 0
    tenants: tuple[Tenant, ...] = (Tenant(),)
    users: str | None = Field(default=None, description="A Python file with User classes")

    @model_validator(mode="after")
    def _bounded(self) -> Scenario:
        names = [tenant.name for tenant in self.tenants]
        if not names or len(set(names)) < len(names):
            raise ValueError("tenants need names of their own, and there must be one")
        if self.duration is None and self.requests is None and self.load.trace is None:
            raise ValueError("a run needs a duration or a number of requests")
        return self

    def objectives(self) -> dict[str, tuple[Objective, ...]]:
        """By tenant: its own, or those of the run."""
        texts = {tenant.name: tenant.slo or self.slo for tenant in self.tenants}
        return {name: slo.parse(text) if text else () for name, text in texts.items()}


def revealed(scenario: Scenario) -> dict[str, Any]:
    """Plain data with its tokens in clear, for a worker's private pipe and nowhere else."""
    data = scenario.model_dump(mode="json")
    data["target"]["token"] = scenario.target.token.get_secret_value()
    for plain, tenant in zip(data["tenants"], scenario.tenants, strict=True):
        plain["token"] = tenant.token.get_secret_value() if tenant.token else None
    return data


def read(text: str, overrides: dict[str, Any] | None = None) -> Scenario:
    """A scenario from YAML, with some keys replaced.

    Raises:
        UsageError: it is not YAML, or not a scenario; with the place and the reason.
    """
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"not YAML: {error}") from error
    if not isinstance(data, dict):
        raise UsageError("a scenario is a mapping with target, load and duration")
    return build(_overlaid(data, overrides or {}))


def build(data: dict[str, Any]) -> Scenario:
    """A scenario from plain data.

    Raises:
        UsageError: it is none; with the place and the reason, without the values.
    """
    try:
        return Scenario.model_validate(data)
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, each['loc'])) or 'scenario'}: {each['msg']}"
            for each in error.errors(include_input=False, include_url=False)
        ]
        raise UsageError("; ".join(problems)) from None


def _overlaid(data: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    merged = dict(data)
    for key, value in overrides.items():
        old = merged.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            value = _overlaid(old, value)
        merged[key] = value
    return merged
