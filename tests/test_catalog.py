"""The catalogues in the repository, and files that are none."""

from pathlib import Path

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema
from vllm import AsyncEngineArgs

from serving.catalog import DEFAULT, Catalog, Model
from serving.errors import UnknownModel

MODEL = "@cf/meta/llama-3.2-11b-vision-instruct"
DEPLOY = Path(__file__).parent.parent / "deploy"


@pytest.mark.parametrize(
    "path", [DEFAULT, *sorted(DEPLOY.glob("catalog/*.yaml"))], ids=lambda path: path.stem
)
def test_catalogues_we_ship(path):
    """Each serves the model, with engine settings that vLLM knows."""
    model = Catalog.read(path).find(MODEL)
    known = AsyncEngineArgs.__dataclass_fields__
    assert [name for name in model.engine if name not in known] == []
    assert model.max_images > 0
    assert model.resources.get("num_gpus", 0) == model.engine.get(
        "tensor_parallel_size", 0 if path == DEFAULT else 1
    )


def test_the_default_checkpoint_is_in_the_repository():
    """Relative paths start from the catalogue, not from the working directory."""
    assert (Catalog.read().find(MODEL).checkpoint / "config.json").is_file()


def test_the_serve_configuration_is_one():
    """Ray's own schema takes it."""
    config = ServeDeploySchema(**yaml.safe_load((DEPLOY / "serve.yaml").read_text()))
    assert config.applications[0].import_path == "serving.cluster.replica:configured"


def test_unknown_models_are_named():
    """The error says which."""
    with pytest.raises(UnknownModel, match="@cf/meta/other"):
        Catalog.read().find("@cf/meta/other")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"colour": "red"}, "colour"),
        ({"context_window": 0}, "context_window"),
        ({"context_window": None}, "context_window"),
        ({"engine": {"max_model_len": 5}}, "leave them out: max_model_len"),
    ],
)
def test_mistakes_are_errors_that_name_the_key(tmp_path, change, words):
    """Unknown keys above all."""
    entry = {"checkpoint": "x", "context_window": 1, "max_images": 1, **change}
    file = tmp_path / "catalog.yaml"
    file.write_text(yaml.safe_dump({"models": {MODEL: entry}}))
    with pytest.raises(ValueError, match=words):
        Catalog.read(file)


@pytest.mark.parametrize("text", ["", "[]", "models: {}", "models: {a: {}}\nmore: 1"])
def test_other_files_are_refused(tmp_path, text):
    """Empty ones too."""
    file = tmp_path / "catalog.yaml"
    file.write_text(text)
    with pytest.raises(ValueError):
        Catalog.read(file)


def test_models_cannot_be_changed():
    """They are shared by everything."""
    model = Model(id="m", checkpoint="x", context_window=1, max_images=0)
    with pytest.raises(ValueError, match="frozen"):
        model.context_window = 2
