"""The header of a safetensors file -> its tensors. Nothing of the data is read.

Eight bytes say how long the header is, then come a JSON object and the data. The format:
https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

from math import prod
from typing import BinaryIO

import msgspec

from serving.errors import InvalidAdapter

MAX_BYTES = 500_000_000
_MAX_HEADER = 4 * 2**20
_WIDTHS = {"F32": 4, "F16": 2, "BF16": 2}


class Tensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of the header."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def tensors(file: BinaryIO, size: int) -> dict[str, Tensor]:
    """The tensors of a file of `size` bytes, by name.

    Raises:
        InvalidAdapter: it is no such file, or one whose tensors do not fill it exactly.
    """
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= min(_MAX_HEADER, size - 8):
        raise _refused("it is not a safetensors file, or its header is too long")
    found = _entries(file.read(length))
    end = 0
    for name, tensor in sorted(found.items(), key=lambda item: item[1].data_offsets):
        _check(name, tensor)
        begin, after = tensor.data_offsets
        if begin != end or after - begin != prod(tensor.shape) * _WIDTHS[tensor.dtype]:
            raise _refused(f"the place of {name[:200]!r} does not fit its shape")
        end = after
    if end != size - 8 - length:
        raise _refused("the tensors do not fill the file")
    return found


def _entries(header: bytes) -> dict[str, Tensor]:
    try:
        raw = msgspec.json.decode(header, type=dict[str, msgspec.Raw])
        raw.pop("__metadata__", None)
        return {name: msgspec.json.decode(entry, type=Tensor) for name, entry in raw.items()}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _refused(f"the header cannot be read: {error}") from error


def _check(name: str, tensor: Tensor) -> None:
    if tensor.dtype not in _WIDTHS:
        raise _refused(f"{name[:200]!r} must be one of {', '.join(_WIDTHS)}")
    if len(tensor.shape) != 2 or min(tensor.shape) < 1:
        raise _refused(f"{name[:200]!r} must have two dimensions")


def _refused(reason: str) -> InvalidAdapter:
    return InvalidAdapter(f"adapter_model.safetensors: {reason}")
