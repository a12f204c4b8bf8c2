"""Feeds spoiled answers to the meters: none raises, none keeps more than it may, no count is what cannot be."""

from __future__ import annotations

import logging
import os
import tracemalloc
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from goproxy.core.meter import FLAGS, MAX_BODY, Reading
from goproxy.core.protocols import PROTOCOLS
from goproxy.core.sse import MAX_EVENT
from goproxy.core.usage import MAX_TOKENS
from torture.fuzz.mutations import Spoiled, spoiled

_log = logging.getLogger("torture")
_CHUNK = 2_500
_COMPARED = 8
"""One in so many is read in one piece, too: every slicing reads the same."""

_KEPT = 6 * max(MAX_EVENT, MAX_BODY // 4)
"""Bytes that a meter may take over what it is fed: a line, its event, what is parsed of it, and some more."""


_PARSED = 12
"""Times its size orjson sets aside for a body before it looks at it; the system gives what is written to."""


@dataclass(frozen=True)
class Fed:
    """What came of some inputs."""

    inputs: int
    failures: tuple[str, ...]


def _read(each: Spoiled, pieces: Iterable[bytes]) -> Reading:
    meter = PROTOCOLS[each.protocol].meter(stream=each.is_stream)
    for piece in pieces:
        meter.feed(piece)
        meter.usage()
    if each.ends:
        meter.end()
    return meter.reading()


def _problem(each: Spoiled, seed: int) -> str | None:
    """What is wrong with how this is read."""
    try:
        told = _read(each, each.pieces)
        if seed % _COMPARED == 0 and _read(each, [each.body]) != told:
            return "another slicing reads otherwise"
    except Exception as error:  # noqa: BLE001 - what a meter must never do
        return f"raised {error!r}"
    return "; ".join(_untrue(each, told)) or None


def _untrue(each: Spoiled, told: Reading) -> Iterable[str]:
    """What cannot be true of any answer."""
    if told.usage is not None:
        counts = told.usage.to_json()
        if any(type(count) is not int or not 0 <= count <= 4 * MAX_TOKENS for count in counts.values()):
            yield f"told {counts}"
        if told.usage.reasoning > told.usage.output:
            yield f"more reasoning than output: {counts}"
    elif told.exact:
        yield "exact, without a usage"
    if unknown := set(told.flags) - FLAGS.keys():
        yield f"flags that there are not: {unknown}"
    if not 0 <= told.generated_bytes <= len(each.body):
        yield f"{told.generated_bytes} bytes generated in {len(each.body)}"
    for word in (told.model, told.error):
        if word is not None and not (word.isprintable() and len(word) <= 100):
            yield f"a word that cannot be shown: {word!r}"


def _too_much_kept(each: Spoiled) -> str | None:
    tracemalloc.start()
    try:
        _read(each, each.pieces)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    most = _KEPT + 3 * max(map(len, each.pieces)) + (0 if each.is_stream else _PARSED * len(each.body))
    return f"took {peak} bytes" if peak > most else None


def _feed(start: int, end: int) -> Fed:
    failures = []
    for seed in range(start, end):
        each = spoiled(seed)
        problem = _problem(each, seed) or (_too_much_kept(each) if each.is_huge else None)
        if problem is not None:
            failures.append(f"meter input {seed}: {problem}")
    return Fed(end - start, tuple(failures))


def fed(count: int) -> Fed:
    """Feed so many inputs."""
    starts = range(0, count, _CHUNK)
    with ProcessPoolExecutor(2, initializer=os.nice, initargs=(10,)) as pool:
        done = [*pool.map(_feed, starts, (min(start + _CHUNK, count) for start in starts))]
    return Fed(sum(each.inputs for each in done), tuple(failure for each in done for failure in each.failures))
