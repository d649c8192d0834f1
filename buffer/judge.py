"""Whether a pull is new, a re-pull, or leaves a gap. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from buffer.values import Answer, Outcome, Position, Pull, ShardKey


def judge(pull: Pull, position: Position | None) -> Answer:
    """Against the position after the pulls before it.

    begin = position, or the first since acquisition: stored. Below: a re-pull; the reader goes on at the position, not
    at the pull's own end, because the same pull later may be longer. Above: a gap, refused.
    """
    at = position.put if position is not None and position.epoch == pull.epoch else None
    if position is not None and position.epoch > pull.epoch and position.put is not None:
        return Answer(Outcome.REPULL, position.put)
    if at is None or pull.begin == at:
        return Answer(Outcome.STORED, pull.next)
    if pull.begin < at:
        return Answer(Outcome.REPULL, at)
    return Answer(Outcome.STORED, pull.next) if pull.first else Answer(Outcome.GAP, at)


def is_behind(pull: Pull, position: Position | None) -> bool:
    """Whether a batch that the index does not know holds nothing new in this pull. One that overlaps and goes further does."""
    if position is None or position.epoch != pull.epoch:
        return position is not None and position.epoch > pull.epoch
    return position.put is not None and pull.begin < position.put and pull.next <= position.put


def after(pull: Pull, position: Position | None) -> Position:
    """The position once the pull is stored."""
    checkpoint = position.checkpoint if position is not None and position.epoch == pull.epoch else None
    return Position(pull.epoch, pull.next, checkpoint)


def judge_all(
    pulls: Iterable[Pull], known: Mapping[ShardKey, Position | None]
) -> tuple[list[Answer], dict[ShardKey, Position], list[Pull]]:
    """The answers, the positions that change, and the pulls to store."""
    now = dict(known)
    answers: list[Answer] = []
    changed: dict[ShardKey, Position] = {}
    stored: list[Pull] = []
    for pull in pulls:
        answer = judge(pull, now.get(pull.key))
        answers.append(answer)
        if answer.outcome is Outcome.STORED:
            changed[pull.key] = now[pull.key] = after(pull, now.get(pull.key))
            stored.append(pull)
    return answers, changed, stored


def merge(positions: Iterable[Position]) -> Position | None:
    """Over lanes: the highest epoch; of that epoch the highest put and checkpoint."""
    found = list(positions)
    if not found:
        return None
    epoch = max(p.epoch for p in found)
    puts = [p.put for p in found if p.epoch == epoch and p.put is not None]
    marks = [p.checkpoint for p in found if p.epoch == epoch and p.checkpoint is not None]
    return Position(epoch, max(puts, default=None), max(marks, default=None))
