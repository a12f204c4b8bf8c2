"""The ledger held against what the provider says it counted."""

from __future__ import annotations

import json

import pytest

from goproxy.core.reconcile import Booked, Difference, ExportLine, InvalidExport, read_export, reconcile
from goproxy.core.usage import Usage


def row(id_: str, upstream_id: str | None, usage: Usage) -> Booked:
    return Booked(id_, upstream_id, usage)


def test_every_request_is_found_on_its_side() -> None:
    rows = [
        row("r1", "up1", Usage(input=10, cache_read=5, output=3)),
        row("r2", "up2", Usage(input=10, output=4)),
        row("r3", "up3", Usage(input=1)),
        row("r4", "up4", Usage()),  # an error answer, of which the provider has no line
        row("r5", None, Usage(output=7)),
        row("r6", None, Usage()),
    ]
    export = [
        ExportLine("up1", {"input": 10, "cache_read": 5, "output": 3}),
        ExportLine("up2", {"input": 10, "cache_read": 0, "output": 5}),
        ExportLine("up9", {"input": 2, "cache_read": 0, "output": 2}),
    ]
    outcome = reconcile(rows, export)
    assert outcome.matched == 1
    assert outcome.differing == (Difference("up2", ("r2",), {"output": 4}, {"output": 5}),)
    assert (outcome.missing, outcome.extra, outcome.unnamed) == (("up9",), ("up3",), ("r5",))
    assert outcome.ledger_tokens == {"input": 21, "cache_read": 5, "output": 14}
    assert outcome.export_tokens == {"input": 22, "cache_read": 5, "output": 10}


def test_a_request_on_several_lines_is_added_up() -> None:
    export = [ExportLine("up1", {"input": 4}), ExportLine("up1", {"input": 6, "output": 1})]
    assert reconcile([row("r1", "up1", Usage(input=10, output=1))], export).matched == 1


def test_a_request_that_was_booked_twice_differs() -> None:
    rows = [row("r1", "up1", Usage(input=10)), row("r2", "up1", Usage(input=10))]
    outcome = reconcile(rows, [ExportLine("up1", {"input": 10})])
    assert outcome.differing == (Difference("up1", ("r1", "r2"), {"input": 20}, {"input": 10}),)


def test_only_what_the_provider_counts_is_compared() -> None:
    usage = Usage(input=1, cache_write_5m=2, cache_write_1h=3, cache_read=4, output=5, reasoning=2)
    rows = [row("r1", "up1", usage)]
    for tokens in ({"prompt": 10}, {"cache_write": 5, "output": 5}, {"cache_write_1h": 3}, {"reasoning": 2}):
        assert reconcile(rows, [ExportLine("up1", tokens)]).matched == 1
    assert reconcile(rows, [ExportLine("up1", {"prompt": 1})]).matched == 0


ANTHROPIC = {"request_id": "up1", "input_tokens": 1, "cache_creation_input_tokens": 2, "output_tokens": 3}
ANTHROPIC_LINE = ExportLine("up1", {"input": 1, "cache_write": 2, "output": 3})


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (
            b"request_id,model,input_tokens,cache_creation_input_tokens,output_tokens,cost\r\n"
            b"up1,opus,1,2,3,0.5\r\nup2,opus,4,,6,0.1\r\n",
            [
                ExportLine("up1", {"input": 1, "cache_write": 2, "output": 3}),
                ExportLine("up2", {"input": 4, "output": 6}),
            ],
        ),
        (b"\xef\xbb\xbfid,prompt_tokens\nup1, 7 \n", [ExportLine("up1", {"prompt": 7})]),
        (json.dumps([ANTHROPIC]).encode(), [ANTHROPIC_LINE]),
        (json.dumps({"data": [ANTHROPIC], "has_more": False}).encode(), [ANTHROPIC_LINE]),
        (b' [{"id": "up1", "completion_tokens": 0}]', [ExportLine("up1", {"output": 0})]),
        (b'[{"id": "up1", "cached_tokens": 8, "cache_read_input_tokens": 7}]', [ExportLine("up1", {"cache_read": 7})]),
    ],
)
def test_an_export_is_read(data: bytes, lines: list[ExportLine]) -> None:
    assert read_export(data) == lines


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"\xff", "it is not UTF-8 at byte 0"),
        (b"[", "it is not valid JSON"),
        (b'{"rows": []}', "it must be a list of objects"),
        (b"[7]", "line 1 is no object"),
        (b'request_id,input\n"up1,4\n', "it is not valid CSV"),
        (b"request,input\nup1,4\n", "it has no column request_id"),
        (b"my-host\n", "it has no column request_id"),
        (b"", "it has no lines"),
        (b"\n\n", "it has no lines"),
        (b"request_id,input\n", "it has no lines"),
        (b"[]", "it has no lines"),
        (b'{"data": []}', "it has no lines"),
        (b"request_id,input\nup1,4\n,4\n", "line 2 has no request_id"),
        (b'[{"request_id": 7, "input": 1}]', "line 1 has no request_id"),
        (b"request_id,tokens\nup1,4\n", "line 1 counts nothing; known columns: input, input_tokens, "),
        (b"request_id,input\nup1,four\n", "line 1: input is no count of tokens"),
        (b"request_id,input\nup1,-4\n", "line 1: input is no count of tokens"),
        (b"request_id,input\nup1," + b"9" * 5000, "line 1: input is no count of tokens"),
        (b'[{"request_id": "up1", "input": 1.5}]', "line 1: input is no count of tokens"),
        (b'[{"request_id": "up1", "input": true}]', "line 1: input is no count of tokens"),
    ],
)
def test_an_export_that_cannot_be_read(data: bytes, complaint: str) -> None:
    with pytest.raises(InvalidExport, match=f"^{complaint}"):
        read_export(data)


def test_an_export_of_too_many_lines_is_refused_before_the_memory_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("goproxy.core.reconcile._MOST_LINES", 3)
    lines = ["request_id,input", *(f"up{number},1" for number in range(4))]
    assert len(read_export("\n".join(lines[:4]).encode())) == 3
    with pytest.raises(InvalidExport, match="more than 3 lines: choose fewer days"):
        read_export("\n".join(lines).encode())
