"""bench/relay.py counts what it says that it counts: its clients notice what is missing, its page says what was found.

Nothing is timed here: only how long a run takes depends on the machine.
"""

from __future__ import annotations

import json
import shutil
import socket
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(_ROOT / "bench"))

from against import unpacked  # noqa: E402
from performance import main as write_page  # noqa: E402
from relay import _cut_short  # noqa: E402
from relayed.figures import compute  # noqa: E402
from relayed.generators import Generators, Load, Provider, Sample  # noqa: E402
from relayed.page import BEGIN, END, page, pictures  # noqa: E402
from relayed.process import CannotMeasure  # noqa: E402
from relayed.results import Results  # noqa: E402
from relayed.targets import Bench  # noqa: E402

pytestmark = [
    pytest.mark.skipif(shutil.which("gcc") is None, reason="the generators are compiled, and there is no gcc"),
    pytest.mark.skipif(shutil.which("setpriv") is None, reason="there is no setpriv (util-linux)"),
]


@pytest.fixture(scope="module")
def generators(tmp_path_factory: pytest.TempPathFactory) -> Generators:
    return Generators(tmp_path_factory.mktemp("generators"), core=0)


@pytest.fixture
def provider(generators: Generators) -> Iterator[Provider]:
    with generators.provider() as running:
        yield running


def _measure(generators: Generators, port: int, tmp_path: Path, load: Load) -> Sample:
    keys = tmp_path / "keys"
    keys.write_text("key-of-nobody\n")
    return generators.result(generators.start_clients(port, load, keys, {}))


@pytest.mark.parametrize("is_stream", [True, False])
def test_all_that_the_provider_sends_is_counted(
    generators: Generators, provider: Provider, tmp_path: Path, is_stream: bool
) -> None:
    found = _measure(generators, provider.port, tmp_path, Load(4, 0.2, 0, is_stream))["all"]
    sent = provider.counts()
    assert found["answers"] == sent["finished"] > 0
    assert found["events"] == sent["events"] == (66 * found["answers"] if is_stream else 0)
    assert found["body_bytes"] == found["answers"] * sent[f"body_bytes_of_{'stream' if is_stream else 'json'}"]
    assert [found[name] for name in ("lost_events", "disordered", "broken", "refused", "wrong", "unfinished")] == [
        0
    ] * 6


def test_paced_events_are_timed_one_by_one(generators: Generators, provider: Provider, tmp_path: Path) -> None:
    sample = _measure(generators, provider.port, tmp_path, Load(2, 0.5, 0, pace_ms=1))
    assert sample["all"]["lost_events"] == 0
    assert sample["gap_us"]["count"] > 0
    assert sample["delay_us"]["count"] > 0


def _without_an_event(answer: bytes) -> bytes:
    """The tenth delta is left out, and the frame that it came in."""
    begin = answer.index(b"#09") - answer[: answer.index(b"#09")][::-1].index(b"\n\r") - 4
    end = answer.index(b"#0a") - answer[: answer.index(b"#0a")][::-1].index(b"\n\r") - 4
    return answer[:begin] + answer[end:]


def _broken_off(answer: bytes) -> bytes:
    return answer[: len(answer) // 2]


def _without_its_end(answer: bytes) -> bytes:
    return answer.replace(b"event: message_stop", b"event: message_stup")


def _refused(_: bytes) -> bytes:
    return b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy"


@pytest.mark.parametrize(
    ("change", "counted"),
    [
        (_without_an_event, {"lost_events": 1, "disordered": 1}),
        (_broken_off, {"broken": 1}),
        (_without_its_end, {"wrong": 1}),
        (_refused, {"refused": 1}),
    ],
)
def test_what_a_relay_spoils_is_noticed(
    generators: Generators, provider: Provider, tmp_path: Path, change: Any, counted: dict[str, int]
) -> None:
    """A relay that answers one request, badly, and then closes."""
    with socket.create_connection(("127.0.0.1", provider.port)) as upstream:
        upstream.sendall(b'POST / HTTP/1.1\r\nContent-Length: 14\r\n\r\n{"stream":true')
        answer = b""
        while not answer.endswith(b"\r\n0\r\n\r\n"):
            answer += upstream.recv(65536)
    spoiled = change(answer).replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
    assert spoiled != answer
    with socket.create_server(("127.0.0.1", 0)) as relay:

        def serve() -> None:
            client, _ = relay.accept()
            with client:
                client.recv(65536)
                time.sleep(0.1)  # until the clients' time is up, so that they do not ask again
                client.sendall(spoiled)

        thread = threading.Thread(target=serve)
        thread.start()
        found = _measure(generators, relay.getsockname()[1], tmp_path, Load(1, 0.001, 0))["all"]
        thread.join()
    assert {name: found[name] for name in counted} == counted
    if change is _broken_off:
        assert found["lost_events"] > 0


def test_a_refusal_is_no_answer(generators: Generators, tmp_path: Path) -> None:
    """It is had sooner than an answer, and would make a relay that does nothing the fastest of all."""
    with socket.create_server(("127.0.0.1", 0)) as relay:

        def serve() -> None:
            client, _ = relay.accept()
            with client:
                while client.recv(65536):
                    client.sendall(_refused(b""))

        thread = threading.Thread(target=serve)
        thread.start()
        sample = _measure(generators, relay.getsockname()[1], tmp_path, Load(1, 0.2, 0))
        thread.join()
    assert sample["all"]["refused"] > 0
    assert (sample["answers"], sample["answer_us"]) == (0, None)


def _row(target: str, **fields: Any) -> dict[str, Any]:
    timed = {"p50": 1000.0, "p90": 2000.0, "p99": 3000.0, "p999": 4000.0, "max": 5000.0}
    row = {"target": target, "seconds": 1.0, "answers": 100, "events": 6600, "cores_busy": [1.0, 0.5], "round": 0}
    return row | {"cpu_seconds": {"target": 0.66}, "first_us": timed, "gap_us": timed} | fields


def _results() -> Results:
    """As a run would find them: the goproxy twice as fast as nginx, and at half its cost."""
    results = Results(
        size="full",
        machine={
            "cores": 2,
            "processor": "a processor",
            "kernel": "6",
            "python": "3.11",
            "load_before": 1.5,
            "packages": {"uvloop": "1"},
            "file_system": "ext4",
            "fdatasync_us": {"p50": 200.0, "p99": 900.0},
        },
        commit="0123456789abcdef",
    )
    fast = {"goproxy": {"answers": 200, "cpu_seconds": {"target": 0.33}}}
    names = ("provider", "haproxy", "nginx", "goproxy", "litellm")
    results.measured = {
        "throughput": [
            _row(name, kind=kind, connections=64, **fast.get(name, {})) for kind in ("stream", "json") for name in names
        ],
        "paced": [
            _row(name, streams=streams, pace_ms=20.0, **fast.get(name, {}))
            for streams in (300, 1000)
            for name in names[:4]
        ],
        "first_event": [_row(name, streams=64) for name in names[:4]],
        "memory": [_row("goproxy", streams=2000, idle_kib=40_000, loaded_kib=60_000, after_kib=42_000)],
        "chain": [_row("edge and goproxy", kind=kind) for kind in ("stream", "json", "paced", "first_event")],
    }
    results.losses = {"goproxy": 0}
    results.ledger = {
        "requests": 9,
        "rows": 9,
        "token_difference": 0,
        "cost_difference_nanodollars": 0,
    }
    return results


def _document(results: Results) -> dict[str, Any]:
    return json.loads(json.dumps(vars(results) | {"date": "2026-11-23T20:00:00+00:00"}))  # type: ignore[no-any-return]


def test_figures_are_ratios_to_what_ran_beside(tmp_path: Path) -> None:
    figures, missed = compute(_results(), tmp_path / "none.json")
    assert figures["relay.streams_per_s_vs_nginx"] == 2
    assert figures["relay.cpu_per_event_vs_nginx_1000"] == 0.5
    assert figures["relay.kib_per_stream_2000"] == 10
    assert figures["relay.rss_after_load_ratio"] == 1.05
    assert figures["relay.first_event_added_ms_p50"] == 0
    assert missed == ["relay.streams_per_s_vs_litellm is 2.0 and must be at least 150"]


@pytest.mark.parametrize(("refused", "problems"), [(1, 0), (2, 1), (100, 1)])
def test_a_litellm_that_refuses_is_a_problem(tmp_path: Path, refused: int, problems: int) -> None:
    """It may lose a few, and no more."""
    nothing: Any = None
    bench = Bench(nothing, nothing, tmp_path, tmp_path)
    counted = dict.fromkeys(("lost_events", "disordered", "broken", "wrong", "unfinished", "events"), 0)
    sample = {"all": counted | {"requests": 100, "refused": refused}, "provider": {"events": 0}}
    bench._check("litellm", sample, Load(64, 1, 1), {})
    assert len(bench.problems) == problems


def test_a_whole_run_misses_what_it_has_not_measured(tmp_path: Path) -> None:
    results = _results()
    results.measured["throughput"] = [row for row in results.measured["throughput"] if row["target"] != "litellm"]
    del results.measured["memory"]
    _, missed = compute(results, tmp_path / "none.json")
    assert missed == []
    _, missed = compute(results, tmp_path / "none.json", is_whole=True)
    assert "relay.streams_per_s_vs_litellm was not measured and must be at least 150" in missed
    assert "relay.rss_idle_mb was not measured and must be at most 64" in missed


def test_what_is_posted_later_is_counted(tmp_path: Path) -> None:
    """200 answers in the window, of 0.33 s of CPU; 300 in all, of 1.2 s, and 60 rows were not posted at the end."""
    results = _results()
    for row in (*results.measured["throughput"], *results.measured["paced"]):
        if row["target"] == "goproxy":
            row["whole"] = {"requests": 300, "events": 19_800, "cpu_seconds": {"target": 1.2}}
            row["settled"] = {"after_seconds": 3.0, "backlog": 60}
    figures, _ = compute(results, tmp_path / "none.json")
    assert figures["relay.streams_per_s_vs_nginx"] == 2
    assert figures["relay.cpu_per_stream_vs_nginx"] == round(1.2 / 300 / (0.66 / 100), 3)
    assert figures["relay.cpu_per_event_vs_nginx_300"] == round(1.2 / 19_800 / (0.66 / 6600), 3)
    assert figures["relay.json_backlog_share"] == 0.2


def test_a_run_that_is_cut_short_is_not_published() -> None:
    whole = {"size": "full", "only": None, "targets": None, "connections": (), "seconds": None, "rounds": None}
    assert not _cut_short(Namespace(**whole))
    for name, value in {"size": "quick", "rounds": 1, "seconds": 1.0, "only": ["memory"]}.items():
        assert _cut_short(Namespace(**whole | {name: value}))


def test_what_is_not_as_it_must_be_is_named(tmp_path: Path) -> None:
    results = _results()
    results.losses["goproxy"] = 1
    results.ledger = {"requests": 9, "rows": 8, "token_difference": 0, "cost_difference_nanodollars": -5}
    _, missed = compute(results, tmp_path / "none.json")
    assert "relay.lost_events is 1 and must be at most 0" in missed
    assert "the ledger has 8 rows of 9 requests" in missed
    assert "the ledger's cost_difference_nanodollars is -5 and must be 0" in missed


def test_figures_of_a_deployment_are_taken_over(tmp_path: Path) -> None:
    deploy = tmp_path / "deploy.json"
    deploy.write_text(json.dumps({"figures": {"deploy.nochange_50_vs_2": 1.2, "deploy.other": 3}}))
    figures, _ = compute(_results(), deploy)
    assert figures["deploy.nochange_50_vs_2"] == 1.2
    assert "deploy.other" not in figures


def test_a_page_is_made_and_then_agrees(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = _results()
    results.figures, _ = compute(results, tmp_path / "none.json")
    (tmp_path / "docs").mkdir()
    (tmp_path / "figures").mkdir()
    written = tmp_path / "docs" / "performance.md"
    written.write_text(f"# Before\n\n{BEGIN}\n{END}\n\nAfter.\n")
    source = tmp_path / "figures" / "relay.json"
    source.write_text(json.dumps(_document(results)))
    assert write_page(["--check"], tmp_path) == 1
    assert write_page([], tmp_path) == 0
    assert write_page(["--check"], tmp_path) == 0
    text = written.read_text()
    assert text.startswith("# Before\n")
    assert text.endswith("After.\n")
    assert "| relay.streams_per_s_vs_nginx | 2 | at least 0.45 |" in text
    assert "| relay.streams_per_s_vs_litellm | 2 | at least 150: missed |" in text
    assert "| relay.rss_idle_mb | 41 | at most 64 |" in text
    assert "**something else was at work, do not trust these**" in text
    source.write_text(source.read_text().replace('"answers": 200', '"answers": 201'))
    capsys.readouterr()
    assert write_page(["--check"], tmp_path) == 1
    assert "docs/performance.md does not agree with figures/relay.json" in capsys.readouterr().err


def test_pictures_are_well_formed_and_say_their_values() -> None:
    from xml.etree import ElementTree

    found = pictures(_document(_results()))
    assert len(found) == 3
    for picture in found.values():
        assert ElementTree.fromstring(picture).attrib["aria-label"]
    assert "goproxy 200" in found["performance-throughput.svg"]


def test_a_page_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="the markers are missing"):
        page("# Nothing here\n", None)


def test_the_committed_page_agrees_with_the_committed_results() -> None:
    assert write_page(["--check"]) == 0


def test_a_commit_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(CannotMeasure, match="'no-such-commit' is no commit of this repository that has a goproxy"):
        unpacked("no-such-commit", tmp_path)
