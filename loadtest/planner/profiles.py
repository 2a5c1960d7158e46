"""Predicted models of the 11B on GPUs: rooflines with assumed efficiency, none measured."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import msgspec
import yaml

from loadtest.core import UsageError
from loadtest.planner.model import Costs, Limits, Replica, read

_GIB = 1 << 30


class _Model(msgspec.Struct, forbid_unknown_fields=True):
    source: str
    decoder: float
    head: float
    kv_bytes: float
    cross_bytes: float
    attention_flop: float
    tile_flop: float


class _Assumed(msgspec.Struct, forbid_unknown_fields=True):
    bandwidth: float
    compute: float
    step: float
    request: float
    cold_start: float
    errors: dict[str, float]


class _Gpu(msgspec.Struct, forbid_unknown_fields=True):
    bytes_per_second: float
    bf16: float
    fp8: float
    source: str


class _Profile(msgspec.Struct, forbid_unknown_fields=True):
    gpu: str
    weight_bytes: int
    kv_gib: float
    seqs: int
    budget: int
    beside: int


class _File(msgspec.Struct, forbid_unknown_fields=True):
    model: _Model
    assumed: _Assumed
    gpus: dict[str, _Gpu]
    profiles: dict[str, _Profile]


@cache
def _file() -> _File:
    text = Path(__file__).with_name("profiles.yaml").read_text()
    return msgspec.convert(yaml.safe_load(text), _File, strict=False)


def names() -> list[str]:
    """The profiles there are."""
    return list(_file().profiles)


def profile(name: str) -> Replica:
    """One of them.

    Raises:
        UsageError: there is none of this name.
    """
    file = _file()
    if name not in file.profiles:
        raise UsageError(
            f"no model file (.json) and no profile: {name!r}; try {', '.join(names())}"
        )
    found = file.profiles[name]
    gpu = file.gpus[found.gpu]
    return Replica(
        name=name,
        origin="predicted",
        costs=_roofline(file.model, file.assumed, gpu, found.weight_bytes),
        limits=Limits(
            seqs=found.seqs,
            budget=found.budget,
            beside=found.beside,
            kv=int(found.kv_gib * _GIB / file.model.kv_bytes),
            tile_kv=file.model.cross_bytes / file.model.kv_bytes,
            queue=4 * found.seqs,
        ),
        errors=dict(file.assumed.errors),
        sources=(gpu.source, file.model.source),
        cold_start=file.assumed.cold_start,
    )


def gpu(name: str) -> str | None:
    """The GPU that a model of this name is of, if it is a profile's."""
    found = _file().profiles.get(name)
    return found.gpu if found else None


def find(text: str) -> Replica:
    """A model file, or a profile by its name; a file of that name in this folder replaces it.

    Raises:
        UsageError: neither is there.
    """
    if text.endswith(".json"):
        return read(Path(text))
    measured = Path(f"{text}.json")
    return read(measured) if measured.is_file() else profile(text)


def _roofline(model: _Model, assumed: _Assumed, gpu: _Gpu, weight_bytes: int) -> Costs:
    """Reading at the memory's pace, multiplying at the tensor cores', one after the other."""
    read = 1 / (gpu.bytes_per_second * assumed.bandwidth)
    flop = 1 / ((gpu.fp8 if weight_bytes == 1 else gpu.bf16) * assumed.compute)
    token = 2 * (model.decoder + model.head) * flop
    weights = model.decoder * weight_bytes + 2 * model.head
    return Costs(
        step=assumed.step + weights * read,
        row=token,
        context=model.kv_bytes * read,
        cross=model.cross_bytes * read,
        prefill=2 * model.decoder * flop,
        attention=model.attention_flop * flop,
        # The vision tower stays in BF16.
        tile=model.tile_flop / (gpu.bf16 * assumed.compute),
        request=assumed.request,
    )
