"""KV-cache blocks for cross-attention: their spec and the manager that allocates them.

vLLM's own pair serves Whisper: the group takes part in prefix caching, so that engine must run
without it. Ours opts its group out (`prefix_cacheable`), which leaves prefix caching on for the
self-attention groups. Importing this module registers the pair; it is imported wherever a spec is
made or unpickled, so in the workers and in the engine core.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from vllm.config import VllmConfig
from vllm.utils.math_utils import cdiv
from vllm.v1.core.single_type_kv_cache_manager import CrossAttentionManager
from vllm.v1.kv_cache_interface import CrossAttentionSpec
from vllm.v1.kv_cache_spec_registry import KVCacheSpecRegistry
from vllm.v1.request import Request


@dataclass(frozen=True)
class MllamaCrossAttentionSpec(CrossAttentionSpec):
    """One cross-attention layer's KV. `max_slots`: the most a single request can ask for."""

    max_slots: int = field(default=0, kw_only=True)

    @property
    def prefix_cacheable(self) -> bool:
        """Image KV belongs to its request: never shared, never looked up."""
        return False

    def max_memory_usage_bytes(self, vllm_config: VllmConfig) -> int:
        """Bytes of one request with the most images allowed, every one with all its tiles."""
        return cdiv(self.max_slots, self.block_size) * self.page_size_bytes


class MllamaCrossAttentionManager(CrossAttentionManager):
    """Allocates once a request, exactly what its images need; frees with the request."""

    def cache_blocks(
        self,
        request: Request,
        num_tokens: int,
        retention_interval: int | None = None,
        *,
        replay_boundaries: Sequence[int],
    ) -> None:
        """Nothing to share. (The base class refuses to be called with prefix caching on.)"""


# Registering before vLLM's own specs are in would make vLLM believe that they are.
KVCacheSpecRegistry._ensure_registered()
KVCacheSpecRegistry.register(MllamaCrossAttentionSpec, MllamaCrossAttentionManager)
