"""Every metric of the service, declared once. vLLM's and Ray's keep the names they have.

Rules, dashboards and docs/observability.md speak of no other `serving_*` series; tests see to it.
All series have a label more, `replica`: see `shelf`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# vLLM's, so that both views of a request fall into the same buckets. SLOs sit on a boundary.
_TTFT = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1, 2.5, 5, 7.5, 10, 20, 40, 80, 160),
)
_TPOT = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5)
_LONG = (0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240)
_WAIT = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120)


@dataclass(frozen=True, slots=True, eq=False)  # each is itself alone, which is quick to look up
class Metric:
    """A metric as it is exposed, but for the endings of its samples (`_bucket`, `_sum`...).

    Counters end in `_total`. `unit` is Grafana's word for it. `buckets` are upper bounds.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


REQUESTS = Metric(
    "serving_requests_total",
    "counter",
    "reqps",
    "Requests that ended, by HTTP status and by the code of the API in errors",
    ("route", "outcome", "status", "code"),
)
REFUSALS = Metric(
    "serving_refusals_total",
    "counter",
    "reqps",
    "Requests that got an error, by the kind of error",
    ("reason",),
)
TTFT = Metric(
    "serving_time_to_first_token_seconds",
    "histogram",
    "s",
    "From the arrival of a streamed request to its first token",
    ("route",),
    _TTFT,
)
DURATION = Metric(
    "serving_request_duration_seconds",
    "histogram",
    "s",
    "From the arrival of a request that was answered with tokens to the end of its answer",
    ("route",),
    _LONG,
)
TPOT = Metric(
    "serving_time_per_output_token_seconds",
    "histogram",
    "s",
    "Mean time between the tokens of a streamed answer, after its first",
    ("route",),
    _TPOT,
)
ITL = Metric(
    "serving_inter_token_latency_seconds",
    "histogram",
    "s",
    "Time between two pieces of a streamed answer: a token each, more for slow readers",
    ("route",),
    _TPOT,
)
PREFILL = Metric(
    "serving_prefill_seconds",
    "histogram",
    "s",
    "From the start of a request in the engine to its first token, pictures included",
    (),
    _TTFT,
)
VISION = Metric(
    "serving_vision_seconds",
    "histogram",
    "s",
    "Time of the vision encoder for a request with pictures, where the catalogue has it measured",
    (),
    _TTFT,
)
QUEUED = Metric(
    "serving_queue_seconds",
    "histogram",
    "s",
    "Wait for admission: limits and the turn at the engine",
    (),
    _WAIT,
)
PROMPT_TOKENS = Metric(
    "serving_prompt_tokens_total", "counter", "short", "Tokens of prompts, pictures included"
)
CACHED_TOKENS = Metric(
    "serving_cached_tokens_total", "counter", "short", "Tokens of prompts found computed"
)
COMPLETION_TOKENS = Metric(
    "serving_completion_tokens_total", "counter", "short", "Tokens of answers"
)
IMAGES = Metric("serving_images_total", "counter", "short", "Pictures sent to the engine")
IMAGE_TOKENS = Metric(
    "serving_image_tokens_total",
    "counter",
    "short",
    "Tokens of pictures, as the text attends to them",
)
COST = Metric("serving_cost_dollars_total", "counter", "currencyUSD", "Charged, by the price list")

# Of accounts: a bounded number has its own series, the rest is `other`. Every account's usage is in
# the usage store.
ACCOUNT_REQUESTS = Metric(
    "serving_account_requests_total",
    "counter",
    "reqps",
    "Requests of an account, by outcome",
    ("account", "outcome"),
)
ACCOUNT_TOKENS = Metric(
    "serving_account_tokens_total",
    "counter",
    "short",
    "Tokens of an account, of prompts and of completions",
    ("account", "kind"),
)
ACCOUNT_COST = Metric(
    "serving_account_cost_dollars_total",
    "counter",
    "currencyUSD",
    "Charged to an account",
    ("account",),
)

QUEUE_REQUESTS = Metric("serving_queue_requests", "gauge", "short", "Requests waiting for a turn")
QUEUE_TOKENS = Metric("serving_queue_tokens", "gauge", "short", "Tokens of the requests waiting")
QUEUE_PIXELS = Metric("serving_queue_pixels", "gauge", "short", "Pixels of the requests waiting")
QUEUE_TOKENS_LIMIT = Metric(
    "serving_queue_tokens_limit", "gauge", "short", "Tokens that may wait: QUEUE_TOKENS"
)
QUEUE_PIXELS_LIMIT = Metric(
    "serving_queue_pixels_limit", "gauge", "short", "Pixels that may wait: QUEUE_PIXELS"
)
RUNNING = Metric("serving_running_requests", "gauge", "short", "Requests at the engine")
RUNNING_LIMIT = Metric(
    "serving_running_requests_limit", "gauge", "short", "Requests the engine runs at once"
)
BACKLOG = Metric(
    "serving_journal_backlog_bytes",
    "gauge",
    "bytes",
    "Usage in the journal that is not in the database yet",
)
LAG = Metric(
    "serving_metering_lag_seconds",
    "gauge",
    "s",
    "How long usage has been on its way to the database",
)
TOKEN_EXPIRY = Metric(
    "serving_token_expiry_timestamp_seconds",
    "gauge",
    "dateTimeAsIso",
    "When the next API token expires, in Unix time; 0: none will",
)
CERTIFICATE_EXPIRY = Metric(
    "serving_certificate_expiry_timestamp_seconds",
    "gauge",
    "dateTimeAsIso",
    "When a file of CERTIFICATES has one that expires, in Unix time; 0: it cannot be read",
    ("certificate",),
)
STARTS = Metric(
    "serving_replica_starts_total", "counter", "short", "Starts of a replica in this place"
)
UP = Metric("serving_replica_up", "gauge", "short", "1 for each replica that runs")

METRICS: tuple[Metric, ...] = tuple(
    value for value in list(globals().values()) if isinstance(value, Metric)
)
