"""The journal's records: what is written is read, and damage costs what it hits and nothing else."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxy.core.journal_record import (
    Checkpoint,
    Leased,
    Opened,
    Posted,
    Progressed,
    Reader,
    Record,
    Settled,
    Started,
    Synced,
    UnreadableRecord,
    Voided,
    decode,
    encode,
    row_document,
)
from goproxy.core.journal_state import JournalState, replay
from goproxy.core.ledger import Row
from goproxy.core.usage import Usage
from tests.bookkeeping import a_hold, a_row

ALL: list[Record] = [
    Checkpoint(0),
    Started("instance", 3),
    Leased("alice", 5000),
    Opened(a_hold("req_1")),
    Progressed("req_1", Usage(input=7, output=1)),
    Progressed("req_1", Usage(input=7, output=9), "speed=fast"),
    Settled(a_row(a_hold("req_1"))),
    Opened(a_hold("req_2")),
    Voided("req_2"),
    Posted(("req_1",)),
    Leased("alice", 4000, 400),
    Synced(),
]
CONTENT = b"".join(map(encode, ALL))


def records(reader: Reader) -> list[Record]:
    return [record for record, _ in reader]


@pytest.mark.parametrize("record", ALL, ids=lambda record: type(record).__name__)
def test_what_is_written_is_read(record: Record) -> None:
    line = encode(record)
    assert line.isascii()
    assert line.find(b"\n") == len(line) - 1
    assert decode(line[:-1]) == record


def test_a_rows_document_is_its_json() -> None:
    row = a_row(a_hold("req_1"))
    assert Row.from_json(json.loads(row_document(encode(Settled(row))))) == row


@pytest.mark.parametrize("line", [b"", b"\0" * 40, b"00000000 {}", b'2ac1b6d8 {"kind":"nothing"}'])
def test_a_line_that_is_no_record(line: bytes) -> None:
    with pytest.raises(UnreadableRecord):
        decode(line)


@pytest.mark.parametrize("zeros", [0, 1, 64 * 1024 - 1, 64 * 1024, 64 * 1024 + 1, 200_000])
@pytest.mark.parametrize("length", [len(CONTENT), 64 * 1024, 130_000])
def test_what_was_allocated_and_not_written_is_none_of_it(length: int, zeros: int) -> None:
    comment = b"x" * (length - len(CONTENT))
    reader = Reader(CONTENT + comment + bytes(zeros))
    assert records(reader) == ALL
    assert [(place.offset, place.length) for place in reader.torn] == (
        [(len(CONTENT), len(comment))] if comment else []
    )


@pytest.mark.parametrize("allocated", [0, 4096])
def test_a_segment_that_ends_anywhere_has_all_its_whole_records(allocated: int) -> None:
    ends = [0]
    for record in ALL:
        ends.append(ends[-1] + len(encode(record)))
    for length in range(len(CONTENT) + 1):
        reader = Reader(CONTENT[:length] + bytes(allocated))
        whole = sum(end <= length for end in ends) - 1  # records
        read = records(reader)
        # The last record lacks nothing that counts when only its line break is missing.
        assert read in (ALL[:whole], ALL[: whole + 1] if length + 1 in ends else None)
        cut = [] if length in ends or len(read) > whole else [(ends[whole], length - ends[whole])]
        cut = cut if length else [(0, allocated)]  # one without a head
        places = reader.damaged if whole == 0 else reader.torn
        assert [(place.offset, place.length) for place in places] == cut


@pytest.mark.parametrize("flip", [0x01, 0x80, ord("\n") ^ ord("a")])
def test_a_byte_that_flips_costs_one_record_at_most(flip: int) -> None:
    for at in range(len(CONTENT)):
        damaged = bytearray(CONTENT)
        damaged[at] ^= flip
        reader = Reader(bytes(damaged) + bytes(64))
        read = records(reader)
        hit = CONTENT.count(b"\n", 0, at)
        is_line_break = CONTENT[at : at + 1] == b"\n"
        assert read == (ALL if is_line_break else ALL[:hit] + ALL[hit + 1 :])
        is_at_the_end = hit == len(ALL) - 1
        assert (len(reader.damaged) > 0) is not is_at_the_end
        assert (len(reader.torn) > 0) is (is_at_the_end and not is_line_break)


@pytest.mark.parametrize("allocated", [0, 4096])
def test_a_head_that_is_not_whole_is_damaged_wherever_it_is_cut(allocated: int) -> None:
    head = b"".join(map(encode, [Checkpoint(3), *ALL[1:4]]))
    for length in range(len(head) + 1):
        reader = Reader(head[:length] + bytes(allocated))
        records(reader)
        is_whole = length >= len(head) - 1  # a line break is all that it may lack
        assert (len(reader.damaged), reader.torn) == (0 if is_whole else 1, [])
    reader = Reader(b"".join(map(encode, ALL[1:4])) + bytes(allocated))
    records(reader)
    assert len(reader.damaged) == 1, "it begins with no checkpoint"


def test_a_stretch_of_damage_is_found_where_it_is() -> None:
    lines = [encode(record) for record in ALL]
    at = sum(map(len, lines[:4]))
    damaged = CONTENT[:at] + b"\0" * len(lines[4]) + CONTENT[at + len(lines[4]) :]
    reader = Reader(damaged)
    assert records(reader) == ALL[:4] + ALL[5:]
    (damage,) = reader.damaged
    assert damage.offset == at


def test_a_gap_in_the_last_write_is_no_damage() -> None:
    """Power failed while it was on its way to the disk: nobody was told that it is there."""
    lines = [encode(record) for record in ALL]
    torn = CONTENT + b"".join([*lines[1:3], b"\0" * len(lines[3]), lines[4]])
    reader = Reader(torn)
    assert records(reader) == [*ALL, *ALL[1:3], ALL[4]]
    assert (reader.damaged, [place.offset for place in reader.torn]) == ([], [len(CONTENT) + len(lines[1] + lines[2])])
    reader = Reader(torn + encode(Synced()))
    assert len(records(reader)) == len(ALL) + 4
    assert (len(reader.damaged), reader.torn) == (1, [])


# What records mean.


def test_a_request_is_a_hold_then_a_row_then_spent() -> None:
    state = JournalState()

    def apply(*applied: Record) -> None:
        for record in applied:
            state.apply(record, encode(record))

    apply(Started("instance", 1), Leased("alice", 5000), Opened(a_hold("req_1")), Progressed("req_1", Usage(output=1)))
    assert (state.holds, state.progress) == ({"req_1": a_hold("req_1")}, {"req_1": Usage(output=1)})
    assert state.spent_totals() == {"alice": 0}
    apply(Settled(a_row(a_hold("req_1"), 400)))
    assert (state.holds, state.progress, list(state.unposted)) == ({}, {}, ["req_1"])
    assert state.spent_totals() == {"alice": 400}
    apply(Posted(("req_1", "req_unknown")))
    assert state.unposted == {}
    assert state.spent_totals() == {"alice": 400}


def test_an_open_request_is_on_the_terms_that_were_told_last() -> None:
    state = JournalState()
    asked = replace(a_hold("req_1"), terms="speed=fast")
    for record, terms in (
        (Opened(asked), "speed=fast"),
        (Progressed("req_1", Usage(output=1)), "speed=fast"),  # as a version of before writes it
        (Progressed("req_1", Usage(output=2), ""), ""),
        (Progressed("req_1", Usage(output=3), "inference_geo=us"), "inference_geo=us"),
    ):
        state.apply(record, encode(record))
        assert state.holds["req_1"].terms == terms
        assert replay([Reader(state.checkpoint())]).holds == state.holds
    assert asked.terms == "speed=fast"


def test_a_hold_of_before_is_read() -> None:
    document = json.loads(encode(Opened(a_hold("req_1")))[9:])
    del document["hold"]["terms"]
    body = json.dumps(document, separators=(",", ":")).encode()
    assert decode(b"%08x %s" % (zlib.crc32(body), body)) == Opened(a_hold("req_1"))


def test_another_instance_was_lent_nothing_and_has_spent_what_it_will_post() -> None:
    state = JournalState()
    for record in (
        Started("former", 1),
        Leased("alice", 5000, 300),
        Opened(a_hold("req_1")),
        Settled(a_row(a_hold("req_1"), 400)),
        Started("latter", 2),
    ):
        state.apply(record, encode(record))
    assert state.lent == {}
    assert state.spent_totals() == {"alice": 400}


def test_a_whole_head_replaces_what_the_segment_before_says() -> None:
    """Such as a hold that was refused, since the disk could not tell whether it had it."""
    before = JournalState().checkpoint() + encode(Opened(a_hold("req_1")))
    assert replay([Reader(before)]).holds == {"req_1": a_hold("req_1")}
    assert replay([Reader(JournalState().checkpoint()), Reader(before)]).holds == {}


_ids = st.sampled_from([f"req_{n}" for n in range(6)])
_wallets = st.sampled_from([("alice",), ("alice", "key:1"), ("bob",)])
_records = st.one_of(
    st.builds(lambda id_, wallets: Opened(a_hold(id_, 1000, *wallets)), _ids, _wallets),
    st.builds(
        lambda id_, wallets, cost: Settled(a_row(a_hold(id_, 1000, *wallets), cost)), _ids, _wallets, st.integers(0, 9)
    ),
    st.builds(Progressed, _ids, st.builds(Usage, output=st.integers(0, 9)), st.sampled_from([None, "", "speed=fast"])),
    st.builds(Voided, _ids),
    st.builds(lambda ids: Posted(tuple(ids)), st.lists(_ids, max_size=3)),
    st.builds(Leased, st.sampled_from(["alice", "bob", "key:1"]), st.integers(0, 9)),
    st.builds(Started, st.sampled_from(["one", "two"]), st.integers(1, 9)),
)


def facts(state: JournalState) -> tuple[object, ...]:
    return (
        state.instance,
        state.start,
        state.holds,
        state.progress,
        state.unposted,
        state.lent,
        state.spent_totals(),
    )


@given(st.lists(st.lists(_records, max_size=8), min_size=1, max_size=4), st.data())
def test_segments_say_what_one_long_journal_would(parts: Sequence[Sequence[Record]], data: st.DataObject) -> None:
    """However records are spread over segments that begin with checkpoints; with a damaged checkpoint too."""
    state = JournalState()
    segments: list[bytes] = []
    for part in parts:
        content = head = state.checkpoint()
        for record in part:
            line = encode(record)
            state.apply(record, line)
            content += line
        segments.append(content + bytes(16))
    assert facts(replay(map(Reader, reversed(segments)))) == facts(state)
    assert facts(replay(map(Reader, segments[-1:]))) == facts(state)

    if len(segments) > 1:
        last = bytearray(segments[-1])
        last[data.draw(st.integers(0, len(head) - 1))] ^= 0x01
        assert facts(replay(map(Reader, [bytes(last), *reversed(segments[:-1])]))) == facts(state)
