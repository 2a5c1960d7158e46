"""Registering: once or many times, and only with a vLLM the plugin knows."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points

import pytest

from serving.mllama import ARCHITECTURE, internals, register


def test_vllm_finds_the_plugin_by_its_entry_point() -> None:
    """The installed distribution announces it."""
    (found,) = entry_points(group="vllm.general_plugins", name="mllama")
    assert found.load() is register


def test_registering_twice_is_registering_once() -> None:
    """vLLM calls plugins in every process, sometimes more than once."""
    from vllm import ModelRegistry

    register()
    register()
    assert ARCHITECTURE in ModelRegistry.get_supported_archs()


def test_the_plugin_is_light_to_import() -> None:
    """Importing it and registering bring in no model code, no runner and no transformers model."""
    script = (
        "import sys, vllm.model_executor.models.config, vllm\n"
        "before = set(sys.modules)\n"
        "import serving.mllama; serving.mllama.register()\n"
        "new = set(sys.modules) - before\n"
        "heavy = [m for m in new if 'gpu' in m or m.startswith('transformers.models.')]\n"
        "assert not heavy, heavy\n"
        "assert 'serving.mllama.model' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


@pytest.mark.parametrize("version", ["0.32.0", "0.32.1", "0.32.0+cpu"])
def test_known_versions_pass(version: str) -> None:
    """Patch releases and local builds of the series."""
    internals.check_version(version)


@pytest.mark.parametrize("version", ["0.31.0", "0.33.0", "1.0.0"])
def test_an_unknown_version_is_named_with_the_way_out(version: str) -> None:
    """The message says what is installed, what is needed, and how to serve other models."""
    with pytest.raises(RuntimeError, match=rf"0\.32\.x .*{version}.*VLLM_PLUGINS"):
        internals.check_version(version)


def test_the_internals_we_lean_on_are_there() -> None:
    """In the installed vLLM."""
    internals.check_internals()


def test_what_the_plugin_imports_is_checked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read from its sources, also what it imports inside functions."""
    assert "vllm.v1.attention.selector:get_attn_backend" in internals.imported()
    source = internals._source
    monkeypatch.setattr(
        internals, "_source", lambda module: source(module.replace(".selector", ".gone"))
    )
    with pytest.raises(RuntimeError, match=r"internals: vllm\.v1\.attention\.selector:\w+$"):
        internals.check_internals()


def test_changed_internals_are_listed() -> None:
    """A missing module, a missing name and a lost parameter, and nothing else."""
    changed = {
        "vllm.v1.gone:Thing": (),
        "vllm.v1.request:Request.gone": (),
        "vllm.v1.request:Request.is_finished": ("gone",),
        "vllm.v1.request:Request.get_num_encoder_embeds": ("self", "input_id"),
    }
    with pytest.raises(RuntimeError) as error:
        internals.check_internals(changed)
    assert str(error.value).endswith(
        "changed internals: vllm.v1.gone:Thing, vllm.v1.request:Request.gone, "
        "vllm.v1.request:Request.is_finished"
    )
