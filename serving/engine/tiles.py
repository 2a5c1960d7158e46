"""Pictures that were cut into tiles before, by their names, in the process that takes requests.

vLLM's own cache for this lives half here and half in the engine process, to spare the way between
them, and the halves can come to disagree: a client that leaves while its picture is being cut
leaves a record here of something that never went there. So it is off, and the variant that keeps
whole pictures in one place, which vLLM has for several front ends on one engine, is put in here.
"""

from __future__ import annotations

from typing import Any

from vllm.multimodal.cache.base import MultiModalProcessorOnlyCache
from vllm.v1.metrics.stats import MultiModalCacheStats

GIB = 0.5
"""Of memory. A picture of the published model takes 1.9 MB a tile: some 70 of four tiles."""


def keep(llm: Any) -> None:
    """Keep the tiles of pictures that this `AsyncLLM` was asked about, least recently used out.

    `vllm:mm_cache_queries` and `vllm:mm_cache_hits` count what is asked of it.
    """
    config = llm.vllm_config.model_config
    config.multimodal_config.mm_processor_cache_gb = GIB
    llm.renderer._mm_processor_cache = MultiModalProcessorOnlyCache(config)
    llm.renderer._mm_cache_stats = MultiModalCacheStats()
