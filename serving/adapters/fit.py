"""Whether the tensors of an adapter are those of its configuration, for this model."""

from __future__ import annotations

from collections.abc import Mapping

from serving.adapters.targets import Targets, module
from serving.adapters.weights import Tensor
from serving.errors import InvalidAdapter


def modules(tensors: Mapping[str, Tensor], targets: Targets, rank: int | None = None) -> list[str]:
    """The kinds of modules adapted, such as `q_proj`. `rank`: what it must be, if that is known.

    Raises:
        InvalidAdapter: a tensor too many, one missing, or one of another shape.
    """
    halves: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        target, half = module(name, targets)
        if half in halves.setdefault(target, {}):
            raise InvalidAdapter(f"adapter_model.safetensors: {target} has two of its lora_{half}")
        halves[target][half] = tensor
    if not halves:
        raise InvalidAdapter("adapter_model.safetensors: there are no tensors")
    for target, pair in halves.items():
        _check(target, pair, targets[target], rank)
    return sorted({target.rpartition(".")[2] for target in halves})


def _check(target: str, pair: dict[str, Tensor], shape: tuple[int, int], rank: int | None) -> None:
    if pair.keys() != {"A", "B"}:
        raise InvalidAdapter(f"adapter_model.safetensors: {target} lacks its lora_A or lora_B")
    outputs, inputs = shape
    found = pair["A"].shape[0]
    if rank is not None and found != rank:
        raise InvalidAdapter(f"{target} has rank {found}, adapter_config.json says {rank}")
    if pair["A"].shape != (found, inputs) or pair["B"].shape != (outputs, found):
        raise InvalidAdapter(
            f"{target} must have shapes (r, {inputs}) and ({outputs}, r), "
            f"not {pair['A'].shape} and {pair['B'].shape}"
        )
