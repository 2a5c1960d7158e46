"""What clients read besides answers: the models, their schemas, whether a token is good."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from serving.catalog import Catalog, Model
from serving.errors import InvalidInput, UnknownEntry, UnknownModel
from serving.protocol import envelope, published

_TASK = {
    "id": "c329a1f9-323d-4e91-b2aa-582dd4188d34",
    "name": "Text Generation",
    "description": "Answers prompts and conversations with text.",
}
_PER_PAGE = 50


@dataclass(frozen=True, slots=True)
class Visit:
    """What a page may depend on. `token` is the id of the caller's token."""

    models: Catalog
    query: Mapping[str, str]
    model: str = ""
    token: str = ""


Page = Callable[[Visit], bytes]


def search(visit: Visit) -> bytes:
    """`ai/models/search`: a page of the catalogue. Clients ask for the next one until it is empty.

    Raises:
        InvalidInput: `page` or `per_page` is not a positive number.
    """
    found = [_entry(model) for model in visit.models.models.values() if _meets(model, visit.query)]
    if visit.query.get("format") == "openrouter":
        return envelope.bare({"data": found})
    page, size = _number(visit.query, "page", 1), _number(visit.query, "per_page", _PER_PAGE)
    shown = found[(page - 1) * size : page * size]
    info = {"count": len(shown), "page": page, "per_page": size, "total_count": len(found)}
    return envelope.success(shown, result_info=info)


def search_bound(visit: Visit) -> bytes:
    """The catalogue as a Workers binding reads it."""
    return envelope.bare({"result": [_entry(model) for model in visit.models.models.values()]})


def model_schema(visit: Visit) -> bytes:
    """`ai/models/schema?model=`: what the model takes and gives.

    Raises:
        UnknownEntry: there is no such model.
    """
    _found(visit.models, visit.query.get("model", ""))
    return envelope.success({"input": published.json_schema(), "output": published.OUTPUT})


def tasks(_: Visit) -> bytes:
    """`ai/tasks/search`: what the models are for."""
    return envelope.success([_TASK])


def authors(visit: Visit) -> bytes:
    """`ai/authors/search`: who the models are by. What an entry holds is not published."""
    names = sorted({_author(model) for model in visit.models.models.values()})
    return envelope.success([{"name": name} for name in names])


def openai_models(visit: Visit) -> bytes:
    """OpenAI's list of models."""
    listed = [_openai_model(model) for model in visit.models.models.values()]
    return envelope.bare({"object": "list", "data": listed})


def openai_model(visit: Visit) -> bytes:
    """One entry of OpenAI's list.

    Raises:
        UnknownEntry: there is no such model.
    """
    return envelope.bare(_openai_model(_found(visit.models, visit.model)))


def token(visit: Visit) -> bytes:
    """`tokens/verify`, for a token that has been found good."""
    valid = {"code": 10000, "message": "This API Token is valid and active"}
    return envelope.success({"id": visit.token, "status": "active"}, messages=[valid])


def _found(models: Catalog, id_: str) -> Model:
    try:
        return models.find(id_)
    except UnknownModel as error:
        raise UnknownEntry from error


def _entry(model: Model) -> dict[str, Any]:
    properties = {
        "context_window": str(model.context_window),
        "lora": "true" if model.max_rank else "",
        "terms": model.terms,
    }
    return {
        # The published one is not derived from the name; nothing but the name is read by clients.
        "id": str(uuid5(NAMESPACE_URL, model.id)),
        "source": 1,
        "name": model.id,
        "description": model.description,
        "task": _TASK,
        "created_at": f"{model.created_at:%Y-%m-%d %H:%M:%S}.000",
        "tags": [],
        "properties": [
            {"property_id": name, "value": value} for name, value in properties.items() if value
        ],
    }


def _openai_model(model: Model) -> dict[str, Any]:
    created = int(model.created_at.timestamp())
    return {"id": model.id, "object": "model", "created": created, "owned_by": _author(model)}


def _author(model: Model) -> str:
    """`meta` of `@cf/meta/...`."""
    return model.id.removeprefix("@").split("/")[-2] if "/" in model.id else "local"


def _meets(model: Model, query: Mapping[str, str]) -> bool:
    """Whether a model answers to the words, the task and the author of a search."""
    words, task, author = (query.get(name, "").lower() for name in ("search", "task", "author"))
    return (
        words in f"{model.id} {model.description}".lower()
        and task in ("", _TASK["name"].lower(), _TASK["id"])
        and author in model.id.lower()
    )


def _number(query: Mapping[str, str], name: str, default: int) -> int:
    text = query.get(name, str(default))
    if not text.isascii() or not text.isdigit() or not 0 < len(text) < 10 or int(text) < 1:
        raise InvalidInput(f"'/{name}' must be a positive number")
    return int(text)
