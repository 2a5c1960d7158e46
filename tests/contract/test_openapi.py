"""The document at `/openapi.json`, and the service held against it."""

from __future__ import annotations

import json
from typing import Any

import httpx
import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, settings

from serving.gateway import openapi
from serving.gateway.routes import ROUTES, USER_ROUTES
from tests.contract.conftest import Running
from tests.contract.requests import SAY
from tests.gateway.conftest import ACCOUNT, MODEL, TOKEN

DOCUMENT: Any = json.loads(openapi.document())
CHECKS = [
    schemathesis.checks.not_a_server_error,
    schemathesis.checks.status_code_conformance,
    schemathesis.checks.content_type_conformance,
    schemathesis.checks.response_schema_conformance,
]


def test_the_document_needs_no_token(service: Running) -> None:
    response = httpx.get(f"{service.place.host}/openapi.json")
    assert response.json() == DOCUMENT


def test_every_route_and_verb_is_in_the_document() -> None:
    described = {
        (path.split("/client/v4/", 1)[1].replace("{model}", ""), verb.upper())
        for path, item in DOCUMENT["paths"].items()
        for verb in item.keys() - {"parameters"}
    }
    served = {
        (f"accounts/{{account_id}}/{path}", verb)
        for path, verbs in ROUTES.items()
        for verb in verbs
    }
    served |= {(f"user/{path}", verb) for path, verbs in USER_ROUTES.items() for verb in verbs}
    assert described == served


def test_every_schema_is_one_and_every_reference_leads_somewhere() -> None:
    for shape in DOCUMENT["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(shape)
    text = json.dumps(DOCUMENT)
    for name in {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}:
        assert name in DOCUMENT["components"]["schemas"]


@pytest.mark.parametrize(
    ("route", "fields"),
    [
        ("chat", {"messages": SAY}),
        ("completions", {"prompt": "hi"}),
        ("responses", {"input": "hi"}),
        ("messages", {"messages": SAY, "max_tokens": 9}),
    ],
)
def test_what_clients_send_meets_the_document(route: str, fields: dict[str, Any]) -> None:
    reference = {"$ref": f"#/components/schemas/{route}.Body"}
    validator = jsonschema.Draft202012Validator({**reference, "components": DOCUMENT["components"]})
    validator.validate({"model": MODEL, **fields})
    assert not validator.is_valid({"model": MODEL, **fields, "temperature": 9})


schema = schemathesis.openapi.from_dict(DOCUMENT)


def held(case: Any, service: Running) -> None:
    """Send a case, with our account and mostly our model, and hold the answer to the document."""
    if "account_id" in case.path_parameters:
        case.path_parameters["account_id"] = ACCOUNT
    if "model" in case.path_parameters and len(case.path_parameters["model"]) % 4:
        case.path_parameters["model"] = MODEL
    if isinstance(case.body, dict) and "model" in case.body:
        case.body["model"] = MODEL
    case.headers = {**(case.headers or {}), "authorization": f"Bearer {TOKEN}"}
    response = case.call(base_url=service.place.host)
    case.validate_response(response, checks=CHECKS)


@schema.parametrize()
@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_service_keeps_to_the_document(case: Any, service: Running) -> None:
    held(case, service)


@pytest.mark.slow
@schema.parametrize()
@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_service_keeps_to_the_document_at_length(case: Any, service: Running) -> None:
    held(case, service)
