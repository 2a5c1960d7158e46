"""The bodies and queries of the admin API. Unknown fields are errors."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)

from serving.core import Limits
from serving.tenancy.prices import PICODOLLARS, dollars

_Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
_Count = Annotated[int, Field(ge=0, le=10**15)]  # which databases hold and Lua counts exactly


def _in_future(moment: datetime) -> datetime:
    if moment <= datetime.now(UTC):
        raise ValueError("is over already")
    return moment


def _unescaped(text: object) -> object:
    """The `+` of a time zone is a space to whoever decodes a query that has not escaped it."""
    return text[:11] + text[11:].replace(" ", "+") if isinstance(text, str) else text


def _in_utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


_Moment = Annotated[datetime, BeforeValidator(_unescaped), AfterValidator(_in_utc)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class NewAccount(_Body):
    """Without an `id` one is made. `pool` joins a public pool of cached prompts."""

    name: _Name
    id: str = Field(default="", pattern="^([0-9a-f]{32})?$")
    pool: _Name | None = None


class Switch(_Body):
    """Off: every token of the account is refused."""

    disabled: bool


class NewToken(_Body):
    """`expires_at` is ISO 8601 with its time zone."""

    name: _Name
    role: Literal["member", "admin"] = "member"
    scopes: list[Literal["ai", "admin"]] = Field(default=["ai"], min_length=1)
    expires_at: Annotated[AwareDatetime, AfterValidator(_in_future)] | None = None

    def expires_ms(self) -> int | None:
        """Unix milliseconds."""
        return None if self.expires_at is None else _ms(self.expires_at)


class InvoiceQuery(_Body):
    """`csv` has the lines."""

    format: Literal["json", "csv"] = "json"


class UsageQuery(InvoiceQuery):
    """Times are ISO 8601, in UTC without a zone. `by` are names with commas between them."""

    begin: _Moment | None = Field(default=None, alias="from")
    end: _Moment | None = Field(default=None, alias="to")
    period: Literal["hour", "day"] | None = None
    by: str = ""

    @property
    def groups(self) -> tuple[str, ...]:
        """What to add up by."""
        return tuple(filter(None, self.by.split(",")))


class LimitsBody(_Body):
    """`core.Limits`, with money in dollars. What is absent is unlimited."""

    requests_per_minute: _Count | None = None
    tokens_per_minute: _Count | None = None
    concurrent_requests: _Count | None = None
    tokens_per_day: _Count | None = None
    tokens_per_month: _Count | None = None
    usd_per_day: Decimal | None = Field(default=None, ge=0, le=1_000_000, decimal_places=12)
    usd_per_month: Decimal | None = Field(default=None, ge=0, le=1_000_000, decimal_places=12)
    max_context: Annotated[_Count, Field(ge=1)] | None = None
    max_images: _Count | None = None
    weight: int | None = Field(default=None, ge=1, le=1000)
    priority: int | None = Field(default=None, ge=0, le=100)

    def limits(self) -> Limits:
        """As the service counts."""
        values = self.model_dump()
        for period in ("day", "month"):
            usd = values.pop(f"usd_per_{period}")
            values[f"picodollars_per_{period}"] = None if usd is None else int(usd * PICODOLLARS)
        return Limits(**values)

    @classmethod
    def of(cls, limits: Limits) -> LimitsBody:
        """As the caller counts."""
        values = {name: getattr(limits, name) for name in cls.model_fields if name[:3] != "usd"}
        for period in ("day", "month"):
            pico = getattr(limits, f"picodollars_per_{period}")
            values[f"usd_per_{period}"] = None if pico is None else Decimal(dollars(pico))
        return cls(**values)


def wrong(error: ValidationError) -> str:
    """Where and what, without the value."""
    found = error.errors(include_input=False, include_url=False)[0]
    return f"'/{'/'.join(map(str, found['loc']))}' {found['msg'].removeprefix('Value error, ')}"


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
