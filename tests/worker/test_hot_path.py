"""What an event and a byte cost on their way, counted and not timed: calls of functions an event, copies a byte.

The bounds are about twice what was found when they were set; a loop over events in Python where there was none, a join, a
lookup for each request is several times that. docs/performance.md has the figures that are timed.
"""

from __future__ import annotations

import cProfile
import pstats
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstd

from buffer.reader import LaneReader
from buffer.settings import SpoolSettings
from buffer.spool import Spool, lane_directory
from buffer.values import Batch, Pull, ShardKey
from buffer.writer import LaneWriter
from tests.emulators.generator import Generator
from tests.emulators.generator_wire import frame
from tests.emulators.hec import HecEmulator
from tests.emulators.sls import SlsEmulator
from worker.credentials import Credentials
from worker.decode import open_pull
from worker.encode import ENCODER, Encoded, Encoder
from worker.hec import HecClient, gzip
from worker.intake import Intake
from worker.pack import Piece, Request, cut
from worker.routes import Router
from worker.settings import HecSettings, RouteSettings, SourceSettings
from worker.settle import BatchWork
from worker.sls import SlsClient
from worker.sls_answer import RawPull

KEY = ShardKey("p", "l", "g", "", 0, 1)
GROUPS = Generator(1).data(max_bytes=4_000_000)
RAW = b"".join(map(frame, GROUPS))
BODY = zstd.compress(RAW, 1)
HEC = HecSettings(urls=("http://127.0.0.1:1",))


def pull(number: int = 0) -> Pull:
    begin = 10**9 + number * len(GROUPS)
    return Pull(KEY, 1, "s", "zstd", len(RAW), begin, begin + len(GROUPS), len(GROUPS), False, False, 1.0, 1.0, BODY)


@pytest.fixture
def lane(tmp_path: Path) -> Iterator[tuple[LaneWriter, LaneReader]]:
    settings = SpoolSettings(directory=tmp_path / "spool", min_free_bytes=1 << 20, force_file_system=True)
    spool = Spool.open(settings)
    directory = lane_directory(spool.directory, spool.id, 0)
    writer, reader = LaneWriter.open(directory, settings), LaneReader.open(directory, settings)
    yield writer, reader
    for one in (reader, writer, spool):
        one.close()


def calls(work: Callable[[], object]) -> int:
    """Of functions, Python's and C's, in this thread."""
    work()  # what is found once is not counted
    profile = cProfile.Profile()
    profile.runcall(work)
    return int(pstats.Stats(profile).total_calls)  # type: ignore[attr-defined]


def copies(work: Callable[[], object], size: int) -> float:
    """Bytes taken at the same time by a step, its result among them, for each of `size`."""
    work()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        kept = work()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    del kept
    return (peak - before) / size


def encoded(compiled: bool) -> Encoded:
    return Encoder(Router((), HEC), compiled).encode(pull(), RAW)


def requests_of(found: Encoded, batch: Batch) -> list[Request]:
    made = []
    for part in cut(Piece(BatchWork("lane", batch), found, 0, 0, len(found)), HEC.max_request_bytes):
        made.append(Request(""))
        made[-1].add(part)
    return made


# calls


@pytest.mark.skipif(ENCODER != "compiled", reason="no compiled encoder here")
def test_the_compiled_encoder_makes_no_call_for_an_event() -> None:
    encoder = Encoder(Router((), HEC), compiled=True)
    made = calls(lambda: encoder.encode(pull(), RAW))
    assert made < 6 * len(GROUPS), "a few for each kind of group, none for each log"


@pytest.mark.skipif(ENCODER != "compiled", reason="no compiled encoder here")
def test_the_compiled_encoder_unfolds_json_and_reads_times_and_hosts_without_a_call_for_a_log() -> None:
    routes = (
        RouteSettings(
            topic="actiontrail*",
            json_fields=("event", "event.requestParameterJson"),
            time_field="time",
            host="field:owner_id",
        ),
        RouteSettings(
            topic="k8s*", json_fields=("user", "objectRef", "requestObject", "responseStatus", "annotations")
        ),
        RouteSettings(time_field="start_time", host="field:client_ip"),
    )
    encoder = Encoder(Router(routes, HEC), compiled=True)
    made = calls(lambda: encoder.encode(pull(), RAW))
    assert made < 6 * len(GROUPS), "as many as without such routes"
    unfolded = [
        event["event"]["event"] for event in events(encoder.encode(pull(), RAW)) if "requestParameterJson" in str(event)
    ]
    assert unfolded
    assert all(isinstance(event["requestParameterJson"], dict) for event in unfolded)


def test_the_encoder_in_python_makes_no_call_for_a_field() -> None:
    encoder = Encoder(Router((), HEC), compiled=False)
    fields = sum(1 for event in events(encoded(compiled=False)) for _ in event["event"])
    made = calls(lambda: encoder.encode(pull(), RAW))
    assert made < 0.5 * fields, "some for a log, none for a field"


def test_a_pull_on_its_way_to_the_disk_costs_the_same_however_many_logs_are_in_it(
    lane: tuple[LaneWriter, LaneReader],
) -> None:
    writer, _ = lane
    intake, number = Intake(KEY, "s"), iter(range(100))
    with SlsEmulator() as sls:
        sls.append(GROUPS, 0)
        source = SourceSettings(
            name="s", project="p", logstore="l", endpoint=sls.endpoint, consumer_group="g", start="begin", access_key_id="ak",
            access_key_secret="sk",
        )  # fmt: skip
        client = SlsClient(source, Credentials(source))
        begin = client.get_cursor_at(0, "begin")

        def way() -> None:
            found = client.pull_raw(0, begin, 1000, codec="zstd")
            assert found.raw_size == len(RAW)
            assert intake.accept(found, begin, 1, first=True) is not None
            writer.put([pull(next(number))])

        made = calls(way)
        client.close()
    assert made < 3500, "half of one for an event: what a pull costs, not what is in it"


def test_a_request_costs_the_same_however_many_events_are_in_it() -> None:
    with HecEmulator() as hec:
        client = HecClient(HecSettings(urls=(hec.url,), token=hec.token))
        body = gzip([bytes(encoded(compiled=ENCODER == "compiled").data)])
        made = calls(lambda: client.send(hec.url, hec.token, body, compressed=True))
        client.close()
    assert made < 1500


def test_reading_packing_settling_and_acking_cost_a_batch_and_not_an_event(lane: tuple[LaneWriter, LaneReader]) -> None:
    writer, reader = lane
    found = encoded(compiled=ENCODER == "compiled")
    for number in range(3):
        writer.put([pull(number)])

    def way() -> None:
        (batch,) = reader.read(0, 1, 1)
        for request in requests_of(found, batch):
            for piece in request.pieces:
                piece.work.accept(piece.encoded, piece.first, piece.count)
        reader.ack([batch])

    assert calls(way) < 1000


# copies


def test_what_came_from_sls_goes_to_the_disk_as_it_is(lane: tuple[LaneWriter, LaneReader]) -> None:
    writer, _ = lane
    came = RawPull(BODY, "zstd", len(RAW), len(GROUPS), 10**9 + len(GROUPS), 1.0, False)
    accepted = Intake(KEY, "s").accept(came, 10**9, 1, first=True)
    assert accepted is not None
    assert accepted.body is BODY
    number = iter(range(100))
    assert copies(lambda: writer.put([pull(next(number))]), len(BODY)) < 0.2


def test_a_body_is_verified_in_one_copy_of_what_it_holds() -> None:
    came = RawPull(BODY, "zstd", len(RAW), len(GROUPS), 10**9 + len(GROUPS), 1.0, False)
    assert copies(lambda: Intake(KEY, "s").accept(came, 10**9, 1, first=True), len(RAW)) < 1.2


def test_a_sender_holds_a_body_once_decompressed_and_once_as_events(lane: tuple[LaneWriter, LaneReader]) -> None:
    writer, reader = lane
    writer.put([pull()])
    assert copies(lambda: reader.read(0, 1, 1), len(BODY)) < 2.2, "the file, and the pull out of it"
    assert copies(lambda: open_pull(pull()), len(RAW)) < 1.1
    if ENCODER == "compiled":
        size = len(encoded(compiled=True).data)
        assert copies(lambda: encoded(compiled=True), size) < 1.3


def test_requests_are_compressed_from_where_their_events_lie() -> None:
    found = encoded(compiled=ENCODER == "compiled")
    batch = Batch(1, (pull(),), 1.0, 1)

    def way() -> list[bytes]:
        return [gzip([piece.view for piece in request.pieces]) for request in requests_of(found, batch)]

    assert copies(way, len(found.data)) < 0.5


def events(found: Encoded) -> list[dict[str, Any]]:
    import orjson

    return [orjson.loads(found.data[found.start(event) : found.ends[event]]) for event in range(len(found))]
