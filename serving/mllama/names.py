"""Names of weights in checkpoints and adapters -> the names they have in this model."""

from __future__ import annotations

from vllm.model_executor.models.utils import WeightsMapper

from serving.mllama.lora import takes_adapter


class Names(WeightsMapper):
    """Names of weights in checkpoints and adapters to those of this model."""

    def get_rename_mapper(self) -> WeightsMapper:
        """vLLM's hook for names that are no weights to load: modules, and those of adapters."""
        return AdapterNames(orig_to_new_prefix=self.orig_to_new_prefix)


class AdapterNames(WeightsMapper):
    """Without the stacking of weights, and strict with adapters."""

    def map_name(self, key: str) -> str | None:
        """The name here.

        Raises:
            ValueError: it is of an adapter, for a weight that takes none.
        """
        name = super().map_name(key)
        if name is None or (".lora_" in name and not takes_adapter(name)):
            raise ValueError(
                f"This model takes no adapter for {key}: only self-attention and feed-forward of "
                "the language model do, cross-attention and vision do not."
            )
        return name
