"""KV-cache blocks for cross-attention: their spec and the manager that allocates them.

vLLM's own pair serves Whisper: a request's blocks are its own, and prefix caching is off. Ours
opts its group out of vLLM's prefix lookup (`prefix_cacheable`), which goes by token positions, and
finds blocks by what they hold instead (`content`). They live in the same pool as those of
self-attention, with the same reference counts and the same order of eviction. Importing this module
registers the pair; it is imported wherever a spec is made or unpickled, so in the workers and in
the engine core.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vllm.config import VllmConfig
from vllm.utils.math_utils import cdiv
from vllm.v1.core.kv_cache_utils import BlockHash, KVCacheBlock, make_block_hash_with_group_id
from vllm.v1.core.single_type_kv_cache_manager import CrossAttentionManager
from vllm.v1.kv_cache_interface import CrossAttentionSpec
from vllm.v1.kv_cache_spec_registry import KVCacheSpecRegistry
from vllm.v1.request import Request


@dataclass(frozen=True)
class MllamaCrossAttentionSpec(CrossAttentionSpec):
    """One cross-attention layer's KV; to vLLM, one page of it (`pages`)."""

    max_slots: int = field(default=0, kw_only=True)
    """The most a single request can ask for."""
    pages: int = field(default=1, kw_only=True)
    """Pages of `block_size` slots in a block of the pool."""

    @property
    def block_slots(self) -> int:
        """Slots in a block of the pool."""
        return self.block_size * self.pages

    @property
    def prefix_cacheable(self) -> bool:
        """Not by the hashes of prefixes."""
        return False

    def max_memory_usage_bytes(self, vllm_config: VllmConfig) -> int:
        """Bytes in one page of each of the blocks that the request with the most images needs."""
        return cdiv(self.max_slots, self.block_slots) * self.page_size_bytes


@dataclass(frozen=True, slots=True)
class Reservation:
    """What a request that is about to start will hold."""

    keys: Sequence[bytes | None]
    """The content of each of its blocks; None where it needs none."""
    found: Sequence[KVCacheBlock | None]
    """The block that has it already, held for the request; None where there is none."""

    def missing(self) -> dict[bytes, int]:
        """Content that no block has, with the first place where the request needs it."""
        pairs = [(key, i) for i, key in enumerate(self.keys) if key and self.found[i] is None]
        return dict(reversed(pairs))


class MllamaCrossAttentionManager(CrossAttentionManager):
    """Blocks of images: allocated with a request's first step, shared, freed with the last user.

    A request first reserves, so that nothing it found is evicted before it starts, and then either
    starts in the same step or loses the reservation with the next one.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._reserved: dict[str, Reservation] = {}

    def holds(self, request_id: str) -> bool:
        """Whether the request has its blocks."""
        return request_id in self.req_to_blocks

    def reserve(self, request_id: str, keys: Sequence[bytes | None]) -> set[int]:
        """Hold what is there of the blocks that a request needs, by their content.

        Returns the places of the blocks that have to be written. Content that the request needs at
        several places is written at the first.
        """
        found = [self._find(key) for key in keys]
        assert request_id not in self._reserved, "a request reserves once a step"
        self.block_pool.touch([block for block in found if block is not None])
        self._reserved[request_id] = Reservation(keys, found)
        return set(self._reserved[request_id].missing().values())

    def release(self, request_id: str) -> None:
        """Give up a reservation."""
        self.block_pool.free_blocks(reversed(self._take_back(request_id)))

    def _take_back(self, request_id: str) -> list[KVCacheBlock]:
        reservation = self._reserved.pop(request_id, None)
        return [block for block in reservation.found if block] if reservation else []

    def _find(self, key: bytes | None) -> KVCacheBlock | None:
        if key is None or not self.enable_caching:
            return None
        blocks = self.block_pool.get_cached_block(BlockHash(key), [self.kv_cache_group_id])
        return blocks[0] if blocks else None

    def new_step_starts(self) -> None:
        """Give up what requests reserved in the last step and did not start with."""
        for request_id in list(self._reserved):
            self.release(request_id)

    def get_num_blocks_to_allocate(self, request_id: str, *args: Any, **kwargs: Any) -> int:
        """What the reservation lacks. Blocks it found are no longer free, so they do not count."""
        reservation = self._reserved.get(request_id)
        return len(reservation.missing()) if reservation else 0

    def allocate_new_blocks(
        self, request_id: str, num_tokens: int, num_tokens_main_model: int
    ) -> list[KVCacheBlock]:
        """Turn the reservation into the request's blocks, and make the new ones known.

        Others may find them in this very step: all writes of a step come before all reads.
        """
        reservation = self._reserved.pop(request_id, None)
        if reservation is None:
            return []
        missing = reservation.missing()
        new = dict(zip(missing, self.block_pool.get_new_blocks(len(missing)), strict=True))
        if self._record_new_block_ids:
            self.new_block_ids.extend(block.block_id for block in new.values())
        self._make_known(new)
        blocks = self.req_to_blocks[request_id]
        for place, (key, found) in enumerate(zip(reservation.keys, reservation.found, strict=True)):
            if found is None and key and missing[key] != place:
                self.block_pool.touch([new[key]])
            blocks.append(found or (new[key] if key else self._null_block))
        return blocks

    def _make_known(self, new: Mapping[bytes, KVCacheBlock]) -> None:
        if not self.enable_caching:
            return
        for key, block in new.items():
            name = make_block_hash_with_group_id(BlockHash(key), self.kv_cache_group_id)
            self.block_pool._insert_block_hash(name, block, num_tokens=None)

    def pop_blocks_for_free(self, request_id: str) -> list[KVCacheBlock]:
        """All that the request holds, reserved or its own."""
        return super().pop_blocks_for_free(request_id) + self._take_back(request_id)

    def cache_blocks(
        self,
        request: Request,
        num_tokens: int,
        retention_interval: int | None = None,
        *,
        replay_boundaries: Sequence[int],
    ) -> None:
        """Nothing: blocks are known since they were allocated."""


# Registering before vLLM's own specs are in would make vLLM believe that they are.
KVCacheSpecRegistry._ensure_registered()
KVCacheSpecRegistry.register(MllamaCrossAttentionSpec, MllamaCrossAttentionManager)
