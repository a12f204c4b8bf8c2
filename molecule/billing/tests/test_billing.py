"""What is billed, seen from outside: official clients through nginx and TLS, the rows, the operator's playbooks."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import openai
import pytest
from testinfra.host import Host
from witness.connection import Connection
from witness.edge import Edge
from witness.ledger import Ledger, client_name, cost, list_price, multiplier
from witness.playbook import Operator
from witness.provider import Provider
from witness.specification import BACKEND, BOTH, OPENHANDS, Upstream
from witness.stream import OpenStream
from witness.user import MODEL, User, marker
from witness.vps import Vps
from witness.waiting import wait_until

Providers = Mapping[str, Provider]
Opener = Callable[[str], OpenStream]
SONNET, OPUS = "claude-sonnet-4-5", "claude-opus-4-5"

# Without the time of fixtures: `deployed` may have to begin with a bare host.
pytestmark = [pytest.mark.usefixtures("deployed"), pytest.mark.timeout(600, func_only=True)]


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Operator:
    return Operator(tmp_path_factory.mktemp("operator"))


def question(content: str) -> list[Any]:
    return [{"role": "user", "content": content}]


@pytest.fixture
def account() -> str:
    """The name of an account that is not there yet."""
    return f"account-{uuid.uuid4().hex[:8]}"


def anthropic_tokens(usage: Mapping[str, Any]) -> dict[str, int]:
    """Tokens by kind of price, of what the provider says that it reported."""
    written = usage.get("cache_creation") or {}
    return {
        "input": usage["input_tokens"],
        "cache_write_5m": written.get("ephemeral_5m_input_tokens", usage.get("cache_creation_input_tokens") or 0),
        "cache_write_1h": written.get("ephemeral_1h_input_tokens", 0),
        "cache_read": usage.get("cache_read_input_tokens") or 0,
        "output": usage["output_tokens"],
    }


def held(vps: Vps) -> tuple[float, float]:
    """For how many requests the proxy of OpenHands holds money, and how much, by its own metrics."""
    status, metrics = vps.get(f"http://{OPENHANDS.service}:{OPENHANDS.port}/metrics")
    assert status == 200, metrics
    told = dict(re.findall(r"^(goproxy_hold\w*|goproxy_held\w*)\S* (\S+)$", metrics, re.MULTILINE))
    return float(told["goproxy_holds"]), float(told["goproxy_held_nanodollars"])


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streaming"])
def test_an_anthropic_message_costs_list_price_times_multiplier_to_the_nanodollar(
    upstream: Upstream, streaming: bool, user: User, providers: Providers, ledger: Ledger
) -> None:
    """By the official client; the provider's own record is the truth, and the multiplier is the upstream's own."""
    content, messages, model = marker(), user.anthropic(upstream.domain).messages, client_name(OPUS)
    if streaming:
        with messages.stream(model=model, max_tokens=500, messages=question(content)) as stream:
            stream.until_done()
            request_id = stream.response.headers["request-id"]
    else:
        request_id = messages.with_raw_response.create(model=model, max_tokens=500, messages=question(content)).headers[
            "request-id"
        ]
    tokens = anthropic_tokens(providers[upstream.name].received(content)["usage"])
    row = ledger.row(request_id)
    assert (row["settlement"], row["account"], row["upstream"], row["model"]) == ("exact", "demo", upstream.name, model)
    assert {kind: row["usage"][kind] for kind in tokens} == tokens
    assert multiplier(upstream.name, OPUS) != multiplier(upstream.other.name, OPUS), (
        "one in the other's place would pass"
    )
    assert row["multiplier"] == str(multiplier(upstream.name, OPUS))
    assert row["cost_nanodollars"] == cost(tokens, list_price(OPUS), multiplier(upstream.name, OPUS)) > 0


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streaming"])
def test_an_openai_completion_costs_the_same_and_shows_no_chunk_that_was_not_asked_for(
    streaming: bool, user: User, providers: Providers, ledger: Ledger
) -> None:
    content, client = marker(), user.openai(OPENHANDS.domain)
    asked: dict[str, Any] = {"model": MODEL, "max_tokens": 500, "messages": question(content), "stream": streaming}
    answer = client.chat.completions.with_raw_response.create(**asked)
    if streaming:
        assert all(chunk.choices for chunk in answer.parse())  # type: ignore[attr-defined]
    usage = providers[OPENHANDS.name].received(content)["usage"]
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    tokens = {
        "input": usage["prompt_tokens"] - cached,
        "cache_read": cached,
        "output": usage["completion_tokens"],
    }
    row = ledger.row(answer.headers["x-request-id"])
    assert (row["settlement"], row["protocol"]) == ("exact", "openai")
    assert {kind: row["usage"][kind] for kind in tokens} == tokens
    assert row["cost_nanodollars"] == cost(tokens, list_price(SONNET), multiplier(OPENHANDS.name, SONNET)) > 0


@pytest.mark.parametrize("streaming", [False, True], ids=["whole", "streaming"])
def test_an_openai_response_costs_the_same(streaming: bool, user: User, providers: Providers, ledger: Ledger) -> None:
    content, client = marker(), user.openai(OPENHANDS.domain)
    providers[OPENHANDS.name].behave_towards(content, usage={"cache_read": 3})
    asked: dict[str, Any] = {"model": MODEL, "max_output_tokens": 500, "input": content, "stream": streaming}
    answer = client.responses.with_raw_response.create(**asked)
    if streaming:
        assert [event.type for event in answer.parse()][-1] == "response.completed"  # type: ignore[attr-defined]
    usage = providers[OPENHANDS.name].received(content)["usage"]
    tokens = {
        "input": usage["input_tokens"] - 3,
        "cache_read": usage["input_tokens_details"]["cached_tokens"],
        "output": usage["output_tokens"],
    }
    row = ledger.row(answer.headers["x-request-id"])
    assert (row["settlement"], row["protocol"], tokens["cache_read"]) == ("exact", "responses", 3)
    assert {kind: row["usage"][kind] for kind in tokens} == tokens
    assert row["cost_nanodollars"] == cost(tokens, list_price(SONNET), multiplier(OPENHANDS.name, SONNET)) > 0


def test_an_answer_whose_client_leaves_is_drained_and_billed_exactly(
    user: User, providers: Providers, ledger: Ledger
) -> None:
    """Through nginx: the client closes its connection after the first bytes, and the provider goes on for a while."""
    content, provider = marker(), providers[OPENHANDS.name]
    provider.behave_towards(content, events=30, gap_ms=50, hold=True)
    body = {"model": MODEL, "max_tokens": 500, "messages": question(content), "stream": True}
    with user.stream(OPENHANDS.domain, body) as answer:
        next(answer.iter_raw())
        request_id = answer.headers["request-id"]
    left_at = provider.so_far(content)["sent_bytes"]
    wait_until(lambda: provider.so_far(content)["sent_bytes"] > left_at + 4000, 120)  # dozens of events
    provider.release(content)
    row = ledger.row(request_id)
    received = provider.received(content)
    assert (row["settlement"], row["outcome"]) == ("drained", "client_gone")
    assert row["received_bytes"] < row["answered_bytes"]
    assert row["usage"]["output"] == received["usage"]["output_tokens"]


def test_keys_playbook_makes_an_account_and_shows_its_key_once(
    operator: Operator, edge: Edge, ledger: Ledger, vps: Vps, account: str
) -> None:
    """The key works at once on both domains, is stored nowhere, and what the credit does not cover is 402."""
    shown = operator.succeed("playbooks/keys.yml", "-e", f"account={account}", "-e", "credit=0.05").output
    (key,) = set(re.findall(r"tg-[0-9A-Za-z]{49}", shown))
    alice = User(edge, key)
    for upstream in BOTH:
        assert alice.ask(upstream.domain, max_tokens=10).status_code == 200
    refused = alice.ask(OPENHANDS.domain, max_tokens=64000)
    assert (refused.status_code, refused.json()["error"]["type"]) == (402, "billing_error")
    assert refused.headers["x-should-retry"] == "false"
    assert re.search(
        r"could cost up to \$1\.\d+, and your account has \$0\.0\d+ free", refused.json()["error"]["message"]
    )
    with pytest.raises(openai.APIStatusError) as error:
        alice.openai(OPENHANDS.domain).chat.completions.create(
            model=MODEL, max_completion_tokens=64000, messages=question("much")
        )
    assert (error.value.status_code, error.value.code) == (402, "insufficient_quota")
    listed = operator.succeed("playbooks/keys.yml", "-e", "verb=list", "-e", f"account={account}").output
    assert key not in listed
    assert key not in vps.run("cat /opt/trollllm/data/backend/backend.sqlite3 | tr -cd '\\11\\12\\40-\\176'")
    assert ledger.wallet(account)["credits_nanodollars"] == 50_000_000


def test_keys_playbook_says_what_is_wrong_and_repeats_no_token(operator: Operator, connection: Connection) -> None:
    run = operator.run("playbooks/keys.yml", "-e", "verb=revoke", "-e", "key=key_of_nobody", "-vvv")
    assert run.code != 0
    assert "key_of_nobody" in run.output
    assert connection.secrets["operator"] not in run.output
    assert "needs -e key=" in operator.run("playbooks/keys.yml", "-e", "verb=revoke").output


def test_a_revoked_key_is_soon_refused_on_both_domains_on_open_connections(
    edge: Edge, ledger: Ledger, account: str
) -> None:
    ledger.ask("account", "add", account)
    ledger.ask("credit", "grant", account, "1")
    made = ledger.ask("key", "add", account)
    bob = User(edge, made["key"])
    wait_until(lambda: {bob.ask(upstream.domain, max_tokens=5).status_code for upstream in BOTH} == {200}, 30)
    ledger.ask("key", "revoke", made["id"])
    wait_until(  # `make figures-billing` measures how soon
        lambda: {bob.ask(upstream.domain, max_tokens=5).status_code for upstream in BOTH} == {401}, 30
    )


def test_requests_go_on_while_the_backend_is_away_and_their_rows_arrive_when_it_is_back(
    host: Host, user: User, ledger: Ledger
) -> None:
    for upstream in BOTH:  # both are lent something now: what is idle for half a minute goes back
        assert user.ask(upstream.domain, max_tokens=5).status_code == 200
    host.check_output("docker stop --time 5 %s", BACKEND)
    try:
        answers = [user.ask(upstream.domain, max_tokens=5) for upstream in BOTH for _ in range(5)]
    finally:
        host.check_output("docker start %s", BACKEND)
    assert [answer.status_code for answer in answers] == [200] * 10
    for answer in answers:
        assert ledger.row(answer.headers["request-id"], timeout=30)["settlement"] == "exact"


def test_a_proxy_that_is_killed_in_the_middle_of_a_stream_leaves_one_row_of_it(
    host: Host, vps: Vps, user: User, open_stream: Opener, ledger: Ledger
) -> None:
    """SIGKILL; when it is back, the request is one row `interrupted`, charged by what was noted last.

    And what was held for it is held no more.
    """
    wait_until(lambda: held(vps) == (0, 0), 30)
    before = {row["id"] for row in ledger.ask("rows", "--limit", "200")["rows"]}
    stream = open_stream(OPENHANDS.domain)
    stream.wait_for_events(40)  # of ten in a second: what was used is noted once in a second
    requests, amount = held(vps)
    assert (requests, amount > 0) == (1, True)
    host.check_output("docker kill %s", OPENHANDS.service)
    host.check_output("docker start %s", OPENHANDS.service)
    interrupted: list[dict[str, Any]] = []

    def there() -> bool:
        rows = ledger.ask("rows", "--settlement", "interrupted")["rows"]
        interrupted[:] = [row for row in rows if row["id"] not in before]
        return bool(interrupted)

    wait_until(there, 30)
    assert len(interrupted) == 1
    assert interrupted[0]["usage"]["input"] > 0
    wait_until(lambda: user.ask(OPENHANDS.domain, max_tokens=5).status_code == 200, 30)
    wait_until(lambda: held(vps) == (0, 0), 30)


def test_metrics_are_seen_on_the_private_network_only(vps: Vps, user: User) -> None:
    for upstream in BOTH:
        status, metrics = vps.get(f"http://{upstream.service}:{upstream.port}/metrics")
        assert (status, "goproxy_cost_nanodollars_total" in metrics, "demo" in metrics) == (200, True, False)
        assert user.http.get(f"https://{upstream.domain}/metrics").status_code == 404
        assert user.http.get(f"https://{upstream.domain}/admin/v1/accounts").status_code == 404
    status, metrics = vps.get(f"http://{BACKEND}:8000/metrics")
    assert (status, "goproxy_ledger_rows_total" in metrics, "demo" in metrics) == (200, True, False)


def test_the_admin_api_wants_the_operators_token(vps: Vps, connection: Connection) -> None:
    accounts = f"http://{BACKEND}:8000/admin/v1/accounts"
    assert vps.get(accounts)[0] == 401
    assert vps.get(accounts, "Bearer wrong")[0] == 401
    assert vps.get(accounts, f"Bearer {connection.secrets['operator']}")[0] == 200


def test_a_backup_brings_back_accounts_keys_and_ledger(
    operator: Operator, edge: Edge, ledger: Ledger, user: User, account: str, tmp_path: Path
) -> None:
    """Taken while all goes on; restored over what came afterwards, which is gone then."""
    ledger.ask("account", "add", account)
    ledger.ask("credit", "grant", account, "2")
    carol = User(edge, ledger.ask("key", "add", account)["key"])
    wait_until(lambda: carol.ask(OPENHANDS.domain, max_tokens=5).status_code == 200, 30)
    kept = ledger.row(user.ask(OPENHANDS.domain, max_tokens=5).headers["request-id"])
    folder = os.path.relpath(tmp_path, operator.project)  # from where the command is given
    operator.succeed("playbooks/backup.yml", "-e", f"backup_dir={folder}")
    (copy,) = tmp_path.iterdir()
    assert copy.stat().st_mode & 0o777 == 0o600
    file = f"{folder}/{copy.name}"
    ledger.ask("account", "add", f"{account}-later")
    restored = ("playbooks/restore.yml", "-e", f"file={file}")
    assert "-e restore=trollllm.xyz" in operator.run(*restored).output
    operator.succeed(*restored, "-e", "restore=trollllm.xyz")
    assert f"{account}-later" not in [account["name"] for account in ledger.ask("account", "list")["accounts"]]
    assert ledger.row(kept["id"]) == kept
    wait_until(lambda: carol.ask(OPENHANDS.domain, max_tokens=5).status_code == 200, 30)
    after = carol.ask(OPENHANDS.domain, max_tokens=5)
    assert ledger.row(after.headers["request-id"], timeout=30)["account"] == account


def test_no_key_and_no_token_is_in_any_log(vps: Vps, connection: Connection) -> None:
    logs = "".join(vps.run("docker logs %s 2>&1", name) for name in vps.containers())
    assert '"settlement"' in logs
    assert [name for name, secret in connection.marked_secrets.items() if secret in logs] == []
    assert re.findall(r"tg-[0-9A-Za-z]{49}", logs) == []
