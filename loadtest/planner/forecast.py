"""What a plan is for, as its author writes it: tenants, their day, an objective, prices.

slo: ttft p95 < 2s, tpot p95 < 80ms, errors < 0.5%
growth: 1.3                       # the forecast's factor on every rate
burst: 1.25                       # of a peak within an hour over the hour's mean
tenants:
  - {name: shop, rate: 4, curve: office, prompt_tokens: "lognormal(400, 0.6)", output_tokens: 150}
  - {name: scans, rate: 1, curve: [1, 1, 1, ...24], images: 1, sizes: [1120x1120]}

`rate` is of conversations (of one request, unless `turns` says more) begun a second in the
tenant's busiest hour; `curve` each hour's part of it.
"""

from __future__ import annotations

from math import cos, pi
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from loadtest.core import UsageError
from loadtest.scenario import Objectives, Scenario, build
from loadtest.scenario import Tenant as Asking

HOURS = 24
_CURVES = {
    "flat": [1.0] * HOURS,
    # Up from seven, a dip at noon, down after six: public traces of office work look so.
    "office": [0.1] * 7 + [0.3, 0.7, 1.0, 1.0, 0.9, 0.8, 0.9, 1.0, 1.0, 0.9, 0.7, 0.4, 0.3]
    + [0.2] * 2 + [0.1] * 2,
    "evening": [0.55 - 0.45 * cos(2 * pi * (hour - 8.5) / HOURS) for hour in range(HOURS)],
}  # fmt: skip


class Tenant(Asking):
    """A tenant of a scenario, with its day. `share` is computed from `rate`."""

    rate: Annotated[float, Field(gt=0)]
    curve: Literal["flat", "office", "evening"] | tuple[float, ...] = "flat"

    @model_validator(mode="after")
    def _day(self) -> Tenant:
        if not isinstance(self.curve, str) and (
            len(self.curve) != HOURS or min(self.curve) < 0 or max(self.curve) <= 0
        ):
            raise ValueError("a curve is office, evening, flat or 24 numbers from 0")
        return self

    def at(self, hour: int) -> float:
        """Requests a second."""
        curve = _CURVES[self.curve] if isinstance(self.curve, str) else self.curve
        return self.rate * curve[hour] / max(curve)


class Fleet(BaseModel):
    """How the service is run. `spare` replicas may fail at the peak and the objective still holds;
    `surge` is the share of replicas a rolling update adds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    least: int = Field(default=1, ge=1)
    spare: int = Field(default=1, ge=0)
    surge: float = Field(default=0.25, gt=0, le=1)
    together: int = Field(default=1, ge=1, description="Replicas that share a machine")
    router: Literal["affinity", "least", "two"] = "affinity"
    commitment: Literal["on-demand", "reserved", "spot"] = "on-demand"
    gpu: str = "h100"
    gpus_per_replica: float = Field(default=1, gt=0)
    api: str = "cloudflare"
    image_tokens: float = Field(
        default=0, ge=0, description="Input tokens the hosted API bills for a tile"
    )

    def on(self, gpu: str) -> Fleet:
        """The same on another GPU."""
        return self.model_copy(update={"gpu": gpu})


class Forecast(BaseModel):
    """See the module."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    slo: Objectives
    growth: float = Field(default=1.0, gt=0)
    burst: float = Field(default=1.25, ge=1)
    tenants: tuple[Tenant, ...] = Field(min_length=1)
    fleet: Fleet = Fleet()
    seed: int = 0

    def rates(self, hour: int) -> dict[str, float]:
        """Requests a second by tenant, in the mean of an hour."""
        return {tenant.name: self.growth * tenant.at(hour) for tenant in self.tenants}

    def total(self, hour: int) -> float:
        """Of all tenants."""
        return sum(self.rates(hour).values())

    @property
    def peak(self) -> int:
        """The busiest hour."""
        return max(range(HOURS), key=self.total)

    def scenario(self, rate: float, duration: float) -> Scenario:
        """The busiest hour's mix at another rate, as a run or a simulation takes it."""
        shares = self.rates(self.peak)
        tenants = [
            {**tenant.model_dump(mode="json", exclude={"rate", "curve", "token"}),
             "share": shares[tenant.name]}
            for tenant in self.tenants
            if shares[tenant.name] > 0
        ]  # fmt: skip
        return build(
            {
                "target": {"url": "http://127.0.0.1:8000/client/v4"},
                "load": {"rate": f"{rate:.12g}"},
                "duration": duration,
                "slo": self.slo,
                "seed": self.seed,
                "tenants": tenants,
            }
        )


def read(path: Path) -> Forecast:
    """A forecast from YAML.

    Raises:
        UsageError: it cannot be read, or is none; with the place and the reason.
    """
    try:
        data = yaml.safe_load(path.read_text())
        return Forecast.model_validate(data)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise UsageError(f"not YAML: {error}") from error
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, each['loc'])) or 'forecast'}: {each['msg']}"
            for each in error.errors(include_input=False, include_url=False)
        ]
        raise UsageError("; ".join(problems)) from None
