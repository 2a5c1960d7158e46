"""What dashboards show: what users get, what the engines do, who uses it, how much room is left.

Titles, units and descriptions of our metrics are the vocabulary's.
"""

from __future__ import annotations

from dataclasses import dataclass

from serving.telemetry import vocabulary as words
from serving.telemetry.vocabulary import Metric

# What is shown is of the jobs and namespaces chosen above the panels.
_CHOSEN = 'job=~"$job",namespace=~"$namespace"'


@dataclass(frozen=True, slots=True)
class Panel:
    """Lines over time. `queries` are PromQL by what their lines are called (`{{label}}`)."""

    title: str
    unit: str
    description: str
    queries: dict[str, str]


def _of(metric: Metric, more: str = "") -> str:
    """A selector of the metric; `more` matchers."""
    return f"{metric.name}{{{_CHOSEN}{more}}}"


def _rate(metric: Metric, by: str = "", more: str = "") -> str:
    return f"sum by ({by}) (rate({_of(metric, more)}[$__rate_interval]))"


def _quantiles(metric: Metric) -> Panel:
    buckets = f"sum by (le) (rate({metric.name}_bucket{{{_CHOSEN}}}[$__rate_interval]))"
    queries = {f"p{q}": f"histogram_quantile({q / 100}, {buckets})" for q in (50, 90, 99)}
    return Panel(metric.help, metric.unit, f"{metric.name}, of all replicas", queries)


def _rates(title: str, unit: str, lines: dict[str, Metric], by: str = "") -> Panel:
    helps = (metric.help if by else f"{name}: {metric.help}" for name, metric in lines.items())
    queries = {name: _rate(metric, by) for name, metric in lines.items()}
    return Panel(title, unit, "; ".join(helps), queries)


def _sums(title: str, *metrics: Metric) -> Panel:
    said = "; ".join(metric.help for metric in metrics)
    lines = {metric.help: f"sum({_of(metric)})" for metric in metrics}
    return Panel(title, metrics[0].unit, said, lines)


def _vllm(title: str, unit: str, description: str, queries: dict[str, str]) -> Panel:
    """A panel of vLLM's metrics; `{}` in a query is where their matchers go."""
    filled = {name: query.replace("{}", f"{{{_CHOSEN}}}") for name, query in queries.items()}
    return Panel(title, unit, description, filled)


def _vllm_quantiles(title: str, name: str) -> Panel:
    rate = f"sum by (le) (rate(vllm:{name}_bucket{{}}[$__rate_interval]))"
    queries = {f"p{q}": f"histogram_quantile({q / 100}, {rate})" for q in (50, 99)}
    return _vllm(title, "s", f"vllm:{name}, of all engines", queries)


def _burn(title: str, record: str, budget: float, objective: str) -> Panel:
    """The burn rate: 1 spends the budget in exactly a month."""
    queries = {
        window: f"max(serving:{record}:ratio_rate{window}{{{_CHOSEN}}}) / {budget}"
        for window in ("5m", "1h", "6h", "3d")
    }
    said = f"{objective}. 1 spends the budget in a month; pages begin at 14.4 (1 h) and 6 (6 h)"
    return Panel(title, "short", said, queries)


USERS = (
    _burn("Availability: error budget burn", "failed_requests", 0.001, "99.9 % are answered"),
    _burn("TTFT: error budget burn", "slow_first_tokens", 0.01, "99 % begin within 2.5 s"),
    Panel(
        "Requests by outcome",
        words.REQUESTS.unit,
        words.REQUESTS.help,
        {"{{outcome}} {{status}}": _rate(words.REQUESTS, "outcome, status")},
    ),
    Panel(
        "Errors by kind",
        words.REFUSALS.unit,
        words.REFUSALS.help,
        {"{{reason}}": _rate(words.REFUSALS, "reason")},
    ),
    Panel(
        "Goodput: streams that begin in time",
        "reqps",
        "Streams whose first token comes within 2.5 s, of all that have one",
        {
            "in time": f"sum(rate({words.TTFT.name}_bucket"
            f'{{{_CHOSEN},le="2.5"}}[$__rate_interval]))',
            "all": f"sum(rate({words.TTFT.name}_count{{{_CHOSEN}}}[$__rate_interval]))",
        },
    ),
    _quantiles(words.TTFT),
    _quantiles(words.TPOT),
    _quantiles(words.ITL),
    _quantiles(words.DURATION),
    _rates(
        "Tokens a second",
        "short",
        {
            "prompt": words.PROMPT_TOKENS,
            "of it cached": words.CACHED_TOKENS,
            "completion": words.COMPLETION_TOKENS,
        },
    ),
    _rates("Pictures a second", "short", {"pictures": words.IMAGES}),
    Panel(
        "Requests by route",
        words.REQUESTS.unit,
        words.REQUESTS.help,
        {"{{route}}": _rate(words.REQUESTS, "route")},
    ),
)

ENGINE = (
    _vllm(
        "Batch",
        "short",
        "Requests that each engine computes, and that wait in it",
        {
            "running {{replica}}": "sum by (replica) (vllm:num_requests_running{})",
            "waiting {{replica}}": "sum by (replica) (vllm:num_requests_waiting{})",
        },
    ),
    _vllm(
        "KV cache",
        "percentunit",
        "Used part of each engine's KV cache; beyond 95 % requests wait or are preempted",
        {
            "replica {{replica}}": "max by (replica) (vllm:kv_cache_usage_perc{})",
        },
    ),
    _vllm(
        "Preemptions a second",
        "short",
        "Requests that lost their KV cache to others and are computed again",
        {
            "replica {{replica}}": "sum by (replica)"
            " (rate(vllm:num_preemptions_total{}[$__rate_interval]))",
        },
    ),
    _vllm(
        "Prefix cache hits",
        "percentunit",
        "Part of the prompts' tokens that need not be computed",
        {
            "hits": "sum(rate(vllm:prefix_cache_hits_total{}[$__rate_interval]))"
            " / sum(rate(vllm:prefix_cache_queries_total{}[$__rate_interval]))",
        },
    ),
    _vllm(
        "Picture cache hits",
        "percentunit",
        "Part of the pictures that were cut into tiles before",
        {
            "hits": "sum(rate(vllm:mm_cache_hits_total{}[$__rate_interval]))"
            " / sum(rate(vllm:mm_cache_queries_total{}[$__rate_interval]))",
        },
    ),
    _vllm_quantiles("Time between tokens", "inter_token_latency_seconds"),
    _vllm_quantiles("Prefill", "request_prefill_time_seconds"),
    _quantiles(words.PREFILL),
    _quantiles(words.VISION),
    _vllm_quantiles("Decode", "request_decode_time_seconds"),
    _vllm_quantiles("Wait inside the engine", "request_queue_time_seconds"),
    _vllm(
        "Tokens a second",
        "short",
        "What the engines compute",
        {
            "prompt": "sum(rate(vllm:prompt_tokens_total{}[$__rate_interval]))",
            "generation": "sum(rate(vllm:generation_tokens_total{}[$__rate_interval]))",
        },
    ),
    _vllm(
        "Ends of requests",
        "reqps",
        "By why they ended",
        {
            "{{finished_reason}}": "sum by (finished_reason)"
            " (rate(vllm:request_success_total{}[$__rate_interval]))"
        },
    ),
    _rates("Vision load: pictures a second", "short", {"{{replica}}": words.IMAGES}, "replica"),
    _rates("Vision load: tokens a second", "short", {"{{replica}}": words.IMAGE_TOKENS}, "replica"),
)

TENANTS = (
    Panel(
        "Top accounts: tokens a second",
        words.ACCOUNT_TOKENS.unit,
        words.ACCOUNT_TOKENS.help,
        {"{{account}}": f"topk(10, {_rate(words.ACCOUNT_TOKENS, 'account')})"},
    ),
    Panel(
        "Top accounts: requests",
        words.ACCOUNT_REQUESTS.unit,
        words.ACCOUNT_REQUESTS.help,
        {"{{account}}": f"topk(10, {_rate(words.ACCOUNT_REQUESTS, 'account')})"},
    ),
    Panel(
        "Top accounts: requests that failed or were throttled",
        words.ACCOUNT_REQUESTS.unit,
        words.ACCOUNT_REQUESTS.help,
        {
            "{{account}} {{outcome}}": "topk(10, "
            + _rate(words.ACCOUNT_REQUESTS, "account, outcome", ',outcome=~"failed|rejected"')
            + ")"
        },
    ),
    Panel(
        "Top accounts: dollars an hour",
        words.ACCOUNT_COST.unit,
        words.ACCOUNT_COST.help,
        {"{{account}}": f"topk(10, 3600 * {_rate(words.ACCOUNT_COST, 'account')})"},
    ),
    Panel(
        "Dollars an hour",
        words.COST.unit,
        words.COST.help,
        {"all": f"3600 * {_rate(words.COST)}"},
    ),
    Panel(
        "Throttled",
        words.REFUSALS.unit,
        "Refused for a limit of the account, a quota, or for want of room",
        {
            "{{reason}}": _rate(
                words.REFUSALS, "reason", ',reason=~"RateLimited|QuotaSpent|Overloaded"'
            )
        },
    ),
    _sums("Usage not in the database yet", words.BACKLOG),
    _sums("Metering lag", words.LAG),
)

CAPACITY = (
    _sums("Replicas", words.UP),
    Panel(
        "Starts of replicas in an hour",
        words.STARTS.unit,
        words.STARTS.help,
        {"starts": f"sum(increase({_of(words.STARTS)}[1h]))"},
    ),
    Panel(
        "Saturation",
        "percentunit",
        "Requests at the engines, of those they run at once",
        {
            "all": f"sum({_of(words.RUNNING)}) / sum({_of(words.RUNNING_LIMIT)})",
            "replica {{replica}}": f"sum by (replica) ({_of(words.RUNNING)})"
            f" / sum by (replica) ({_of(words.RUNNING_LIMIT)})",
        },
    ),
    _sums("Queue: requests", words.QUEUE_REQUESTS),
    Panel(
        "Queue: filled",
        "percentunit",
        "Tokens and pixels that wait, of those that may",
        {
            "tokens": f"sum({_of(words.QUEUE_TOKENS)}) / sum({_of(words.QUEUE_TOKENS_LIMIT)})",
            "pixels": f"sum({_of(words.QUEUE_PIXELS)}) / sum({_of(words.QUEUE_PIXELS_LIMIT)})",
        },
    ),
    _quantiles(words.QUEUED),
    Panel(
        "What expires",
        "d",
        "Days until the next API token and the certificates of CERTIFICATES expire",
        {
            "token": f"min({_of(words.TOKEN_EXPIRY)} > 0) / 86400 - time() / 86400",
            "{{certificate}}": f"min by (certificate) ({_of(words.CERTIFICATE_EXPIRY)}) / 86400"
            " - time() / 86400",
        },
    ),
    _vllm(
        "KV cache headroom",
        "percentunit",
        "Unused part of the fullest engine's KV cache",
        {
            "left": "1 - max(vllm:kv_cache_usage_perc{})",
        },
    ),
)
