"""`goproxy admin`: what an operator types and reads."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from goproxy.admin.client import AdminClient
from goproxy.admin.tables import amount, nanodollars, table
from goproxy.cli import main
from goproxy.control_plane.admin_api import AdminApi
from goproxy.control_plane.schemas import MEANINGS
from goproxy.control_plane.store import backup
from goproxy.core.keys import is_well_formed
from goproxy.core.pricing import dollars
from tests.control_plane.backend import DOLLAR, OPERATOR, Backend, row
from tests.control_plane.conftest import on_sqlite

pytestmark = on_sqlite

Admin = Callable[..., Awaitable["Said"]]


@dataclass
class Said:
    """What came of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def cells(self, line: int = 1) -> list[str]:
        """The words of a line of a table; line 0 has the headings."""
        return self.out.splitlines()[line].split()


@pytest.fixture
def admin(backend: Backend, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Admin:
    token = backend.directory / "token"
    token.write_text(OPERATOR + "\n")
    monkeypatch.setenv("OPERATOR_TOKEN_FILE", str(token))
    monkeypatch.setenv("BACKEND_URL", backend.url)

    async def run(*arguments: str) -> Said:
        code = await asyncio.to_thread(main, ["admin", *arguments])
        said = capsys.readouterr()
        return Said(code, said.out, said.err)

    return run


async def test_an_account_a_key_and_a_credit(backend: Backend, admin: Admin) -> None:
    assert (await admin("account", "add", "alice", "--note", "first")).cells()[0] == "alice"
    added = await admin("key", "add", "alice", "--name", "laptop", "--limit", "2.50", "--upstream", "openhands")
    key = added.out.splitlines()[-1]
    assert is_well_formed(key)
    granted = await admin("credit", "grant", "alice", "10.000000001", "--id", "invoice-1")
    assert granted.cells()[:4] == ["invoice-1", "alice", "grant", "10.000000001"]
    assert (await admin("credit", "withdraw", "alice", "0.5")).cells()[3] == "-0.50"
    shown = await admin("account", "show", "alice")
    assert key not in shown.out
    assert "9.500000001" in shown.out
    assert "laptop" in shown.out
    listed = await admin("credit", "list", "alice")
    assert listed.out.splitlines()[0].split("  ")[0] == "ID"
    assert listed.cells()[1:] == ["9.500000001", "9.500000001", "0.00", "0.00", "-", "-", "-"]
    assert (await backend.wallet("alice"))["credits_nanodollars"] == 9_500_000_001


async def test_json_is_the_apis_own_answer(backend: Backend, admin: Admin) -> None:
    await backend.account("alice")
    assert (await admin("--json", "account", "list")).json == await backend.admin("GET", "/accounts")
    made = (await admin("--json", "key", "add", "alice")).json
    assert is_well_formed(made["key"])
    rotated = (await admin("--json", "key", "rotate", made["id"], "--old-expires", "2099-01-01T00:00:00Z")).json
    assert rotated["rotated_from"] == made["id"]
    assert (await admin("--json", "key", "revoke", made["id"])).json["revoked_by"] == "operator"
    assert len((await admin("--json", "key", "list", "alice")).json["keys"]) == 2
    assert (await admin("--json", "account", "disable", "alice")).json["disabled_by"] == "operator"
    assert (await admin("--json", "account", "enable", "alice")).json["disabled_at"] is None


async def test_usage_rows_and_leases(backend: Backend, admin: Admin) -> None:
    await backend.account(dollars=10)
    await backend.lend("i1", 1, ("alice", 0, DOLLAR))
    await backend.post("i1", row(1, cost=1_234_567))
    usage = await admin("usage", "--by", "account,day", "--since", "2026-11-01")
    assert usage.cells(0)[:3] == ["ACCOUNT", "DAY", "REQUESTS"]
    assert usage.cells() == ["alice", "2026-11-23", "1", "9", "1", "2", "3", "7", "0", "0.001234567"]
    rows = await admin("rows", "--limit", "1")
    assert rows.cells()[1:4] == ["request", row(1).id, "alice"]
    assert rows.cells()[-2:] == ["22", "-0.001234567"]
    before = rows.out.split("--before ")[1].strip()
    assert (await admin("rows", "--limit", "1", "--before", before)).cells()[1] == "grant"
    assert (await admin("leases", "list")).cells()[:3] == ["alice", "openhands", "i1"]
    assert "was heard of at" in (await admin("leases", "retire", "i1")).err
    assert (await admin("leases", "retire", "i1", "--force")).cells() == ["alice", "1.998765433"]


async def test_a_row_is_found_by_either_id(backend: Backend, admin: Admin) -> None:
    """What a client, or the provider, can name of a request that went wrong."""
    await backend.account(dollars=10)
    await backend.post("i1", *(row(n, flags=("final_usage_missing",)) for n in range(1, 4)))
    for arguments in (["--id", row(2).id], ["--upstream-request-id", "up_2"]):
        found = await admin("rows", *arguments)
        assert found.cells()[2] == row(2).id
        assert found.cells()[-2:] == ["ok", "final_usage_missing,other_prices,unknown_key"]
        assert len(found.out.splitlines()) == 2
    assert (await admin("rows", "--id", "grant-alice")).cells()[1] == "grant"


async def test_a_row_that_there_is_not_is_said_to_be_none(backend: Backend, admin: Admin) -> None:
    """An empty table looks like an answer."""
    await backend.account(dollars=10)
    await backend.post("i1", row(1))
    for arguments, told in (
        (["--id", "req_none"], "has the id 'req_none': what was refused has no row"),
        (["--id", "0f" * 16], "is the edge's own; look for it in `docker logs trollllm-edge`"),
        (
            ["--id", row(1).id, "--account", "alice", "--kind", "grant"],
            f"no row that is so chosen has the id '{row(1).id}'",
        ),
        (["--upstream-request-id", "none"], "no row that is so chosen has the provider's id 'none'"),
    ):
        said = await admin("--json", "rows", *arguments)
        assert (said.code, said.json["rows"], said.err.count("\n")) == (1, [], 1)
        assert told in said.err
    assert (await admin("rows", "--kind", "withdrawal")).code == 0


async def test_rerating_and_reconciling(backend: Backend, admin: Admin, tmp_path: Path) -> None:
    await backend.account()
    await backend.post("i1", row(1))
    looked = await admin("rerate", "--account", "alice")
    assert "1 rows, 1 differ by" in looked.out
    assert "add --apply" in looked.out
    assert "; settled" in (await admin("rerate", "--apply", "--multiplier", "current")).out
    export = tmp_path / "export.csv"
    export.write_text("request_id,input,output\nup_1,9,8\nup_2,1,1\n")
    found = await admin("reconcile", str(export), "--upstream", "openhands")
    assert "matched     0" in found.out
    assert "up_1: ledger {'output': 7}, export {'output': 8}" in found.out
    assert "missing     1" in found.out
    missing = await admin("reconcile", str(tmp_path / "no.csv"), "--upstream", "openhands")
    assert (missing.code, missing.out) == (1, "")


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["up_1,9,7", "up_2,9,7"], ""),
        (["up_1,9,7"], ""),
        (
            ["up_1,9,8", "up_2,9,8"],
            "ledger and export do not agree: 2 differing, 0 missing\n",
        ),
        (
            ["up_1,9,7", "up_3,1,1"],
            "ledger and export do not agree: 0 differing, 1 missing\n",
        ),
    ],
    ids=["they agree", "more in the ledger", "differing", "missing"],
)
async def test_a_job_hears_of_requests_that_differ_or_are_missing(
    backend: Backend, admin: Admin, tmp_path: Path, lines: list[str], told: str
) -> None:
    await backend.account()
    await backend.post("i1", row(1), row(2))
    export = tmp_path / "export.csv"
    export.write_text("\n".join(["request_id,input,output", *lines]))
    said = await admin("--json", "reconcile", str(export), "--upstream", "openhands")
    assert (said.code, said.err) == (1 if told else 0, told)
    assert said.json["export_tokens"]


async def test_of_many_differences_the_first_are_told_and_the_rest_counted(
    backend: Backend, admin: Admin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written out in full, some hundred thousand of them kept the event loop from everything else for seconds."""
    monkeypatch.setattr("goproxy.control_plane.upkeep._LISTED", 2, raising=False)
    await backend.account()
    await backend.post("i1", *(row(number) for number in range(5)))
    export = tmp_path / "export.csv"
    lines = [f"up_{number},1" for number in (0, 1, 2, 7, 8, 9)]
    export.write_text("\n".join(["request_id,output", *lines]))
    found = (await admin("--json", "reconcile", str(export), "--upstream", "openhands")).json
    assert [len(found[name]) for name in ("differing", "missing", "extra")] == [2, 2, 2]
    assert found["left_out"] == {"differing": 1, "missing": 1, "extra": 0, "unnamed": 0}
    told = (await admin("reconcile", str(export), "--upstream", "openhands")).out.splitlines()
    assert told[1].startswith("differing   3 ")
    assert told[4] == "  and 1 more: choose fewer days to see them"


async def test_backup_and_restore(backend: Backend, admin: Admin, tmp_path: Path) -> None:
    await backend.account()
    file = tmp_path / "backup.jsonl.gz"
    assert (await admin("backup", str(file))).code == 0
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []
    refused = await admin("restore", str(file))
    assert refused.code == 1
    assert "not empty" in refused.err
    assert "accounts" in (await admin("restore", str(file), "--replace")).out
    assert (await backend.admin("GET", "/accounts"))["accounts"][0]["name"] == "alice"
    unnamed = await admin("backup", ".")
    assert (unnamed.code, unnamed.err.count("\n")) == (1, 1)


async def test_a_backup_and_a_restore_may_take_as_long_as_they_need(
    backend: Backend, admin: Admin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the command waits for in silence is bounded; not the work on a store of any size."""
    await backend.account()
    file = str(tmp_path / "backup")
    monkeypatch.setattr("goproxy.admin.client._SECONDS", 0.2)
    for module, name in ((backup, "dump"), (backup, "check")):
        monkeypatch.setattr(module, name, taking_its_time(getattr(module, name)))
    assert (await admin("backup", file)).err == ""
    assert (await admin("restore", file, "--replace")).err == ""


def taking_its_time(work: Callable[..., Any]) -> Callable[..., Any]:
    def slowly(*args: Any) -> Any:
        time.sleep(0.5)
        return work(*args)

    return slowly


async def test_a_file_that_is_no_backup_is_called_that(backend: Backend, admin: Admin, tmp_path: Path) -> None:
    await backend.account()
    file = tmp_path / "file"
    for content in (b"", b"a-host\n", gzip.compress(b"\x00\xff a tar, say\n"), gzip.compress(b"{}\n")):
        file.write_bytes(content)
        assert "this is no backup of goproxy (status 400)" in (await admin("restore", str(file), "--replace")).err
    whole = tmp_path / "whole"
    assert (await admin("backup", str(whole))).code == 0
    file.write_bytes(whole.read_bytes()[:-20])
    assert "damaged or was cut short" in (await admin("restore", str(file), "--replace")).err


async def test_the_refusal_of_a_wallet_that_nobody_pays_from_names_the_flag(backend: Backend, admin: Admin) -> None:
    await backend.account()
    refused = await admin("credit", "grant", "alice/none", "1")
    assert "With `force` (`--force`) it begins all the same" in refused.err
    assert (await admin("credit", "grant", "alice/none", "1", "--force")).code == 0


@pytest.fixture
async def something_else() -> AsyncIterator[str]:
    """The URL of what is no backend, and answers whatever the path is named after."""

    async def answer(request: web.Request) -> web.Response:
        if request.path.startswith("/moved"):
            return web.Response(
                status=301, text="<html>moved</html>", headers={"Location": "https://admin.example.org/"}
            )
        return web.Response(text="<html>welcome</html>", content_type="text/html")

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest.mark.parametrize(
    ("path", "told"),
    [("/moved", "redirects to 'https://admin.example.org/' (status 301)"), ("/page", "its answer is text/html")],
)
async def test_what_is_no_backup_never_takes_the_place_of_one(
    admin: Admin, something_else: str, tmp_path: Path, path: str, told: str
) -> None:
    file = tmp_path / "backup.jsonl.gz"
    file.write_bytes(b"the last good one")
    said = await admin("--url", something_else + path, "backup", str(file))
    assert (said.code, said.out, said.err.count("\n")) == (1, "", 1)
    assert told in said.err
    assert file.read_bytes() == b"the last good one"
    assert not list(tmp_path.glob("*.partial"))
    assert (await admin("--url", something_else + path, "account", "list")).code == 1


async def test_a_backup_takes_the_place_of_nothing_but_a_file(admin: Admin, tmp_path: Path) -> None:
    directory, pipe = tmp_path / "directory", tmp_path / "pipe"
    directory.mkdir()
    os.mkfifo(pipe)
    for target in (directory, pipe):
        said = await admin("backup", str(target))
        assert (said.code, said.err.count("\n")) == (1, 1)
        assert f"{target}: is no regular file" in said.err
    assert pipe.is_fifo()
    assert not list(tmp_path.glob("*.partial"))
    assert "File name too long" in (await admin("backup", str(tmp_path / ("x" * 300)))).err


async def test_a_backup_that_is_given_up_leaves_nothing(
    admin: Admin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def give_up(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("goproxy.admin.client.AdminClient.receive", give_up)
    assert (await admin("backup", str(tmp_path / "backup"))).code == 130
    assert not list(tmp_path.glob("*.partial"))


async def test_what_is_refused_is_one_line(backend: Backend, admin: Admin, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = await admin("account", "show", "no/such one")
    assert (refused.code, refused.out, refused.err.count("\n")) == (1, "", 1)
    assert "status 404" in refused.err
    failed = await admin("credit", "grant", "nobody", "1")
    assert "trying again" not in failed.err  # it would be refused again
    monkeypatch.setenv("BACKEND_URL", "http://127.0.0.1:1")
    assert "trying again with --id grant_" in (await admin("credit", "grant", "nobody", "1")).err
    assert "no answer" in (await admin("account", "list")).err
    monkeypatch.setenv("BACKEND_URL", "ftp://x")
    assert "expected the backend's URL" in (await admin("account", "list")).err
    monkeypatch.setenv("OPERATOR_TOKEN_FILE", "/nowhere")
    assert "No such file" in (await admin("account", "list")).err


async def test_the_token_comes_from_standard_input_where_there_is_no_file(
    backend: Backend, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPERATOR_TOKEN_FILE")
    monkeypatch.setattr(sys, "stdin", io.StringIO(OPERATOR + "\n"))
    assert (await admin("--json", "account", "list")).json == {"accounts": []}
    monkeypatch.setattr(sys, "stdin", io.StringIO("wrong-CANARY\n"))
    refused = await admin("account", "list")
    assert "(status 401): what was shown is not the operator's, which is gateway_operator_token" in refused.err
    assert "holds after site.yml" in refused.err
    assert "CANARY" not in refused.err
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert "no operator token came on standard input" in (without := (await admin("account", "list")).err)
    assert "--interactive" in without
    empty = backend.directory / "empty"
    empty.touch()
    monkeypatch.setenv("OPERATOR_TOKEN_FILE", str(empty))
    assert f"{empty}: there is no operator token in it" in (await admin("account", "list")).err


async def test_a_key_is_called_by_its_id_or_by_what_is_shown_of_it(backend: Backend, admin: Admin) -> None:
    await backend.account()
    made = (await admin("--json", "key", "add", "alice")).json
    rotated = (await admin("--json", "key", "rotate", made["prefix"])).json
    assert rotated["rotated_from"] == made["id"]
    assert (await admin("--json", "key", "revoke", made["prefix"])).json["revoked_by"] == "operator"
    assert (await admin("--json", "key", "revoke", rotated["id"])).json["id"] == rotated["id"]
    for shown in ("tg-abc", made["key"]):
        unknown = await admin("key", "revoke", shown)
        assert (unknown.code, unknown.err.count("\n")) == (1, 1)
        assert "`key list`" in unknown.err
        assert made["key"] not in unknown.err
    same = [{"account": "bob", "prefix": "tg-same", "sha256": digit * 64} for digit in "ab"]
    backend.declare(keys=same)
    await backend.plane.look()
    assert "several keys are shown so" in (await admin("key", "revoke", "tg-same")).err


async def test_a_key_is_changed_in_place(backend: Backend, admin: Admin) -> None:
    await backend.account()
    made = (await admin("--json", "key", "add", "alice", "--limit", "5", "--model", "claude-opus-4-5")).json
    changed = ["--limit", "2.5", "--requests-per-minute", "60", "--without", "model,tokens-per-minute"]
    key = (await admin("--json", "key", "set", made["prefix"], *changed)).json
    expected = {"limit_nanodollars": 25 * DOLLAR // 10, "requests_per_minute": 60, "models": None}
    assert key == {name: value for name, value in made.items() if name != "key"} | expected
    assert (await admin("key", "set", made["id"], "--expires", "2099-01-01T00:00:00Z")).cells()[0] == made["id"]
    assert (await backend.admin("GET", f"/keys/{made['id']}"))["expires_at"] == "2099-01-01T00:00:00.000Z"


async def test_credit_renews_until_it_never_does(backend: Backend, admin: Admin) -> None:
    await backend.account(dollars=0)
    headings, wallet = (await admin("credit", "renew", "alice", "50", "--every", "month")).out.splitlines()
    assert headings.endswith("RENEWS  RENEWS TO USD  RENEWS AT")
    assert wallet.split()[-3:-1] == ["month", "50.00"]
    assert (await admin("credit", "list", "alice")).cells()[-3] == "month"
    assert (await admin("--json", "credit", "renew", "alice", "--every", "never")).json["renews"] is None
    key = (await admin("--json", "key", "add", "alice", "--limit", "5", "--renews", "week")).json
    assert key["limit_renews"] == "week"
    changed = await admin("--json", "key", "set", key["id"], "--without", "renews")
    assert (changed.json["limit_renews"], changed.json["limit_nanodollars"]) == (None, 5 * DOLLAR)


TYPED_WRONG = {
    "a renewal of nothing": (["credit", "renew", "alice", "--every", "month"], "--every month takes an amount"),
    "an amount that never comes": (
        ["credit", "renew", "alice", "5", "--every", "never"],
        "--every never takes no amount",
    ),
    "a period that there is not": (
        ["credit", "renew", "alice", "5", "--every", "fortnight"],
        "period: 'fortnight' is not one of 'day', 'week' or 'month'",
    ),
    "a limit that is none": (
        ["key", "set", "key_0123456789abcdef", "--without", "rpm"],
        "--without: 'rpm' is not one of",
    ),
    "a limit set and taken away": (
        ["key", "set", "key_0123456789abcdef", "--limit", "5", "--without", "limit"],
        "limit: it cannot be set and taken away at once",
    ),
    "a change that is none": (["key", "set", "key_0123456789abcdef"], "nothing would change: give one of expires, "),
    "a name with a space": (["account", "add", "Alice Smith"], "name: 'Alice Smith' is not an account's name: up to"),
    "the same in a path": (["account", "show", "Alice Smith"], "'Alice Smith' is not an account's name: up to"),
    "a day in words": (["rows", "--since", "yesterday"], "since: 'yesterday' is not a day, such as 2026-11-23"),
    "digits for a time": (
        ["key", "add", "alice", "--expires", "20270131000000"],
        "expires_at: '20270131000000' is not a time of RFC 3339 that can be, such as 2027-01-31T00:00:00Z",
    ),
    "a day that there is not": (["usage", "--since", "2026-02-31"], "since: '2026-02-31' is not a day, such as"),
    **{
        f"days the wrong way round for {arguments[0]}": (
            [*arguments, "--since", "2026-12-01", "--until", "2026-11-30"],
            "since 2026-12-01 is after until 2026-11-30",
        )
        for arguments in (["usage"], ["rows"], ["rerate"], ["reconcile", "--upstream", "openhands", "/dev/null"])
    },
    "a number too small": (
        ["key", "add", "alice", "--requests-per-minute", "0"],
        "requests_per_minute: 0 is too small: expected 1 or more",
    ),
    "a number too large": (["rows", "--limit", "5000"], "limit: 5000 is too large: expected 1000 or less"),
    "an axis that is none": (["usage", "--by", "foo"], "by: 'foo' is not one of 'account', 'key', 'upstream', 'model'"),
    "a kind that is none": (["rows", "--kind", "foo"], "kind: 'foo' is not one of 'request', 'grant',"),
    "a settlement that is none": (["rows", "--settlement", "foo"], "settlement: 'foo' is not one of 'exact', "),
    "a multiplier that is none": (
        ["rerate", "--multiplier", "x"],
        "multiplier: 'x' is not `as_billed`, `current`, or a decimal number such as 1.08 (status 400)",
    ),
    "a key that is none": (["key", "revoke", "laptop"], "'laptop' is not a key's id"),
    "more than there is": (
        ["credit", "withdraw", "alice", "99999"],
        "$99999.00 cannot be taken, for the balance is $10.00",
    ),
}


@pytest.mark.parametrize("case", TYPED_WRONG)
async def test_a_refusal_names_what_was_typed_in_words(backend: Backend, admin: Admin, case: str) -> None:
    await backend.account()
    arguments, told = TYPED_WRONG[case]
    said = await admin(*arguments)
    assert (said.code, said.err.count("\n")) == (1, 1)
    assert told in said.err


async def test_every_pattern_of_the_admin_api_has_words(backend: Backend) -> None:
    for operation in AdminApi(backend.plane).operations():
        for kind in (operation.query, operation.body):
            if isinstance(kind, type):
                assert patterns_in(kind.model_json_schema()) <= MEANINGS.keys()


def patterns_in(schema: Any) -> set[str]:
    if isinstance(schema, list):
        return set[str]().union(*map(patterns_in, schema))
    if not isinstance(schema, dict):
        return set()
    own = {schema["pattern"]} if isinstance(schema.get("pattern"), str) else set()
    return own.union(*map(patterns_in, schema.values()))


NO_AMOUNTS = [
    "0",
    "-1",
    "ten",
    "0.0000000001",
    "1e99",
    "NaN",
    "Infinity",
    "1e9999999999999999999",
    "1_000",
    "100000001",
]


@pytest.mark.parametrize("text", [*NO_AMOUNTS, "1.0000000000000000000000000000000001", "\uff11"])
async def test_an_invalid_amount_is_named_in_the_error(url: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["admin", "credit", "grant", "alice", text])
    assert repr(text) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (0, "0.00"),
        (1, "0.000000001"),
        (10**9, "1.00"),
        (-5 * 10**8, "-0.50"),
        (-1, "-0.000000001"),
        (123, "0.000000123"),
    ],
)
def test_dollars_are_exact(url: str, given: int, text: str) -> None:
    assert amount(given) == text
    assert dollars(given) == (f"-${text[1:]}" if given < 0 else f"${text}")
    if given > 0:
        assert nanodollars(text) == given


def test_a_table(url: str) -> None:
    records = [{"name": "a", "n": 5, "x": None}, {"name": "long", "n": 1000, "x": ["p", "q"]}]
    assert table(records, ("name", "n", "x")) == "NAME     N  X\na        5  -\nlong  1000  p,q"
    assert table([], ("name",)) == "NAME"


def test_asking_the_admin_api_loads_neither_plane(url: str) -> None:
    code = (
        "import sys; from goproxy.cli import main; main(['admin', '--url', 'http://127.0.0.1:1', 'account', 'list']); "
        "sys.exit(any(name in sys.modules for name in ('aiohttp', 'sqlalchemy', 'pydantic')))"
    )
    done = subprocess.run([sys.executable, "-c", code], input=b"x\n", capture_output=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr


HOSTILE_COMMANDS: dict[str, tuple[list[str], str]] = {
    "a port that is none": (["--url", "http://h:99999", "account", "list"], "expected the backend's URL"),
    "a port in letters": (["--url", "http://h:http", "account", "list"], "expected the backend's URL"),
    "an address that is none": (["--url", "http://[::1", "account", "list"], "expected the backend's URL"),
    "a name that is none": (["--url", f"http://{'a' * 70}.x", "account", "list"], "expected the backend's URL"),
    "an account in no encoding": (["account", "show", "\udcff"], "account: '\\udcff' is not UTF-8"),
    "a choice in no encoding": (["rows", "--model", "\udcff"], "model: '\\udcff' is not UTF-8"),
    "one of several": (["key", "add", "alice", "--model", "m", "--model", "\udcff"], "is not UTF-8"),
}


@pytest.mark.parametrize("case", HOSTILE_COMMANDS)
async def test_what_is_typed_wrong_is_one_clear_line(admin: Admin, case: str) -> None:
    arguments, told = HOSTILE_COMMANDS[case]
    said = await admin(*arguments)
    assert (said.code, said.out) == (1, "")
    assert told in said.err
    assert len(said.err.splitlines()) == 1


@pytest.mark.parametrize(
    "far",
    [
        "http://admin.example.org",
        "http://admin.example.org:8000/path",
        "http://localhost.example.org",
        "http://backend.",
        "http://backend\u3002example",  # a dot to who looks names up
        "http://192.0.2.1",
        "http://134744072",  # 8.8.8.8
        "http://0x8080808",
        "http://[2001:db8::1]",
        "http://[fe80::1]",
    ],
)
async def test_the_token_is_not_sent_in_clear_to_another_host(
    admin: Admin, far: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Port 80 of the edge leads to https, once it has read the token."""
    connected: list[Any] = []
    monkeypatch.setattr(socket, "create_connection", lambda *address, **_: connected.append(address))
    said = await admin("--url", far, "account", "list")
    assert (said.code, said.out, connected) == (1, "", [])
    assert said.err.startswith(f"{far!r}: the operator token would be sent in clear; nothing was sent. ")
    assert "https" in said.err


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "[::1]", "localhost", "backend", "2130706433"])
def test_the_token_is_sent_to_this_host_and_its_containers(url: str, host: str) -> None:
    AdminClient(f"http://{host}:8000", "token")
    AdminClient("https://admin.example.org", "token")


async def test_a_token_that_is_no_text_is_one_clear_line(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("OPERATOR_TOKEN_FILE", raising=False)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\n"), "utf-8"))
    assert await asyncio.to_thread(main, ["admin", "--url", backend.url, "account", "list"]) == 1
    assert "no operator token came on standard input" in capsys.readouterr().err


async def test_nothing_that_somebody_called_something_is_obeyed_by_the_terminal(backend: Backend, admin: Admin) -> None:
    await backend.account()
    await backend.post("i1", row(1, model="\x1b[2Jevil\u009b1m\rü"))
    said = await admin("rows", "--account", "alice", "--kind", "request")
    assert "\ufffd[2Jevil\ufffd1m\ufffdü" in said.out
    refused = await backend.ask("POST", "/admin/v1/accounts", json={"name": "bob", "note": "\u009b2J"})
    assert refused.status == 400
