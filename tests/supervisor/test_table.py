"""A table for every width: whatever is in it, every character is shown, and no line is longer than the terminal."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from supervisor.table import fold, lines, rich_text, text

CELL = st.text(st.sampled_from("abc 0,错误-"), max_size=40)
TABLE = st.integers(1, 5).flatmap(lambda n: st.lists(st.lists(CELL, min_size=n, max_size=n), min_size=1, max_size=5))


def content(shown: str) -> Counter[str]:
    return Counter(shown.replace(" ", "").replace("\n", ""))


@given(TABLE, st.integers(4, 120), st.booleans())
def test_every_character_is_shown_and_no_line_is_too_long(rows: list[list[str]], width: int, head: bool) -> None:
    made = ["".join(piece for piece, _ in line).rstrip() for line in lines(rows, width, head=head)]
    assert all(cell_len(line) <= width for line in made)
    whole = content("".join(cell for row in (rows[1:] if head and len(rows) > 1 else rows) for cell in row))
    assert not whole - content("".join(made))


@given(CELL, st.integers(2, 20))
def test_folding_loses_nothing(shown: str, width: int) -> None:
    assert content("".join(fold(shown, width))) == content(shown)
    assert fold("200,000,000,000", 10) == ["200,000,00", "0,000"]


def test_wide_enough_it_is_a_table_narrower_the_long_cells_fold_and_then_it_is_records() -> None:
    rows = [["name", "what"], ["one", "a text of some length, with words"], ["two", "short"]]

    def shown(width: int) -> list[str]:
        return ["".join(piece for piece, _ in line).rstrip() for line in lines(rows, width)]

    assert shown(80) == ["name  what", "one   a text of some length, with words", "two   short"]
    assert shown(24) == ["name  what", "one   a text of some", "      length, with words", "two   short"]
    assert shown(16) == ["name: one", "what: a text of", "some length,", "with words", "", "name: two", "what: short"]


def test_words_with_a_meaning_have_their_colour_and_hostile_characters_none() -> None:
    made = rich_text([["step", "result"], ["dns", "FAIL"]], 80)
    assert [(made.plain[span.start : span.end].strip(), span.style) for span in made.spans if span.style] == [
        ("step", "bold"), ("result", "bold"), ("FAIL", "bold red"),
    ]  # fmt: skip
    assert text("\x1b[31mred\u202e\n") == "?[31mred??"
    assert text(None) == "-"
