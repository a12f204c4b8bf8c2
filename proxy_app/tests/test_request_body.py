"""What is read of a request's body, how much input it can come to, and that nothing else of it changes."""

from __future__ import annotations

import gc
import json
import math
from contextlib import nullcontext, suppress
from dataclasses import replace
from time import thread_time
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from goproxy.core import request_body
from goproxy.core.input_estimate import (
    IMAGE_TOKENS,
    LARGEST_IMAGE_TOKENS,
    OPENING_FIELDS,
    READ_WITHIN,
    REMOTE_TOKENS,
    SEARCHES,
    TOOL_TOKENS,
    TOOLS_TOKENS,
)
from goproxy.core.protocols import ANTHROPIC
from goproxy.core.request_body import READ_FIELDS, InvalidBody, RequestBody, _scan, read_request_body

FIELDS = {name.casefold() for name in (*READ_FIELDS, *OPENING_FIELDS, *READ_WITHIN, "include_usage")}
NAMES = st.text(st.characters(codec="utf-8")).filter(lambda name: name.casefold() not in FIELDS)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


def test_model_and_stream_are_read() -> None:
    body = read_request_body(b' {"messages": [{"model": "inner"}], "model" : "m-1" , "stream":true}\n')
    assert (body.model, body.stream) == ("m-1", True)


@pytest.mark.parametrize(("stream", "expected"), [(None, False), (False, False), (True, True)])
def test_stream_may_be_null(stream: bool | None, expected: bool) -> None:
    assert read_request_body(json.dumps({"model": "m", "stream": stream}).encode()).stream is expected


READ = ("model", "stream", "stream_options", "n", "max_tokens", "max_completion_tokens")


@given(st.dictionaries(NAMES, JSON, max_size=5), st.integers(0, 5), NAMES, NAMES, st.booleans())
def test_renaming_the_model_changes_that_value_only(
    others: dict[str, Any], place: int, model: str, wanted: str, ascii_only: bool
) -> None:
    members = [f"\t{json.dumps(name)} : {json.dumps(value)} " for name, value in others.items()]
    members.insert(place, f'\r\n"model":  {json.dumps(model, ensure_ascii=ascii_only)}  ')
    assume(wanted != model)
    text = "{" + ",".join(members) + "}\n"
    members[min(place, len(others))] = f'\r\n"model":  {json.dumps(wanted, ensure_ascii=False)}  '
    assert read_request_body(text.encode()).sent_as(wanted) == ("{" + ",".join(members) + "}\n").encode()


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        body = read_request_body(data)
    except InvalidBody:
        return
    assert json.loads(data)["model"] == body.model


@given(st.dictionaries(st.sampled_from((*READ, "x", "messages")), JSON | st.just(True) | st.just("m")), st.booleans())
def test_it_is_read_alike_however_it_is_written(document: dict[str, Any], repeats: bool) -> None:
    """Without spaces orjson reads it, with spaces it is walked."""
    written = json.dumps(document, separators=(",", ":"), ensure_ascii=False)
    if repeats and document:
        written = "{" + ",".join([written[1:-1]] * 2) + "}"
    ends: list[object] = []
    for text in (written, written.replace("{", "{ ", 1)):
        try:
            body = read_request_body(text.encode(errors="surrogatepass"))
            ends.append(
                (
                    replace(body, body=b"", estimated_input_tokens=0, most_input_tokens=0, places=None),
                    body.estimated_input_tokens - len(text.encode()),
                    body.most_input_tokens - len(text.encode()),
                )
            )
        except InvalidBody as error:
            ends.append(str(error).rpartition(" at ")[0] or str(error))
    assert ends[0] == ends[1]


INPUT = st.fixed_dictionaries(
    {"model": JSON},
    optional=dict.fromkeys(("x", "messages", "tools", "context_management", "mcp_servers", "system"), JSON),
)


@given(JSON | INPUT)
def test_any_json_is_understood(document: Any) -> None:
    data = json.dumps(document).encode()
    if isinstance(document, dict) and isinstance(document.get("model"), str):
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
        (b'{"model": "m", "stream_options": true}', "stream_options: this field must be an object"),
        (b'{"model": "m", "stream_options": []}', "stream_options: this field must be an object"),
        (b'{"model": "m", "stream_options": {"include_usage": 1}}', "stream_options.include_usage: this field must be"),
        (
            b'{"model": "m", "stream_options": {"include_usage": false, "include_usage": true}}',
            "same field twice within it",
        ),
        (b'{"model": "m", "max_tokens": -1}', "max_tokens: this field must be an integer"),
        (b'{"model": "m", "max_tokens": true}', "max_tokens: this field must be an integer"),
        (b'{"model": "m", "max_tokens": 1e3}', "max_tokens: this field must be an integer"),
        (b'{"model": "m", "max_tokens": "9"}', "max_tokens: this field must be an integer"),
        (b'{"model": "m", "max_completion_tokens": 1.5}', "max_completion_tokens: this field must be an integer"),
        (b'{"model": "m", "n": 0}', "n: this field must be an integer that is not below 1"),
        (b'{"model": "m", "n": [2]}', "n: this field must be an integer"),
        (b'{"model": "m", "n": 1025}', "n: this field must be an integer that is not above 1024"),
        (b'{"model": "m", "candidate_count": 10000000000000000}', "candidate_count: this field must be an integer"),
        (b'{"model": "m", "maxOutputTokens": "9"}', "maxOutputTokens: this field must be an integer"),
        (b'{"model": "m", "fallbacks": ["dear"]}', "fallbacks: a request is paid by its model here"),
        (b'{"model": "m", "models": ["dear"]}', "models: a request is paid by its model here"),
        (b'{"model": "m", "mock_testing_fallbacks": true}', "mock_testing_fallbacks: a request is paid"),
        (b'{"model": "m", "router_settings_override": {"fallbacks": ["dear"]}}', "router_settings_override: a request"),
        (b'{"model": "m", "user_config": {"model_list": []}}', "user_config: a request is paid by its model here"),
        (b'{"model":"m","extra_body":{"user_config":{}}}', "extra_body.user_config: this field must stand at the top"),
        (b'{"model": "m", "additional_drop_params": ["max_tokens"]}', "additional_drop_params: a request is held for"),
        (
            b'{"model": "m", "extra_body": {"router_settings_override": {}}}',
            "extra_body.router_settings_override",
        ),
        (b'{"model": "m", "Model": "dear"}', "model: this field must be written like this"),
        (b'{"MODEL":"dear"}', "model: this field must be written like this"),
        (b'{"model":"m","MAX_TOKENS":9}', "max_tokens: this field must be written like this"),
        (b'{"model": "m", "Fallbacks": ["dear"]}', "fallbacks: this field must be written like this"),
        (b'{"model":"m","maxoutputtokens":9}', "maxOutputTokens: this field must be written like this"),
        ('{"model":"m","max_to\u212aen\u017f":9}'.encode(), "max_tokens: this field must be written like this"),
        (b'{"model":"m","Web_Search_Options":{}}', "web_search_options: this field must be written like this"),
        (
            b'{"model":"m","tools":[{"type":"advisor_20260301","model":"dear"}]}',
            "tools.model: a request is paid by its",
        ),
        (b'{"model": "m", "tools": [{"type": "x"}, {"model": ["dear"]}]}', "tools.model: a request is paid by its"),
        (b'{"model":"m","tools":[{"type":"openrouter:advisor"}]}', "tools.type: a request is paid by its model here"),
        (b'{"model":"m","tools":[{"type":"openrouter:image_generation"}]}', "tools.type: a request is paid by its"),
        (b'{"model": "m", "plugins": [{"id": "web"}, {"id": "fusion"}]}', "plugins.id: a request is paid by its model"),
        (b'{"model": "m", "plugins": {"id": ["web"]}}', "plugins.id: a request is paid by its model here"),
        (b'{"model": "m", "extra_body": {"plugins": []}}', "extra_body.plugins: this field must stand at the top"),
        (b'{"model": "m", "preset": "dear"}', "preset: a request is paid by its model here"),
        (b'{"model": "m", "deployment_id": "dear"}', "deployment_id: a request is paid by its model here"),
        (b'{"model": "m", "custom_llm_provider": "azure"}', "custom_llm_provider: a request is paid by its model"),
        (b'{"model": "m", "model_id": "dear"}', "model_id: a request is paid by its model here"),
        (b'{"model": "m", "maxTokens": "9"}', "maxTokens: this field must be an integer"),
        (b'{"model": "m", "num_retries": 12}', "num_retries: how a request is sent is not for the client to say"),
        (b'{"model": "m", "timeout": 0}', "timeout: how a request is sent is not for the client to say here"),
        (b'{"model": "m", "extra_headers": {}}', "extra_headers: how a request is sent is not for the client to say"),
        (b'{"model": "m", "headers": {"x": "y"}}', "headers: how a request is sent is not for the client to say here"),
        (b'{"model":"m","provider_specific_header":{"extra_headers":{}}}', "provider_specific_header: how a request"),
        (b'{"model": "m", "request_timeout": 1}', "request_timeout: how a request is sent is not for the client to"),
        (b'{"model": "m", "max_retries": 4}', "max_retries: how a request is sent is not for the client to say here"),
        (b'{"model": "m", "force_timeout": 1}', "force_timeout: how a request is sent is not for the client to say"),
        (b'{"model": "m", "retry_policy": {}}', "retry_policy: how a request is sent is not for the client to say"),
        (b'{"model":"m","extra_body":{"request_timeout":1}}', "extra_body.request_timeout: this field must stand at"),
        (b'{"model":"m","context_window_fallback_dict":{"m":"dear"}}', "context_window_fallback_dict: a request is"),
        (b'{"model": "m", "extra_body": {"serviceTier": {}}}', "extra_body.serviceTier: this field must stand at the"),
        (b'{"model":"m","response_format":{"enforce_validation":true}}', "response_format.enforce_validation: how a"),
        (b'{"model":"m","stream_options":{"Include_Usage":false}}', "stream_options.include_usage: this field must be"),
        (b'{"model": "m", "service_tier": 7}', "service_tier: this field must be a string"),
        (b'{"model": "m", "speed": ["dear"]}', "speed: this field must be a string"),
        (b'{"model":"m","Service_Tier":"dear"}', "service_tier: this field must be written like this"),
        (b'{"model": "m", "extra_body": {"speed": "dear"}}', "extra_body.speed: this field must stand at the top"),
        (b'{"model": "m", "extra_body": {"model": "dear"}}', "extra_body.model: this field must stand at the top"),
        (b'{"model": "m", "generationConfig": {"maxOutputTokens": 9}}', "generationConfig.maxOutputTokens: this field"),
        (b'{"model": "cheap", "model": "dear"}', "same field twice"),
        (b'{"model": "cheap", "mod\\u0065l": "dear"}', "same field twice"),
        (b'{"model":"m","messages":[{"content":[{"type":"image"}],"content":"x"}]}', "same field twice within it"),
        (b'{"model":"m","messages":[{"content":"x", "cont\\u0065nt":[]}]}', "same field twice within it"),
        (b'{"model":"m","tools":[{"type":"web_search","type":"function"}]}', "same field twice within it"),
        (b'{"model":"m","x":"\\ud800","messages":[{"content":[],"content":"x"}]}', "same field twice within it"),
        (b'{"model": "m", "x": ' + b"[" * 100_000 + b"}", "nested too deeply"),
        (b'{"model":"m","x":' + b"[" * 300 + b"]" * 300 + b', "x": 1}', "same field twice"),
        (b'{"model":"m","x":[' + b'{"":0},' * 50_000 + b"0]}", "more than 100,000 values"),
        (b'{"model":"m","x":"' + b"," * 100_000 + b'", "y":[' + b"{}," * 50_000 + b"0]}", "more than 100,000 values"),
        (b'{"model":"m"' + b"".join(b',"k%d":0' % number for number in range(256)) + b"}", "more than 256 fields at"),
        (b'{"model": "m"' + b"".join(b',"k%d":0' % number for number in range(256)) + b"}", "more than 256 fields at"),
        (
            b'{"model":"m","stream_options": {' + b",".join(b'"k%d":0' % number for number in range(257)) + b"}}",
            "more than 256 fields in stream_options",
        ),
        (b'{"model": "m", "x": ' + b"9" * 5000 + b"}", "too many digits"),
    ],
)
def test_what_cannot_be_sent_is_refused_and_not_quoted(body: bytes, complaint: str) -> None:
    with pytest.raises(InvalidBody, match=complaint) as refused:
        read_request_body(body)
    assert "dear" not in str(refused.value)


def read(**fields: Any) -> RequestBody:
    """What is read of a body with these fields."""
    return read_request_body(json.dumps({"model": "m", **fields}).encode())


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ({}, None),
        ({"max_tokens": None, "max_completion_tokens": None}, None),
        ({"max_tokens": 100}, 100),
        *(({name: 0}, None) for name in ("max_tokens", "max_completion_tokens")),
        ({"max_tokens": 0, "max_completion_tokens": 1}, None),
        ({"max_tokens": 1, "max_completion_tokens": 0}, None),
        ({"max_tokens": 1, "max_output_tokens": 0}, None),
        ({"max_tokens": 1, "max_output_tokens": 0, "maxTokens": 2}, None),
        ({"max_tokens": 100, "max_completion_tokens": 200}, 200),
        ({"max_tokens": 300, "max_completion_tokens": None}, 300),
        ({"max_tokens": 1, "max_output_tokens": 200, "maxOutputTokens": None}, 200),
        ({"maxOutputTokens": 300}, None),  # whether it is obeyed is not known
        ({"max_tokens": 100, "extra_body": {"top_k": 3}, "fallbacks": [], "models": None}, 100),
    ],
)
def test_the_limit_on_the_output_is_read(fields: dict[str, Any], limit: int | None) -> None:
    assert read(**fields).max_output_tokens == limit


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ({"max_completion_tokens": 1}, None),
        ({"max_tokens": 0, "max_completion_tokens": 1}, None),
        ({"max_tokens": 100, "max_completion_tokens": 1}, 100),
        ({"max_tokens": 1, "max_completion_tokens": 100}, 100),
    ],
)
def test_messages_have_one_field_that_bounds_an_answer(fields: dict[str, Any], limit: int | None) -> None:
    """What a gateway may go by all the same counts where it asks for more."""
    body = json.dumps({"model": "m", **fields}).encode()
    assert read_request_body(body, ANTHROPIC.limits).max_output_tokens == limit


@pytest.mark.parametrize(("n", "choices"), [(None, 1), (1, 1), (8, 8)])
def test_choices_are_counted(n: int | None, choices: int) -> None:
    assert read().choices == 1
    assert read(n=n).choices == choices
    assert read(candidate_count=n).choices == read(n=1, candidateCount=n).choices == choices


@pytest.mark.parametrize(
    ("fields", "terms"),
    [
        ({}, {}),
        ({"service_tier": None, "speed": None, "inference_geo": None}, {}),
        ({"service_tier": "auto", "n": 1}, {"service_tier": "auto"}),
        ({"speed": "fast", "inference_geo": "us"}, {"speed": "fast", "inference_geo": "us"}),
    ],
)
def test_terms_are_read(fields: dict[str, Any], terms: dict[str, str]) -> None:
    assert read(**fields).terms == terms


def test_fields_that_are_not_read_may_be_written_in_any_case() -> None:
    assert read(Temperature=1, topP=1, ſystem="x", generationConfig={"topK": 3}).model == "m"


DOCUMENT = {"type": "document", "source": {"type": "url", "url": "https://example.com/dear.pdf"}}
ADDED = {"type": "tool_addition", "tool": {"type": "tool_definition", "definition": {"Type": "web_search_20250305"}}}


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"messages": [{"role": "user", "Content": [DOCUMENT]}]}, "content"),
        ({"messages": [{"role": "user", "content": "x"}, {"role": "user", "content": "x", "CONTENT": []}]}, "content"),
        ({"messages": {"role": "user", "content": "x", "Content": []}}, "content"),
        ({"messages": [{"role": "assistant", "content": "x", "Audio": {"id": "audio_1"}}]}, "audio"),
        *(
            ({"messages": [{"role": "user", "content": [block]}]}, name)
            for block, name in (
                ({"type": "text", "text": "x", "Type": "document"}, "type"),
                ({"type": "document", "source": {"type": "text", "data": "x", "Type": "url"}}, "type"),
                ({"type": "document", "source": {"type": "text", "data": "x"}, "\u017fource": {}}, "source"),
                ({"type": "document", "source": {"type": "content", "content": "x", "Content": [DOCUMENT]}}, "content"),
                ({"type": "image_url", "image_url": {"url": "data:image/png;base64,AA", "URL": "x.mp4"}}, "url"),
                ({"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}, "Image_Url": ""}, "image_url"),
                ({"type": "tool_result", "content": [{"type": "text", "TYPE": "image"}]}, "type"),
                (ADDED, "type"),
                ({"type": "tool_addition", "tool": {"Definition": {}}}, "definition"),
                ({"type": "compaction", "tool_changes": [{"type": "tool_addition", "Tool": {}}]}, "tool"),
            )
        ),
        ({"input": [{"type": "message", "role": "user", "content": "x", "Content": [DOCUMENT]}]}, "content"),
        ({"input": [{"type": "function_call_output", "output": "x", "Output": [DOCUMENT]}]}, "output"),
        ({"tools": [{"type": "function", "function": {"name": "f"}, "Type": "web_search"}]}, "type"),
        ({"tools": [{"name": "f", "input_schema": {}}, {"type": "custom", "Model": "dear"}]}, "model"),
        ({"tools": [{"type": "function", "googlesearch": {}}]}, "googleSearch"),
        ({"tools": [{"type": "namespace", "tools": [{"type": "function", "Type": "mcp"}]}]}, "type"),
        ({"tools": [{"type": "shell", "environment": {"type": "local", "Type": "container"}}]}, "type"),
    ],
)
@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_names_within_in_another_case_are_refused(
    fields: dict[str, Any], name: str, separators: tuple[str, str], ascii_only: bool
) -> None:
    """Upstreams in Go would read these, or the later ones of them."""
    body = json.dumps({"model": "m", **fields}, separators=separators, ensure_ascii=ascii_only)
    for written in (body, body.replace('"C', '"\\u0043')):
        with pytest.raises(InvalidBody, match=f"^{name}: this field must be written like this") as refused:
            read_request_body(written.encode())
        assert "dear" not in str(refused.value)


@pytest.mark.parametrize("text", ["a", "\\ud800"])
def test_a_name_that_folds_is_refused_however_the_body_is_read(text: str) -> None:
    """orjson does not read a half of a surrogate pair; Go folds the long s of old prints to an s."""
    source = '"source":{"type":"text","data":"x"},"\u017fource":{"type":"url","url":"https://a.example/b.pdf"}'
    content = f'[{{"type":"text","text":"{text}"}},{{"type":"document",{source}}}]'
    body = f'{{"model":"m","messages":[{{"role":"user","content":{content}}}]}}'
    with pytest.raises(InvalidBody, match=r"^source: this field must be written like this"):
        read_request_body(body.encode())


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_a_clients_own_names_may_be_written_in_any_case(separators: tuple[str, str]) -> None:
    own = {"Type": "x", "CONTENT": [DOCUMENT], "Source": {"TYPE": 1}, "Model": "m"}
    schema = {"type": "object", "properties": {name: {"type": "string"} for name in own}}
    document = {
        "model": "m",
        "messages": [
            {"role": "user", "content": json.dumps(own), "Custom": own},
            {"role": "assistant", "content": [{"type": "tool_use", "name": "Type", "input": own}]},
            {"role": "tool", "content": '"Content":', "tool_calls": [{"Type": "function"}]},
        ],
        "tools": [
            {"name": "f", "input_schema": schema},
            {"type": "function", "function": {"name": "g", "parameters": schema, "Type": 1}},
        ],
        "metadata": own,
    }
    body = read_request_body(json.dumps(document, separators=separators).encode())
    assert not body.has_remote_input


def test_what_is_too_deep_to_be_written_again_is_read() -> None:
    document = {"model": "m", "x": json.loads("[" * 500 + "]" * 500)}
    assert read_request_body(json.dumps(document).encode()).model == "m"
    assert read_request_body(json.dumps(document, separators=(",", ":")).encode()).model == "m"


@pytest.mark.parametrize(
    "text", ["one, two, three; ", '{"a": [1, 2]},\n', "\\\\", '\\\\",[{', "\\u00fc,[", "ü,日本[\U0001f30d{"]
)
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_what_stands_in_text_is_no_value(text: str, separators: tuple[str, str]) -> None:
    document = {"model": "ü", "messages": [{"role": "user", "content": text * 200_000}], "ü": {}}
    for ascii_only in (True, False):
        body = json.dumps(document, separators=separators, ensure_ascii=ascii_only).encode()
        assert json.loads(read_request_body(body).sent_as("m")) == document | {"model": "m"}


@given(st.lists(st.text(st.sampled_from('"\\,[{n/ü ')) | st.integers(0, 9) | st.just([]), max_size=9))
def test_values_are_counted_exactly(values: list[Any]) -> None:
    others = 4 + 1 + max(len(values) - 1, 0) + values.count([])
    for count, fits in ((100_000, True), (100_001, False)):
        document = {"model": "m", "text": "," * 100_000, "x": values, "y": [1] * (count - others)}
        with nullcontext() if fits else pytest.raises(InvalidBody, match="more than 100,000 values"):
            assert read_request_body(json.dumps(document).encode()).model == "m"


HEAVY = {
    "names": b'{ "k0":0' + b"".join(b',"k%d":0' % number for number in range(1, 990_000)) + b',"model":"m"}',
    "fewer names": b'{ "k0":0' + b"".join(b',"k%d":0' % number for number in range(1, 20_000)) + b',"model":"m"}',
    "names of the options": b'{ "model":"m","stream_options":{"k":0'
    + b"".join(b',"k%d":0' % number for number in range(990_000))
    + b"}}",
    "blocks": b'{ "model":"m","messages":[{"content":[' + b'{"content":{"content":{}}},' * 240_000 + b"{}]}]}",
    "fewer blocks": b'{ "model":"m","messages":[{"content":[' + b'{"content":{"content":{}}},' * 24_000 + b"{}]}]}",
    "numbers": b'{ "model":"m","x":[' + b"0.1234567," * 990_000 + b"0]}",
}


@pytest.mark.parametrize("body", HEAVY.values(), ids=HEAVY)
def test_no_body_of_many_parts_halts_everything(body: bytes) -> None:
    """On a slow machine neither: each takes a tenth of this."""
    gc.disable()  # in a proxy it runs rarely
    begun = thread_time()
    with suppress(InvalidBody):
        read_request_body(body).sent_as("dear", asking_for_usage=True)
    taken = thread_time() - begun
    gc.enable()
    assert taken < 0.25


def test_a_body_is_walked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    scanned: list[str] = []

    def scan(text: str, at: int) -> tuple[Any, int]:
        value, end = _scan(text, at)
        scanned.append(text[at:end])
        return value, end

    monkeypatch.setattr(request_body, "_scan", scan)
    body = read_request_body(b'{"messages": ["long"], "model": "m", "stream": true, "stream_options": {"x": ["y"]}}')
    assert b'"model": "dear"' in body.sent_as("dear", asking_for_usage=True)
    assert scanned.count('["long"]') == 1


def test_messages_of_more_blocks_than_are_looked_at_are_refused() -> None:
    """Among the others there may be anything."""
    assert content(*[{"type": "text", "text": "x"}] * 25_000) == (0, False)
    with pytest.raises(InvalidBody, match="more than 25,000 blocks"):
        content(*[{"type": "text", "text": "x"}] * 25_001)


WISH = '"include_usage":true'


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('{ "model" : "m", "stream":true }', '{ "model" : "m","stream_options":{%s}, "stream":true }'),
        ('{"stream":true,"model":"m"}', '{"stream":true,"model":"m","stream_options":{%s}}'),
        ('{"stream_options": null ,"model":"m","stream":true}', '{"stream_options": {%s} ,"model":"m","stream":true}'),
        ('{"model":"m","stream_options":{ },"stream":true}', '{"model":"m","stream_options":{%s },"stream":true}'),
        (
            '{"stream_options": {"ü" : 1},"model":"m","stream":true}',
            '{"stream_options": {%s,"ü" : 1},"model":"m","stream":true}',
        ),
        (
            '{"stream_options":{"x":{"include_usage":true},"include_usage" : false },"stream":true,"model":"m"}',
            '{"stream_options":{"x":{"include_usage":true},"include_usage" : true },"stream":true,"model":"m"}',
        ),
        (
            '{"stream":true,"model":"m","stream_options":{"include\\u005fusage":null}}',
            '{"stream":true,"model":"m","stream_options":{"include\\u005fusage":true}}',
        ),
    ],
)
def test_usage_is_asked_for_where_it_stands(before: str, after: str) -> None:
    body = read_request_body(before.encode())
    assert body.lacks_usage
    expected = after.replace("%s", WISH)
    assert body.sent_as("m", asking_for_usage=True) == expected.encode()
    assert body.sent_as("dear", asking_for_usage=True) == expected.replace('"m"', '"dear"').encode()
    assert body.sent_as("dear") == before.replace('"m"', '"dear"').encode()
    asking = read_request_body(expected.encode())
    assert not asking.lacks_usage
    assert asking.sent_as("m", asking_for_usage=True) is asking.body


@pytest.mark.parametrize(
    "text",
    [
        '{"model":"m"}',
        '{"model":"m","stream":false,"stream_options":{"include_usage":false}}',
        '{"model":"m","stream":true,"stream_options":{"include_usage":true}}',
    ],
)
def test_a_body_that_asks_already_or_is_no_stream_stays_as_it_is(text: str) -> None:
    body = read_request_body(text.encode())
    assert body.sent_as("m", asking_for_usage=True) is body.body
    assert body.body == text.encode()


@given(
    st.dictionaries(NAMES, JSON, max_size=4),
    st.dictionaries(NAMES, JSON, max_size=3) | st.none(),
    st.permutations("mso"),
)
def test_asking_for_usage_adds_nothing_else(others: dict[str, Any], options: dict[str, Any] | None, order: str) -> None:
    read_fields: dict[str, dict[str, Any]] = {
        "m": {"model": "m"},
        "s": {"stream": True},
        "o": {"stream_options": options},
    }
    document = others | {name: value for key in order for name, value in read_fields[key].items()}
    asking = document | {"stream_options": {**(options or {}), "include_usage": True}}
    for separators in ((", ", ": "), (",", ":")):
        body = json.dumps(document, separators=separators, ensure_ascii=False).encode()
        read = read_request_body(body)
        assert json.loads(read.sent_as("m", asking_for_usage=True)) == asking
        assert json.loads(read.sent_as("ü", asking_for_usage=True)) == asking | {"model": "ü"}


BASE64 = "iVBORw0KGgo" * 500
PNG = f"data:image/png;base64,{BASE64}"
PACKED = {"type": "base64", "media_type": "image/png", "data": BASE64}


def fetched(document: dict[str, Any]) -> dict[str, Any]:
    """A document that the provider's tool fetched, as a client sends it again with the conversation."""
    return {"type": "web_fetch_tool_result", "content": {"type": "web_fetch_result", "content": document}}


def estimate(**fields: Any) -> tuple[int, bool]:
    """The estimate of a body with these fields, less what it has in bytes; and whether it is open."""
    body = read(**fields)
    return body.estimated_input_tokens - len(body.body), body.has_remote_input


def content(*blocks: Any, **fields: Any) -> tuple[int, bool]:
    """The same of a message with these blocks."""
    return estimate(messages=[{"role": "user", "content": list(blocks)}], **fields)


def test_text_counts_by_its_bytes() -> None:
    assert estimate(messages=[{"role": "user", "content": "Grüße \U0001f30d"}]) == (0, False)
    assert content({"type": "text", "text": "x"}, "y", None, 7) == (0, False)
    body = read_request_body('{"model":"m","x":"ü"}'.encode())
    assert body.estimated_input_tokens == 22


@pytest.mark.parametrize("kind", ["tool_use", "thinking", "tool_result", "search_result", "web_search_tool_result"])
def test_blocks_of_words_count_by_their_bytes_whatever_they_look_like(kind: str) -> None:
    assert content({"type": kind, "source": PACKED, "input": {"type": "image", "source": PACKED}}) == (0, False)


@pytest.mark.parametrize(
    ("block", "packed"),
    [
        ({"type": "image", "source": PACKED}, BASE64),
        ({"type": "image_url", "image_url": {"url": PNG, "detail": "high"}}, PNG),
        ({"type": "image_url", "image_url": PNG}, PNG),
        ({"type": "tool_result", "content": [{"type": "text"}, {"type": "image", "source": PACKED}]}, BASE64),
        (
            {"type": "document", "source": {"type": "content", "content": [{"type": "image", "source": PACKED}]}},
            BASE64,
        ),
    ],
)
def test_an_image_counts_as_an_image(block: dict[str, Any], packed: str) -> None:
    assert content(block, block) == (2 * (IMAGE_TOKENS - len(packed)), False)


@pytest.mark.parametrize(
    ("block", "is_larger"),
    [
        ({"type": "image", "source": PACKED}, False),
        ({"type": "image", "source": PACKED, "detail": "original"}, False),
        ({"type": "image_url", "image_url": PNG}, True),
        ({"type": "image_url", "image_url": {"url": PNG}}, True),
        ({"type": "image_url", "image_url": {"url": PNG}, "detail": "low"}, True),
        ({"type": "image_url", "image_url": {"url": PNG, "detail": "auto"}}, True),
        ({"type": "image_url", "image_url": {"url": PNG, "detail": "low"}}, False),
        ({"type": "input_image", "image_url": PNG, "detail": "original"}, True),
        ({"type": "input_image", "image_url": PNG, "detail": ["high"]}, True),
        ({"type": "input_image", "image_url": PNG, "detail": "high"}, False),
        ({"type": "text", "text": "x"}, False),
    ],
)
def test_more_is_held_for_an_image_that_is_taken_as_it_is(block: dict[str, Any], is_larger: bool) -> None:
    body = read(messages=[{"role": "user", "content": [block, block]}])
    beyond = 2 * (LARGEST_IMAGE_TOKENS - IMAGE_TOKENS) if is_larger else 0
    assert body.most_input_tokens == body.estimated_input_tokens + beyond


@pytest.mark.parametrize(
    ("block", "packed"),
    [
        ({"type": "image", "source": {"type": "url", "url": "https://example.com/x.png"}}, ""),
        ({"type": "image", "source": {"type": "file", "file_id": "file_1"}}, ""),
        ({"type": "image_url", "image_url": {"url": "https://example.com/x.png"}}, ""),
        ({"type": "image_url", "image_url": {"url": "data:application/pdf;base64,AAAA"}}, ""),
        ({"type": "image_url", "image_url": {"url": PNG, "format": "video/mp4"}}, ""),
        ({"type": "image", "source": PACKED | {"media_type": "video/mp4"}}, ""),
        ({"type": "document", "source": {**PACKED, "media_type": "application/pdf"}}, BASE64),
        ({"type": "document", "source": {"type": "url", "url": "https://example.com"}}, ""),
        ({"type": "document"}, ""),
        ({"type": "file", "file": {"file_data": PNG}}, PNG),
        ({"type": "file", "file": {"file_id": "file_1"}}, ""),
        ({"type": "input_audio", "input_audio": {"data": BASE64, "format": "wav"}}, BASE64),
        ({"type": "container_upload", "file_id": "file_1"}, ""),
        ({"type": "video_url", "video_url": {"url": PNG}}, ""),
        ({"type": 7}, ""),
        ({}, ""),
        ({"stdout": "", "video_url": "https://example.com/x.mp4"}, ""),
        ({"type": "tool_result", "content": [{"type": "image", "source": {"type": "url"}}]}, ""),
        (fetched({"type": "document", "source": {**PACKED, "media_type": "application/pdf"}}), BASE64),
    ],
)
def test_what_the_body_does_not_bound_is_left_to_the_context(block: dict[str, Any], packed: str) -> None:
    image = block.get("type") in ("image", "image_url", "tool_result")
    assert content(block) == ((IMAGE_TOKENS if image else REMOTE_TOKENS) - len(packed), True)


def test_a_document_of_text_counts_by_its_bytes() -> None:
    document = {"type": "document", "source": {"type": "text", "data": "x" * 100}}
    assert content(document) == content(fetched(document)) == (0, False)


@pytest.mark.parametrize(
    "inner",
    [
        {"type": "web_search_tool_result_error", "error_code": "max_uses_exceeded"},
        {"type": "bash_code_execution_result", "stdout": "x" * 100, "content": []},
        {"type": "text_editor_code_execution_view_result", "content": "x" * 100},
    ],
)
def test_results_of_the_providers_tools_count_by_their_bytes(inner: dict[str, Any]) -> None:
    assert content({"type": "any_tool_result", "content": inner}) == (0, False)


@pytest.mark.parametrize(
    ("tools", "tokens", "is_open"),
    [
        ([], 0, False),
        (None, 0, False),
        ([{"name": "f", "input_schema": {}}], TOOLS_TOKENS, False),
        ([{"type": "custom", "name": "f"}, {"type": "function"}], TOOLS_TOKENS, False),
        ([{"type": "bash_20250124"}, {"type": "computer_20250124"}], TOOLS_TOKENS + 2 * TOOL_TOKENS, False),
        ([{"type": "web_search_20250305"}] * 2, TOOLS_TOKENS + 2 * REMOTE_TOKENS, True),
        ([{"type": ["bash_"]}], TOOLS_TOKENS + REMOTE_TOKENS, True),
        (
            [{"type": "advisor_20260301", "model": "m"}, {"name": "f", "model": None}],
            TOOLS_TOKENS + REMOTE_TOKENS,
            True,
        ),
        ([{"type": "openrouter:web_search"}], TOOLS_TOKENS + REMOTE_TOKENS, True),
        ([{"urlContext": {}}, {"googleSearch": {}}], TOOLS_TOKENS + 2 * REMOTE_TOKENS, True),
        (
            [{"name": "a", "url_context": {}}, {"type": "custom", "google_search": {}}],
            TOOLS_TOKENS + 2 * REMOTE_TOKENS,
            True,
        ),
        ([{"type": None, "function": {"name": "f"}}, "f", {"name": "g"}], TOOLS_TOKENS, False),
        ([{"type": "browser_toolset_20260801"}], TOOLS_TOKENS + 5 * TOOL_TOKENS, False),
        ([{"type": "browser_search"}], TOOLS_TOKENS + REMOTE_TOKENS, True),  # Groq's, which it runs
        *(
            ([{"type": kind, "googleSearch": {}}], TOOLS_TOKENS + REMOTE_TOKENS, True)
            for kind in ("computer", "bash_20250124", "browser_toolset_20260801", "local_shell", "namespace")
        ),
    ],
)
def test_tools_bring_words_of_their_own(tools: Any, tokens: int, is_open: bool) -> None:
    assert estimate(tools=tools) == (tokens, is_open)


def adding(*definitions: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    """Messages that add these tools on the way, and such that tell so of what was compacted."""
    changes = [
        {"type": "tool_addition", "tool": {"type": "tool_definition", "definition": definition}}
        for definition in definitions
    ]
    compacted = {"type": "compaction", "content": "x", "tool_changes": [*changes, {"type": "tool_removal"}]}
    return [{"role": "system", "content": changes}], [{"role": "assistant", "content": [compacted]}]


def test_tools_that_are_added_on_the_way_are_looked_at() -> None:
    for messages in adding({"name": "f", "input_schema": {}}):
        assert estimate(messages=messages) == (TOOLS_TOKENS, False)
    for messages in adding({"type": "web_search_20250305", "max_uses": 3}, {"type": "bash_20250124"}):
        assert estimate(messages=messages) == (TOOLS_TOKENS + TOOL_TOKENS + REMOTE_TOKENS, True)
        assert read(messages=messages).web_searches == 3
    for messages in adding({"type": "advisor_20260301", "name": "advisor", "model": "dear"}):
        with pytest.raises(InvalidBody, match=r"tools\.model: a request is paid by its model here"):
            read(messages=messages)
    reference = {"type": "tool_addition", "tool": {"type": "tool_reference", "name": "f"}}
    assert content(reference, {"type": "tool_removal", "tool": {"type": "tool_reference", "name": "g"}}) == (0, False)


@pytest.mark.parametrize(
    ("fields", "searches"),
    [
        ({}, 0),
        ({"tools": [{"type": "function", "function": {"name": "web_search"}}]}, 0),
        ({"tools": [{"type": "web_search_20250305"}]}, SEARCHES),
        ({"tools": [{"type": "web_search_20250305", "max_uses": 3}]}, 3),
        ({"tools": [{"type": "web_search_20250305", "max_uses": 3}, {"googleSearch": {}}]}, 3 + SEARCHES),
        ({"tools": [{"type": "web_search_20250305", "max_uses": 0}]}, 1),
        ({"tools": [{"type": "web_search_20250305", "max_uses": -5}]}, 1),
        ({"tools": [{"type": "web_search_20250305", "max_uses": 5000}]}, 1000),
        *(
            ({"tools": [{"type": "web_search_20250305", "max_uses": uses}]}, SEARCHES)
            for uses in ("3", 2.5, True, None, 10**30, math.nan, -math.inf)
        ),
        ({"tools": [{"type": "web_search_20250305", "max_uses": 1, "Max_Uses": 100}]}, SEARCHES),
        ({"tools": [{"type": "openrouter:web_search", "max_uses": 1}]}, SEARCHES),
        ({"tools": [{"googleSearch": {}, "max_uses": 1}]}, SEARCHES),
        ({"tools": [{"type": "function", "function": {"name": "a"}, "googleSearch": {}}]}, SEARCHES),
        ({"tools": [{"type": ["web_search_"], "max_uses": 1}]}, SEARCHES),
        ({"web_search_options": {"search_context_size": "low"}}, SEARCHES),
        ({"web_search_options": {}}, SEARCHES),
        ({"web_search_options": None}, 0),
        ({"plugins": [{"id": "web"}]}, SEARCHES),
        ({"enable_search": False}, 0),
        ({"extra_body": {"enable_search": True}}, SEARCHES),
    ],
)
def test_searches_are_counted_as_they_are_allowed(fields: dict[str, Any], searches: int) -> None:
    assert read(**fields).web_searches == searches


@pytest.mark.parametrize(
    ("fields", "is_open"),
    [
        ({"mcp_servers": [{"type": "url"}]}, True),
        ({"mcp_servers": []}, False),
        ({"container": "container_1"}, True),
        ({"web_search_options": {"search_context_size": "low"}}, True),
        ({"web_search_options": {}}, True),
        ({"plugins": [{"id": "web"}]}, True),
        ({"enable_search": True, "search_options": {}}, True),
        ({"enable_search": False}, False),
        ({"vl_high_resolution_images": True}, True),
        ({"search_parameters": {"mode": "on"}}, True),
        ({"extra_body": {"enable_search": True}}, True),
        ({"extra_body": {"web_search_options": {}}}, True),
        ({"extra_body": {"reasoning": {"mode": "pro"}}}, True),
        ({"extra_body": {"context_management": {"edits": [{"type": "compact_20260112"}]}}}, True),
        ({"extra_body": {"enable_search": False, "top_k": 3}}, False),
        ({"messages": [{"role": "assistant", "content": "y", "images": [{"image_url": {"url": "v.mp4"}}]}]}, True),
        ({"data_sources": [{"type": "azure_search"}]}, True),
        ({"vector_store_ids": ["vs_1"]}, True),
        ({"extra_body": {"vector_store_ids": ["vs_1"]}}, True),
        ({"vector_store_ids": []}, False),
        ({"cached_content": "cachedContents/abc"}, True),
        ({"extra_body": {"google": {"cached_content": "cachedContents/abc"}}}, True),
        ({"extra_body": {"google": {"thinking_config": {}}}}, False),
        ({"context_management": {"edits": [{"type": "compact_20260112"}]}}, True),
        ({"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}, None]}}, False),
        ({"thread": {"type": "continue", "previous_message_id": "msg_1"}}, True),
        ({"thread": {"type": "create"}}, False),
        ({"thread": None}, False),
        ({"messages": [{"role": "assistant", "audio": {"id": "audio_1"}}]}, True),
        ({"messages": [{"role": "assistant", "audio": None, "content": None}]}, False),
    ],
)
def test_what_the_provider_gets_from_elsewhere_is_left_to_the_context(fields: dict[str, Any], is_open: bool) -> None:
    assert estimate(**fields) == (REMOTE_TOKENS if is_open else 0, is_open)


@given(st.text(st.characters(codec="utf-8")), st.booleans())
def test_no_text_has_more_bytes_than_its_body(text: str, ascii_only: bool) -> None:
    data = json.dumps({"model": "m", "system": text}, ensure_ascii=ascii_only).encode()
    assert read_request_body(data).estimated_input_tokens >= len(text.encode())
