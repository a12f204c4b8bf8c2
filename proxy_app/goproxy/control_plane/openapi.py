"""The OpenAPI 3.1 description of the admin API, generated from its operations and their documents."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from inspect import getdoc
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from goproxy import __version__
from goproxy.control_plane.operations import BASE, PATH_PARAMETERS, Operation
from goproxy.control_plane.schemas import Error

_REF = "#/components/schemas/{model}"


def describe(operations: Sequence[Operation]) -> dict[str, Any]:
    """The description, as a document."""
    documents: dict[tuple[type[BaseModel], Literal["validation", "serialization"]], None] = {}
    for operation in operations:
        documents |= {
            (each, "validation"): None for each in (operation.query, operation.body) if isinstance(each, type)
        }
        documents |= {(each, "serialization"): None for each in (operation.answer, Error) if isinstance(each, type)}
    _, found = models_json_schema(list(documents), ref_template=_REF)
    schemas: dict[str, Any] = found["$defs"]
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(BASE + operation.path, {})[operation.method.lower()] = _operation(operation, schemas)
    for operation in operations:
        if operation.query is not None:
            schemas.pop(operation.query.__name__, None)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "goproxy admin API",
            "version": __version__,
            "description": "Accounts, keys, credits, leases and the ledger. Amounts are whole nano-dollars; "
            "whole numbers are written without a decimal point.",
        },
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "securitySchemes": {"operator": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"operator": []}],
    }


def _operation(operation: Operation, schemas: dict[str, Any]) -> dict[str, Any]:
    said = getdoc(operation.act) or ""
    summary, _, description = said.partition("\n\n")
    answers = {str(operation.status): {"description": "done", "content": _content(operation.answer)}}
    for status in _refusals(operation):
        answers[str(status)] = {"description": HTTPStatus(status).phrase, "content": _content(Error)}
    described: dict[str, Any] = {"operationId": operation.name, "summary": summary.rstrip("."), "responses": answers}
    if description:
        described["description"] = " ".join(description.split())
    if parameters := [*_in_path(operation), *_in_query(operation, schemas)]:
        described["parameters"] = parameters
    if isinstance(operation.body, type):
        described["requestBody"] = {"required": True, "content": _content(operation.body)}
    elif operation.body is not None:
        content = {media_type: {"schema": {"type": "string"}} for media_type in operation.body}
        described["requestBody"] = {"required": True, "content": content}
    if operation.is_open:
        described["security"] = []
    return described


def _refusals(operation: Operation) -> list[int]:
    if operation.is_open:
        return []
    possible = {
        400: operation.query is not None or operation.body is not None,
        401: True,
        404: bool(operation.parameters) or operation.conflicts or operation.query is not None,
        408: operation.body is not None,
        409: operation.conflicts,
        413: operation.body is not None,
        503: True,
    }
    return [status for status, is_possible in possible.items() if is_possible]


def _content(content: type[BaseModel] | str | None) -> dict[str, Any]:
    if isinstance(content, str):
        return {content: {"schema": {"type": "string", "format": "binary"}}}
    schema = {"type": "object"} if content is None else {"$ref": _REF.format(model=content.__name__)}
    return {"application/json": {"schema": schema}}


def _in_path(operation: Operation) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "string", "pattern": PATH_PARAMETERS[name]},
        }
        for name in operation.parameters
    ]


def _in_query(operation: Operation, schemas: dict[str, Any]) -> list[dict[str, Any]]:
    if operation.query is None:
        return []
    schema = schemas[operation.query.__name__]
    return [
        {
            "name": name,
            "in": "query",
            "required": name in schema.get("required", ()),
            "schema": _without_null(field),
            "style": "form",
            "explode": False,
        }
        for name, field in schema["properties"].items()
    ]


def _without_null(field: dict[str, Any]) -> dict[str, Any]:
    """A query has no null: a parameter is not there instead."""
    kept: dict[str, Any] = {name: value for name, value in field.items() if name not in ("title", "anyOf", "default")}
    if field.get("default") is not None:
        kept["default"] = field["default"]
    options: list[dict[str, Any]] = [option for option in field.get("anyOf", ()) if option != {"type": "null"}]
    if len(options) == 1:
        return options[0] | kept
    return kept | {"anyOf": options} if options else kept
