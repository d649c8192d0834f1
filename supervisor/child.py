"""One child as the supervisor sees it: a slot, a state, deadlines, failures. It decides; the loop acts. Pure over `now`."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from worker.backoff import respawn_wait

#: Seconds: to the first beat; without a beat; from SIGABRT (all stacks are printed) to SIGKILL; a life that is no failure.
BOOT_TIMEOUT, HANG_TIMEOUT, ABORT_GRACE, STABLE_AFTER = 60.0, 180.0, 2.0, 10.0
#: Seconds in which no child has lived STABLE_AFTER: then it is the machine or a defect, exit 70.
CRASH_LOOP_PATIENCE = 300.0


class State(enum.Enum):
    """supervisord's words."""

    BACKOFF = "backoff"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"


class Action(enum.Enum):
    """What the loop is to do."""

    NOTHING = "nothing"
    START = "start"
    ABORT = "abort"
    KILL = "kill"


@dataclass(slots=True)
class Child:
    """A slot; its process comes and goes."""

    kind: str
    slot: int
    index: int
    state: State = State.BACKOFF
    pid: int = 0
    start_at: float = 0.0
    started: float = 0.0
    first_beat: float = 0.0
    has_run: bool = False
    """Its first beat has been seen, in this life or an earlier one."""
    aborted_at: float = 0.0
    excused: float = 0.0
    """As good as a beat: it was seen waiting for a disk (no signal reaches it, and another would wait too), or nobody looked,
    because the machine slept.
    """
    stop_deadline: float = 0.0
    failures: int = 0
    restarts: int = 0
    wanted: bool = True
    """False: it is not to come back (stop, or `--once` is done)."""

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.slot}"

    def check(self, now: float, beat: float) -> Action:
        """What to do about it, by its last beat (0 before the first; after its end what the board still has)."""
        self.has_run = self.has_run or beat > 0
        if self.state is State.BACKOFF:
            return Action.START if self.wanted and now >= self.start_at else Action.NOTHING
        if self.state is State.STOPPED:
            return Action.NOTHING
        if self.aborted_at:
            return Action.KILL if now >= self.aborted_at + ABORT_GRACE else Action.NOTHING
        if self.state is State.STOPPING:
            return Action.KILL if now >= self.stop_deadline else Action.NOTHING
        if not beat:
            return Action.ABORT if now >= max(self.started, self.excused) + BOOT_TIMEOUT else Action.NOTHING
        if self.state is State.STARTING:
            self.state, self.first_beat = State.RUNNING, now
        return Action.ABORT if now >= max(beat, self.excused) + HANG_TIMEOUT else Action.NOTHING

    def born(self, pid: int, now: float) -> None:
        """A process was started."""
        self.pid, self.state, self.started = pid, State.STARTING, now
        self.first_beat = self.aborted_at = self.excused = 0.0

    def stop(self, deadline: float, *, come_back: bool = False) -> None:
        """TERM was sent to it."""
        self.state, self.stop_deadline, self.wanted = State.STOPPING, deadline, come_back

    def ended(self, now: float, chance: float, *, clean: bool) -> None:
        """Its process is gone; a clean end and a recycle are no failures."""
        if clean or (self.first_beat and now - self.first_beat >= STABLE_AFTER):
            self.failures = 0
        if not clean:
            self.failures += 1
        self.pid = 0
        if not self.wanted:
            self.state = State.STOPPED
            return
        self.state = State.BACKOFF
        self.restarts += 1
        self.start_at = now + respawn_wait(self.failures, chance)


def has_lived(child: Child, now: float) -> bool:
    """Whether it has been running for so long that its death would be no failure to start."""
    return child.first_beat > 0 and child.state is State.RUNNING and now - child.first_beat >= STABLE_AFTER


def is_crash_loop(children: list[Child], last_stable: float, now: float) -> bool:
    """For five minutes no child has lived ten seconds past its first beat, and all keep failing."""
    living = any(has_lived(child, now) for child in children)
    wanted = [c for c in children if c.wanted]
    failing = bool(wanted) and all(c.failures >= 3 for c in wanted)
    return failing and not living and now - last_stable >= CRASH_LOOP_PATIENCE
