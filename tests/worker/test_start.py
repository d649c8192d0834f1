"""Where a shard starts: each row of the table, and the setting `start`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buffer.values import Position
from worker.start import Where, decide, parse_start


@pytest.mark.parametrize(
    ("server", "known", "others", "where", "cursor", "epoch"),
    [
        (50, Position(1, 200, 100), True, Where.MOVED_BACK, 50, 2),
        (50, Position(3, None, 100), False, Where.MOVED_BACK, 50, 4),
        (200, Position(1, 200, 100), True, Where.CHECKPOINT, 200, 1),
        (300, Position(2, 200, 100), True, Where.CHECKPOINT, 300, 2),
        (300, None, True, Where.CHECKPOINT, 300, 1),
        (100, Position(1, None, 100), True, Where.CHECKPOINT, 100, 1),
        (100, Position(1, 200, 100), True, Where.PUT, 200, 1),
        (150, Position(1, 200, None), True, Where.PUT, 200, 1),
        (None, Position(1, 200, 100), True, Where.KNOWN, 200, 1),
        (None, Position(1, 100, 200), False, Where.KNOWN, 200, 1),
        (None, Position(2, None, 70), False, Where.KNOWN, 70, 2),
        (None, None, True, Where.BORN, None, 1),
        (None, Position(4, None, None), True, Where.BORN, None, 4),
        (None, None, False, Where.SETTING, None, 1),
        (0, Position(1, None, None), False, Where.CHECKPOINT, 0, 1),
    ],
)
def test_each_row_of_the_table(
    server: int | None, known: Position | None, others: bool, where: Where, cursor: int | None, epoch: int
) -> None:
    found = decide(server, known, others)
    assert (found.where, found.cursor, found.epoch) == (where, cursor, epoch)


_cursor = st.none() | st.integers(0, 5)


@given(server=_cursor, put=_cursor, mark=_cursor, epoch=st.integers(1, 3), others=st.booleans())
def test_nothing_that_was_not_put_is_ever_skipped(
    server: int | None, put: int | None, mark: int | None, epoch: int, others: bool
) -> None:
    """Everything below S, P or C was put by somebody; a start above all of them would lose."""
    found = decide(server, Position(epoch, put, mark), others)
    known = [one for one in (server, put, mark) if one is not None]
    if found.cursor is not None:
        assert found.cursor <= max(known)
        assert found.epoch == epoch or (server is not None and mark is not None and server < mark)
    else:
        assert not known


def test_a_start_is_begin_end_a_span_or_a_time_with_its_offset() -> None:
    assert parse_start("begin", 0) == "begin"
    assert parse_start(" end ", 0) == "end"
    assert parse_start("-2h", 10_000.9) == "2800"
    assert parse_start("-1.5d", 1e6) == "870400"
    assert parse_start("2026-01-01T00:00:00+08:00", 0) == "1767196800"
    assert parse_start("2026-01-01T00:00:00Z", 0) == "1767225600"


@pytest.mark.parametrize("text", ["", "2h", "-2 years", "2026-01-01T00:00:00", "now", "1767196800", "-h"])
def test_any_other_start_is_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(ValueError, match="use begin, end"):
        parse_start(text, 0)
