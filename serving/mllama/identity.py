"""When two images are the same, and when two prefixes are.

vLLM hashes a prompt block by block and adds an image to the blocks that its placeholder covers. Our
placeholders all stand at 0, as the encoder-decoder path wants them, so vLLM would count the first
image from the first block on and the second one never. Here an image enters the hash of the block
that holds its `<|image|>` token, and through the chain those of all later blocks.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from hashlib import sha256
from typing import Any

from vllm.multimodal.inputs import MultiModalFeatureSpec, PlaceholderRange

from serving.mllama.plan import Layout


def image_name(feature: MultiModalFeatureSpec, salt: str | None) -> str:
    """A name that no other image has, nor the same one in another tile layout or under other salt.

    `feature.identifier` is a digest of the pixels, or what the caller says in its place.
    """
    data = feature.data or {}
    ratio = int(data["aspect_ratio_ids"].data) if "aspect_ratio_ids" in data else None
    return _digest(feature.identifier, feature.mm_position.length, ratio, salt).hex()


def image_digest(name: str, lora: Any) -> bytes:
    """What an image's keys and values depend on. `lora`: the request's LoRARequest, if any.

    No adapter touches them today (`lora`), but an adapter may at most cost a copy, never an answer.
    """
    return _digest(name, *((lora.lora_name, lora.lora_path) if lora else ()))


def _digest(*parts: object) -> bytes:
    return sha256(repr(parts).encode()).digest()


def hash_by_position(request: Any, layout: Layout) -> None:
    """Have the blocks of a `vllm.v1.request.Request` hashed anew, with its images in their places.

    Without prefix caching there is nothing to hash.
    """
    hasher = request._block_hasher
    if hasher is None:
        return
    placed = [
        replace(feature, data=None, mm_position=PlaceholderRange(offset=position, length=1))
        for feature, position in zip(request.mm_features, layout.positions, strict=True)
    ]
    request._block_hasher = partial(_hash, hasher, placed)
    request.block_hashes = []
    request.update_block_hashes()


def _hash(hasher: Any, placed: list[MultiModalFeatureSpec], request: Any) -> Any:
    return hasher(_Placed(request, placed))


class _Placed:
    """A request as its hasher shall see it."""

    def __init__(self, request: Any, features: list[MultiModalFeatureSpec]) -> None:
        self._request = request
        self.mm_features = features

    def __getattr__(self, name: str) -> Any:
        return getattr(self._request, name)
