"""What is read of a request's body, and that nothing else of it changes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxy.core.request_body import InvalidBody, read_request_body

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def test_model_and_stream_are_read() -> None:
    body = read_request_body(b' {"messages": [{"model": "inner"}], "model" : "m-1" , "stream":true}\n')
    assert (body.model, body.stream) == ("m-1", True)


@pytest.mark.parametrize(("stream", "expected"), [(None, False), (False, False), (True, True)])
def test_stream_may_be_null(stream: bool | None, expected: bool) -> None:
    assert read_request_body(json.dumps({"model": "m", "stream": stream}).encode()).stream is expected


NAMES = st.text(st.characters(codec="utf-8")).filter(lambda name: name not in ("model", "stream"))


@given(st.dictionaries(NAMES, JSON, max_size=5), st.integers(0, 5), NAMES, NAMES, st.booleans())
def test_renaming_the_model_changes_that_value_only(
    others: dict[str, Any], place: int, model: str, wanted: str, ascii_only: bool
) -> None:
    members = [f"\t{json.dumps(name)} : {json.dumps(value)} " for name, value in others.items()]
    members.insert(place, f'\r\n"model":  {json.dumps(model, ensure_ascii=ascii_only)}  ')
    text = "{" + ",".join(members) + "}\n"
    members[min(place, len(others))] = f'\r\n"model":  {json.dumps(wanted, ensure_ascii=False)}  '
    assert read_request_body(text.encode()).naming(wanted) == ("{" + ",".join(members) + "}\n").encode()


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        body = read_request_body(data)
    except InvalidBody:
        return
    assert json.loads(data)["model"] == body.model


@given(JSON | st.fixed_dictionaries({"model": JSON}, optional={"x": JSON}))
def test_any_json_is_understood(document: Any) -> None:
    data = json.dumps(document).encode()
    if isinstance(document, dict) and isinstance(document.get("model"), str) and "stream" not in document:
        assert read_request_body(data).model == document["model"]
    else:
        with pytest.raises(InvalidBody, match=r"must be|is required"):
            read_request_body(data)


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"", "must be a JSON object"),
        (b"[]", "must be a JSON object"),
        (b'"model"', "must be a JSON object"),
        (b"hello", "not valid JSON"),
        (b'{"model": "m"', "not valid JSON"),
        (b'{"model" "m"}', "not valid JSON"),
        (b'{"model": "m",}', "not valid JSON"),
        (b'{"model": "m"} x', "not valid JSON"),
        (b"{} {}", "not valid JSON"),
        (b'{model: "m"}', "not valid JSON"),
        (b'{"model": "\xff"}', "UTF-8"),
        ('{"model": "m"}'.encode("utf-16"), "UTF-8"),
        (b"{}", "model: this field is required"),
        (b'{"messages": [{"model": "m"}]}', "model: this field is required"),
        (b'{"model": null}', "model: this field must be a string"),
        (b'{"model": ["m"]}', "model: this field must be a string"),
        (b'{"model": "m", "stream": "yes"}', "stream: this field must be true or false"),
        (b'{"model": "m", "stream": 1}', "stream: this field must be true or false"),
        (b'{"model": "cheap", "model": "dear"}', "same field twice"),
        (b'{"model": "cheap", "mod\\u0065l": "dear"}', "same field twice"),
        (b'{"model": "m", "x": ' + b"[" * 100_000 + b"}", "nested too deeply"),
        (b'{"model": "m", "x": ' + b"9" * 5000 + b"}", "too many digits"),
    ],
)
def test_what_cannot_be_sent_is_refused_and_not_quoted(body: bytes, complaint: str) -> None:
    with pytest.raises(InvalidBody, match=complaint) as refused:
        read_request_body(body)
    assert "dear" not in str(refused.value)
