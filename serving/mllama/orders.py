"""What the scheduler tells the model runner beyond vLLM's own words: which KV to write.

The V1 runner gets it in the field that vLLM keeps for encoder cache managers, the V2 runner with
each request that starts, because that is what its per-model hook is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vllm.config.ec_manager_config import EncoderCacheManagerMetadata

from serving.mllama.plan import Write


@dataclass(frozen=True)
class Orders(EncoderCacheManagerMetadata):
    """The writes of one step, by the id of the request in whose slots they go."""

    writes: Mapping[str, tuple[Write, ...]]


def attach(output: Any, orders: Orders) -> None:
    """Put the orders of a step into its `vllm.v1.core.sched.output.SchedulerOutput`."""
    output.ec_manager_metadata = orders
    for request in output.scheduled_new_reqs:
        request.mllama_writes = orders.writes.get(request.req_id, ())


def of_step(output: Any) -> Mapping[str, tuple[Write, ...]]:
    """The writes of a step; none in one that comes from another scheduler."""
    orders = output.ec_manager_metadata
    return orders.writes if isinstance(orders, Orders) else {}


def of_request(new_request: Any) -> tuple[Write, ...]:
    """The writes that came with a `vllm.v1.core.sched.output.NewRequestData`."""
    writes: tuple[Write, ...] = getattr(new_request, "mllama_writes", ())
    return writes
