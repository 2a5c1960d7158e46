"""The models this deployment serves: Workers AI ids, where their weights lie, how vLLM runs them.

The data is YAML, so that another checkpoint, GPU or limit is a change of configuration. Unknown
keys are errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator

from serving.errors import InvalidInput, LoraUnsupported, UnknownModel

DEFAULT = Path(__file__).with_name("catalog.yaml")
_MAX_NUM_SEQS = 128  # unless the entry says otherwise


class Model(BaseModel):
    """One entry. `engine` goes to vLLM's `AsyncEngineArgs`, `resources` to each Ray replica.

    `context_window` (tokens, prompt and answer together) is also vLLM's `max_model_len`;
    `max_images` is per request, and also vLLM's limit. What comes after `resources` is shown to who
    lists the models.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(min_length=1)
    checkpoint: Path
    context_window: int = Field(gt=0)
    max_images: int = Field(ge=0)
    engine: Mapping[str, Any] = Field(default_factory=dict)
    resources: Mapping[str, float] = Field(default_factory=dict)
    description: str = ""
    terms: str = "https://github.com/meta-llama/llama-models/blob/main/models/llama3_2/LICENSE"
    created_at: datetime = datetime(2024, 9, 25, 5, 36, 4, tzinfo=UTC)

    @property
    def slots(self) -> int:
        """How many requests the engine runs at once, whosever they are."""
        return int(self.engine.get("max_num_seqs", _MAX_NUM_SEQS))

    @property
    def kept(self) -> int:
        """Places beside those, for tenants that have less than their share of the engine.

        The engine is told of them, so that they are at nobody's expense while nobody needs them.
        """
        return max(1, self.slots // 4)

    @property
    def max_rank(self) -> int:
        """The highest rank of LoRA adapters; 0 when the model takes none."""
        return int(self.engine.get("max_lora_rank", 16)) if self.engine.get("enable_lora") else 0

    def lora(self, asked: Any) -> str:
        """The adapter a request asks for, by name or id; "" is none.

        Raises:
            InvalidInput: that is no text.
            LoraUnsupported: one is asked for, and the model takes none.
        """
        if not isinstance(asked, str | None):
            raise InvalidInput("Type mismatch of '/lora', 'string' expected")
        if asked and not self.max_rank:
            raise LoraUnsupported(self.id)
        return asked or ""

    @field_validator("engine")
    @classmethod
    def _said_once(cls, engine: Mapping[str, Any]) -> Mapping[str, Any]:
        """What the entry itself says is not said again, differently, to vLLM."""
        twice = engine.keys() & {"model", "tokenizer", "max_model_len", "limit_mm_per_prompt"}
        if twice:
            raise ValueError(f"follow from the entry, leave them out: {', '.join(sorted(twice))}")
        return engine


class _File(BaseModel):
    """The YAML as written: a mapping of ids to entries."""

    model_config = ConfigDict(extra="forbid")

    models: dict[str, dict[str, Any]] = Field(min_length=1)


class Catalog:
    """The served models by id."""

    def __init__(self, *models: Model) -> None:
        self.models: Mapping[str, Model] = {model.id: model for model in models}

    @classmethod
    def read(cls, path: Path = DEFAULT) -> Catalog:
        """The catalogue in a YAML file; a relative checkpoint starts from the file's folder.

        Raises:
            OSError: the file cannot be read.
            ValueError: it is not a catalogue; the message names the offending key.
        """
        entries = _File.model_validate(yaml.safe_load(path.read_text())).models
        return cls(*(_entry(id_, fields, path.parent) for id_, fields in entries.items()))

    def find(self, model_id: str) -> Model:
        """The model with this id.

        Raises:
            UnknownModel: there is none.
        """
        try:
            return self.models[model_id]
        except KeyError:
            raise UnknownModel(model_id) from None


def _entry(id_: str, fields: Mapping[str, Any], folder: Path) -> Model:
    model = Model(id=id_, **fields)
    return model.model_copy(update={"checkpoint": (folder / model.checkpoint).resolve()})
