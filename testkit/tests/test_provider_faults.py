"""What a simulated provider can be told over its control port: a pace, a hold, and every named fault."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator

import httpx2
import pytest

from conftest import KEY, MODELS, Running

HEADERS = {"x-api-key": KEY, "anthropic-version": "2023-06-01"}


@pytest.fixture
def client(provider: Running) -> Iterator[httpx2.Client]:
    """Give a client that trusts the provider."""
    trusted = ssl.create_default_context(cafile=provider.ca)
    with httpx2.Client(base_url=provider.url, headers=HEADERS, verify=trusted, timeout=30, trust_env=False) as client:
        yield client


def question(content: str = "how are you", *, stream: bool = True) -> dict[str, object]:
    messages = [{"role": "user", "content": content}]
    return {"model": MODELS[0], "max_tokens": 1000, "stream": stream, "messages": messages}


def read(client: httpx2.Client, content: str = "how are you") -> bytes:
    """Read a stream as far as it comes."""
    received = b""
    with client.stream("POST", "/v1/messages", json=question(content)) as response:
        for piece in response.iter_raw():
            received += piece
    return received


def test_events_and_gap_pace_a_stream(provider: Running, client: httpx2.Client) -> None:
    provider.behave(events=10, gap_ms=30)
    begun = time.monotonic()
    assert read(client).count(b"content_block_delta\n") == 10
    assert time.monotonic() - begun > 0.3
    record = provider.requests()[0]
    assert record["ended"] - record["first_byte"] > 0.3


def test_an_exception_paces_one_request_only(provider: Running, client: httpx2.Client) -> None:
    provider.control.post("/_behaviour", json={"match": "marker", "events": 3}).raise_for_status()
    assert read(client, "another").count(b"content_block_delta\n") == 12
    assert read(client, "a marker").count(b"content_block_delta\n") == 3


@pytest.mark.parametrize(("settings", "after"), [({"hold": True}, 15), ({"fault": "stall", "after": 5}, 5)])
def test_a_held_or_stalled_stream_goes_on_when_released(
    provider: Running, client: httpx2.Client, settings: dict[str, object], after: int
) -> None:
    provider.behave(**settings, gap_ms=10)
    with client.stream("POST", "/v1/messages", json=question("marker")) as response:
        time.sleep(0.5)
        sent = provider.requests()[0]
        assert sent["ended"] is None
        provider.control.post("/_release", json={"match": "marker"}).raise_for_status()
        received = response.read()
    assert received.count(b"event: ") > after
    assert received.endswith(b'{"type":"message_stop"}\n\n')


def test_a_stream_that_is_released_early_is_not_held(provider: Running, client: httpx2.Client) -> None:
    provider.behave(hold=True, gap_ms=30)
    with client.stream("POST", "/v1/messages", json=question("marker")) as response:
        provider.control.post("/_release", json={"match": "marker"}).raise_for_status()
        assert b"message_stop" in response.read()


def test_refuse_closes_the_port_and_reset_opens_it_again(provider: Running, client: httpx2.Client) -> None:
    read(client)  # leaves a connection open, on which nothing is served either
    provider.behave(fault="refuse")
    with pytest.raises(httpx2.TransportError):
        read(client)
    with pytest.raises(httpx2.ConnectError):
        read(client)
    provider.control.delete("/_behaviour")
    assert read(client)


def test_reset_drops_the_connection(provider: Running, client: httpx2.Client) -> None:
    provider.behave(fault="reset", after=2)
    with pytest.raises(httpx2.TransportError):  # Python's ssl tells an RST as an end of file
        read(client)
    assert provider.requests()[0]["complete"] is False


def test_truncate_ends_a_stream_inside_an_event(provider: Running, client: httpx2.Client) -> None:
    provider.behave(fault="truncate", after=4)
    with pytest.raises(httpx2.RemoteProtocolError):
        read(client)
    record = provider.requests()[0]
    assert record["complete"] is record["client_gone"] is False
    assert record["usage"]["output_tokens"] == 1  # of message_start: the last that was reported


def test_truncate_ends_a_whole_answer_before_its_length(provider: Running, client: httpx2.Client) -> None:
    provider.behave(fault="truncate")
    with pytest.raises(httpx2.RemoteProtocolError):
        client.post("/v1/messages", json=question(stream=False))


def test_error_event_ends_a_stream_in_good_order(provider: Running, client: httpx2.Client) -> None:
    provider.behave(fault="error_event", after=4)
    events = read(client).decode().strip().split("\n\n")
    assert len(events) == 5
    assert '"type":"overloaded_error"' in events[-1]


def test_status_answers_with_status_headers_and_the_providers_own_body(
    provider: Running, client: httpx2.Client
) -> None:
    provider.behave(fault="status", status=429, headers={"retry-after": "7"})
    answer = client.post("/v1/messages", json=question())
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")
    assert answer.json()["error"]["type"] == "rate_limit_error"


def test_status_answers_with_a_given_body(provider: Running, client: httpx2.Client) -> None:
    provider.behave(fault="status", status=502, body="<html>Bad gateway</html>")
    answer = client.post("/v1/messages", json=question())
    assert (answer.status_code, answer.text) == (502, "<html>Bad gateway</html>")


def test_slow_first_byte_waits_before_the_status_line(provider: Running, client: httpx2.Client) -> None:
    provider.behave(fault="slow_first_byte", first_byte_ms=300)
    begun = time.monotonic()
    with client.stream("POST", "/v1/messages", json=question()):
        assert time.monotonic() - begun > 0.3


def test_a_client_that_leaves_is_noticed_between_events(provider: Running, client: httpx2.Client) -> None:
    provider.behave(fault="stall", after=3)
    with client.stream("POST", "/v1/messages", json=question()):
        pass
    deadline = time.monotonic() + 30
    while not (record := provider.requests()[0])["ended"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert record["client_gone"]


def test_another_host_name_is_misdirected(client: httpx2.Client) -> None:
    answer = client.post("/v1/messages", json=question(), headers={"host": "other.test"})
    assert answer.status_code == 421


def test_a_wrong_setting_is_refused_with_what_there_is(provider: Running) -> None:
    answer = provider.control.put("/_behaviour", json={"fault": "explode"})
    assert answer.status_code == 400
    assert "truncate" in answer.json()["error"]
