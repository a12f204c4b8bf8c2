"""The description of the admin API, and the API held against it: schemathesis asks what the description allows."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, assume, given, settings
from hypothesis.errors import Unsatisfiable
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from schemathesis import GenerationMode
from schemathesis.core.result import Ok

from tests.control_plane.backend import OPERATOR, Backend, running_backend
from tests.control_plane.conftest import SQLITE


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, new_url: Callable[[str], str]) -> Iterator[Backend]:
    """A backend in a thread of its own, for a client that blocks."""
    loop = asyncio.new_event_loop()
    started: list[Backend] = []
    ready, leave = threading.Event(), asyncio.Event()

    async def run() -> None:
        async with running_backend(new_url("sqlite"), tmp_path_factory.mktemp("backend")) as backend:
            await backend.account("alice")
            started.append(backend)
            ready.set()
            await leave.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()))
    thread.start()
    assert ready.wait(10)
    yield started[0]
    loop.call_soon_threadsafe(leave.set)
    thread.join()
    loop.close()


def has_float(document: Any) -> bool:
    if isinstance(document, dict | list):
        return any(map(has_float, document.values() if isinstance(document, dict) else document))
    return isinstance(document, float)


NOT_ASKED = {"restore_backup", "make_backup", "reconcile"}
"""What takes or gives no document."""


UNSAID = ("expires_at", "since", "until")
"""A schema cannot say that a moment must not be past, which days a month has, and that one day is before another."""


@pytest.mark.timeout(60)
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_every_answer_is_as_described(running: Backend, mode: GenerationMode) -> None:
    """What the description allows is served, what it does not allow is refused, and all answers are as it says."""
    description = schemathesis.openapi.from_url(f"{running.url}/admin/v1/openapi.json")
    asked = 0
    for found in description.get_all_operations():
        assert isinstance(found, Ok)
        operation = found.ok()
        name = operation.definition.raw["operationId"]
        if name in NOT_ASKED:
            continue
        try:
            cases = operation.as_strategy(generation_mode=mode)

            @settings(max_examples=5, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
            @given(cases)
            def ask(case: schemathesis.Case[Any]) -> None:
                nonlocal asked
                assume(not has_float(case.body))  # 7.0 is an integer to JSON Schema; money is written without a point
                for values in (case.query, case.body):
                    if isinstance(values, dict) and mode is GenerationMode.POSITIVE:
                        said = len(values)
                        for unsaid in UNSAID:
                            values.pop(unsaid, None)
                        assume(values or not said)  # a change of nothing is refused
                asked += 1
                case.call_and_validate(headers={"Authorization": f"Bearer {OPERATOR}"})

            ask()
        except Unsatisfiable:
            assert mode is GenerationMode.NEGATIVE  # there is nothing about it that could be wrong
    assert asked > 50


@pytest.mark.parametrize("url", [SQLITE], indirect=True)
async def test_the_description_is_a_schema_that_says_what_there_is(backend: Backend) -> None:
    description = await backend.admin("GET", "/openapi.json")
    assert description["openapi"] == "3.1.0"
    for document in description["components"]["schemas"].values():
        Draft202012Validator.check_schema(document)
    routes = {
        (route.method, route.resource.canonical)
        for route in backend.app.router.routes()
        if route.resource is not None and route.resource.canonical.startswith("/admin/")
    }
    described = {(method.upper(), path) for path, operations in description["paths"].items() for method in operations}
    assert routes == described
    for operations in description["paths"].values():
        for operation in operations.values():
            assert operation["summary"]
    amounts = [
        (name, field)
        for name, document in description["components"]["schemas"].items()
        for field, what in document.get("properties", {}).items()
        if field.endswith("nanodollars") and '"number"' in json.dumps(what)
    ]
    assert amounts == []  # money is whole, everywhere
