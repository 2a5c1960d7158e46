"""LoRA's two small products on CPU, for requests with different adapters and with none.

vLLM's own CPU version takes the index of a row without an adapter, -1, for the last slot: requests
to the base model are then answered by whichever adapter lies there. It also copies an adapter's
weights for each row. Here rows are gathered by adapter instead, and the others are left alone. On
GPUs vLLM's kernels know about -1, and nothing is replaced.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.platforms import current_platform


def install() -> None:
    """On CPU, have vLLM use `ByAdapter`; a second call changes nothing."""
    if current_platform.is_cpu():
        type(current_platform).get_punica_wrapper = lambda *_: f"{__name__}.{ByAdapter.__name__}"


class ByAdapter(PunicaWrapperCPU):
    """Knows which rows of the step go with which adapter."""

    _rows: tuple[tuple[int, torch.Tensor], ...] = ()
    """Slots in use, and the (n,) int64 rows of each."""

    def update_metadata(self, *args: Any, **kwargs: Any) -> None:
        """See `PunicaWrapperBase.update_metadata`; called when the step's adapters change."""
        super().update_metadata(*args, **kwargs)
        slots = self.token_lora_indices
        self._rows = tuple(
            (slot, (slots == slot).nonzero().flatten())
            for slot in slots.unique().tolist()
            if slot >= 0
        )

    def add_lora_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: tuple[torch.Tensor, ...],
        lora_b_stacked: tuple[torch.Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        **_: Any,
    ) -> None:
        """Add B A x to the rows of (N, outputs) `y`, in place, `x` being (N, inputs).

        For each of the packed projections: A (slots, 1, rank, inputs), B (slots, 1, width, rank).
        """
        for slot, rows in self._rows:
            chosen, begin = x[rows], 0
            for a, b, width in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
                added = (chosen @ a[slot, 0].T) @ b[slot, 0].T
                y[rows, begin : begin + width] += added * scale
                begin += width
