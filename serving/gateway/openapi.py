"""The OpenAPI document of this service, made of the routes and of the types that read bodies."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec

from serving.gateway import finetunes, routes
from serving.gateway.routes import ASSETS, ROUTES, USER_ROUTES, Target
from serving.protocol import (
    anthropic,
    batch,
    openai_chat,
    openai_completions,
    openai_responses,
    pages,
    published,
)
from serving.protocol.dialect import Dialect
from serving.protocol.pages import Page

PATH = "/openapi.json"

_ACCOUNT = "/client/v4/accounts/{account_id}"
_ENVELOPE = {
    "type": "object",
    "required": ["result", "success", "errors", "messages"],
    "properties": {
        "result": {},
        "success": {"type": "boolean"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["code", "message"],
                "properties": {"code": {"type": "integer"}, "message": {"type": "string"}},
            },
        },
        "messages": {"type": "array"},
        "error": {
            "type": "object",
            "description": "The error again, as OpenAI or Anthropic say it",
        },
    },
}
_ERRORS = {
    "400": "The request cannot be served as it is, or has no usable credentials",
    "401": "A token that nobody holds",
    "403": "Not this account's token, or its licence gate",
    "404": "Nothing of this name",
    "405": "Another verb, or an adapter",
    "408": "It did not begin in the time of `cf-aig-request-timeout`",
    "413": "Too large for the service, or for the model's context",
    "429": "No room now; `Retry-After` says when",
    "500": "The engine failed",
}
_BODIES = {
    "chat": openai_chat.Body,
    "completions": openai_completions.Body,
    "responses": openai_responses.Body,
    "messages": anthropic.Body,
    "finetunes": finetunes.Wanted,
}
# What a route's answer is, where it is not the envelope, by its required fields.
_BARE = {
    "ai/run/proxy": (),
    "ai/v1/chat/completions": ("id", "object", "created", "model", "choices", "usage"),
    "ai/v1/completions": ("id", "object", "created", "model", "choices", "usage"),
    "ai/v1/responses": ("id", "object", "created_at", "status", "output", "usage"),
    "ai/v1/messages": ("id", "type", "role", "content", "stop_reason", "usage"),
    "ai/v1/messages/count_tokens": ("input_tokens",),
    "ai/v1/models": ("object",),
}
_SUMMARIES = {
    "ai/run": "Ask the model",
    "ai/run/proxy": "Ask the model through a Workers binding",
    "ai/v1/chat/completions": "OpenAI's chat completions",
    "ai/v1/completions": "OpenAI's completions",
    "ai/v1/responses": "OpenAI's responses",
    "ai/v1/messages": "Anthropic's messages",
    "ai/v1/messages/count_tokens": "How many tokens Anthropic's messages are",
    "ai/v1/models": "OpenAI's list of models",
    "ai/finetunes": "The account's LoRA adapters, or a new one",
    "ai/finetunes/public": "LoRA adapters that every account may use",
    ASSETS: "Upload a file of an adapter",
    "ai/models/search": "The catalogue",
    "ai/models/schema": "What a model takes and gives",
    "ai/tasks/search": "What models are for",
    "ai/authors/search": "Who models are by",
    "tokens/verify": "Whether the token is good",
    "user/tokens/verify": "Whether the token is good",
}
_QUEUED = {
    "Batch": {
        "type": "object",
        "description": "With `queueRequest=true`: requests to be answered later",
        "required": ["requests"],
        "properties": {
            "requests": {
                "type": "array",
                "minItems": 1,
                "maxItems": batch.MAX_ITEMS,
                "items": {
                    "allOf": [{"$ref": "#/components/schemas/Run"}],
                    "properties": {
                        "external_reference": {"type": "string", "maxLength": batch.MAX_REFERENCE}
                    },
                },
            }
        },
    },
    "Poll": {
        "type": "object",
        "description": "With `queueRequest=true`: what became of them",
        "required": ["request_id"],
        "properties": {"request_id": {"type": "string"}},
    },
}
_EVENT = {
    "type": "object",
    "required": ["data"],
    "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
}
_ASSET = {
    "type": "object",
    "required": ["file_name", "file"],
    "properties": {
        "file_name": {"enum": list(finetunes.FILES)},
        "file": {"type": "string", "contentMediaType": "application/octet-stream"},
    },
}
_QUERIES: dict[Page | finetunes.Action, tuple[str, ...]] = {
    finetunes.LIST_PUBLIC: ("limit", "offset", "orderBy"),
    pages.search: ("search", "task", "author", "page", "per_page", "format"),
    pages.model_schema: ("model",),
}


@cache
def document() -> bytes:
    """The document as JSON."""
    paths = {f"{_ACCOUNT}/{_templated(path)}": _item(path, verbs) for path, verbs in ROUTES.items()}
    for path, verbs in USER_ROUTES.items():
        paths[f"/client/v4/user/{path}"] = _item(path, verbs, account=False)
    token = {"type": "http", "scheme": "bearer"}
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {"title": "llama-vision-serving", "version": "1"},
            "security": [{"token": []}],
            "paths": paths,
            "components": {"schemas": _schemas(), "securitySchemes": {"token": token}},
        }
    )


def _templated(path: str) -> str:
    return f"{path}{{model}}" if path.endswith("/") else path


def _item(path: str, verbs: Any, account: bool = True) -> dict[str, Any]:
    """A path: what it takes in its place, and what each verb does."""
    names = ["account_id"] * account + ["model"] * path.endswith("/")
    names += ["finetune_id"] * (path == ASSETS)
    inputs = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in names
    ]
    described = {verb.lower(): _operation(path, target) for verb, target in verbs.items()}
    return {"parameters": inputs, **described} if inputs else described


def _operation(path: str, target: Target) -> dict[str, Any]:
    failed = {"application/json": {"schema": _ref("Envelope")}}
    found: dict[str, Any] = {
        "summary": _SUMMARIES[target.route],
        "responses": {
            "200": {"description": "The answer", "content": _answer(target)},
            **{code: {"description": text, "content": failed} for code, text in _ERRORS.items()},
        },
    }
    if isinstance(target.action, Dialect):
        content = {"application/json": {"schema": _request(path, target)}}
        found["requestBody"] = {"required": True, "content": content}
    elif target.action is finetunes.CREATE:
        content = {"application/json": {"schema": _ref("finetunes.Wanted")}}
        found["requestBody"] = {"required": True, "content": content}
    elif target.action is finetunes.UPLOAD:
        content = {"multipart/form-data": {"schema": _ASSET}}
        found["requestBody"] = {"required": True, "content": content}
    elif names := _QUERIES.get(target.action):
        schema_ = {"type": "string"}
        found["parameters"] = [{"name": name, "in": "query", "schema": schema_} for name in names]
    if target.route == routes.RUN:
        flag = {"type": "string", "enum": ["true", "false"]}
        found["parameters"] = [{"name": "queueRequest", "in": "query", "schema": flag}]
    if target.route == "ai/run/proxy":
        header = "cf-consn-model-id" if isinstance(target.action, Dialect) else "x-forwarded"
        found["parameters"] = [{"name": header, "in": "header", "schema": {"type": "string"}}]
    return found


def _answer(target: Target) -> dict[str, Any]:
    required = _BARE.get(target.route)
    whole: dict[str, Any] = _ref("Envelope")
    if required is not None:
        whole = {"type": "object", "required": list(required)}
    if target.action is pages.search:  # with `format=openrouter` it is bare
        whole = {"anyOf": [whole, {"type": "object", "required": ["data"]}]}
    content: dict[str, Any] = {"application/json": {"schema": whole}}
    if isinstance(target.action, Dialect) and target.action.counted is None:
        content["text/event-stream"] = {"schema": _EVENT}
    return content


def _request(path: str, target: Target) -> dict[str, Any]:
    below = {"ai/run": ("model", "input"), "ai/run/proxy": ("inputs",)}.get(path)
    if below is not None:
        queued = {"anyOf": [_ref("Run"), _ref("Batch"), _ref("Poll")]}
        known = {"model": {"type": "string"}, "input": queued, "inputs": _ref("Run")}
        named = {name: known[name] for name in below}
        return {"type": "object", "required": list(below), "properties": named}
    if target.route == "ai/run":
        return {"anyOf": [_ref("Run"), _ref("Batch"), _ref("Poll")]}
    return _ref(f"{target.route.rsplit('v1/')[-1].split('/')[0]}.Body")


def _schemas() -> dict[str, Any]:
    found: dict[str, Any] = {"Envelope": _ENVELOPE, "Run": published.json_schema(), **_QUEUED}
    for name, body in _BODIES.items():
        template = f"#/components/schemas/{name}.{{name}}"
        _, parts = msgspec.json.schema_components((body,), ref_template=template)
        found |= {f"{name}.{part}": of for part, of in parts.items()}
    return found


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}
