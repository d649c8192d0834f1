"""`scripts/demo`: the main job, live, with a verdict at the end."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tests.end_to_end.house import House

BARS = "▁▂▃▄▅▆▇█"
#: Seconds for the rest to drain, when no more logs come.
PATIENCE = 60.0


@dataclass
class Act:
    """Something that happens at a second of the demo."""

    at: float
    says: str
    does: Callable[[House], None]
    done: bool = False


def outage(on: bool) -> Callable[[House], None]:
    """Splunk answers 503 from now on, or takes again."""
    return lambda house: house.hec.post("outage", on=on) and None


def kill_a_child(house: House) -> None:
    """kill -9, as the kernel would."""
    children = [c for c in house.status().get("children", []) if c["kind"] == "sender" and c["pid"]]
    if children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(children[0]["pid"]), signal.SIGKILL)


@dataclass
class Picture:
    """What is shown: numbers of the emulators and of status.json, never of our own counting."""

    seconds: float
    generated: int = 0
    delivered: int = 0
    stored: int = 0
    rates: deque[float] = field(default_factory=lambda: deque([0.0] * 60, maxlen=60))
    says: str = "starting"
    status: dict[str, Any] = field(default_factory=dict)
    checkpoints: tuple[int, int] = (0, 0)

    def update(self, house: House, elapsed: float) -> None:
        """Ask both emulators, read status.json."""
        before = self.delivered
        sls, hec = house.sls.get("stats"), house.hec.get("stats")
        self.generated = sum(s["logs"] for s in sls["generated"].values())
        self.delivered, self.stored = hec["distinct"], hec["stored"]
        marks = [s["checkpointed"].get("g", {"done": 0, "left": s["groups"]}) for s in sls["logstores"]]
        self.checkpoints = sum(m["done"] for m in marks), sum(m["done"] + m["left"] for m in marks)
        self.rates.append((self.delivered - before) / max(elapsed, 0.001))
        self.status = house.status()

    def spark(self) -> str:
        """The delivery rate of the last half minute."""
        top = max(self.rates) or 1
        return "".join(BARS[min(7, int(8 * rate / top))] for rate in self.rates)

    def line(self, clock: float) -> str:
        """For what is not a terminal."""
        spool = self.status.get("spool") or {}
        done, of = self.checkpoints
        return (
            f"{clock:5.1f} s  {self.says:<34} generated {self.generated:>7}  delivered {self.delivered:>7}"
            f"  waiting {spool.get('batches', 0):>4} batches  checkpoints {done}/{of} groups"
        )

    def render(self, clock: float) -> Panel:
        """For a terminal."""
        spool = self.status.get("spool") or {}
        rows = Table.grid(padding=(0, 2))
        rows.add_row(
            "SLS",
            f"{self.generated:,} events generated",
            f"checkpoints at {self.checkpoints[0]:,} of {self.checkpoints[1]:,} groups",
        )
        rows.add_row(
            "spool", f"{spool.get('batches', 0):,} batches wait", f"{(spool.get('bytes') or 0) / 1e6:.1f} MB on disk"
        )
        rows.add_row("Splunk", f"{self.delivered:,} events delivered", f"{self.rates[-1]:,.0f} a second")
        children = Text()
        for child in self.status.get("children", []):
            style = "green" if child["state"] == "running" else "yellow"
            children.append(f" {child['name']} ", style=style)
            if child["restarts"]:
                children.append(f"(restarted {child['restarts']}) ", style="yellow")
        holds = Text(
            "\n".join(f"hold {h['kind']} {h['name']}: {h['error']}" for h in self.status.get("holds", [])[:3]),
            style="red",
        )
        bar = ProgressBar(total=max(self.generated, 1), completed=self.delivered)
        body = Group(Text(self.says, style="bold"), rows, Text(self.spark(), style="cyan"), bar, children, holds)
        return Panel(body, title=f"sls-siem demo · {clock:.0f} s · {self.status.get('state', '…')}", width=100)


def is_over(clock: float, seconds: float, *, all_there: bool) -> bool:
    """All is delivered, or has had time enough to be."""
    return clock > seconds + (0.0 if all_there else PATIENCE)


def play(house: House, seconds: float, console: Console) -> Picture:
    """Feed for `seconds`, with the acts in between, then wait until all is delivered or PATIENCE is over."""
    acts = [
        Act(0, "logs flow", lambda _: None),
        Act(seconds * 0.25, "Splunk is down: the spool grows", outage(True)),
        Act(seconds * 0.6, "Splunk is back: the spool drains", outage(False)),
        Act(seconds * 0.75, "a sender was killed (kill -9)", kill_a_child),
    ]
    picture = Picture(seconds)
    began = last = time.monotonic()
    live = Live(console=console, refresh_per_second=8) if console.is_terminal else None
    with live or contextlib.nullcontext():
        while True:
            clock = time.monotonic() - began
            for act in acts:
                if not act.done and clock >= act.at:
                    act.does(house)
                    act.done, picture.says = True, act.says
            if clock < seconds:
                house.sls.post("append", logs=1500)
            else:
                picture.says = "no more logs; the rest drains"
            now = time.monotonic()
            picture.update(house, now - last)
            last = now
            if live:
                live.update(picture.render(clock))
            else:
                console.print(picture.line(clock), soft_wrap=True)
            if is_over(clock, seconds, all_there=picture.delivered >= picture.generated):
                return picture
            time.sleep(0.5 if live else 1.0)


def verdict(house: House, code: int, console: Console) -> int:
    """Generated and delivered, by the ids that the emulators reckoned, each for itself."""
    expected, delivered = house.expected(), house.delivered()
    lost, invented = expected - delivered.keys(), delivered.keys() - expected
    twice = {i: n for i, n in delivered.items() if n > 1}
    table = Table(title="verdict", show_header=False)
    for name, value in (
        ("generated", f"{len(expected):,} events"),
        ("delivered", f"{len(delivered):,} events"),
        ("lost", f"{len(lost):,}"),
        ("invented", f"{len(invented):,}"),
        ("duplicated", f"{len(twice):,} (same sls_id; the killed sender had them open)"),
        ("supervisor's exit code", str(code)),
    ):
        table.add_row(name, value)
    console.print(table)
    good = not lost and not invented and code == 0 and bool(expected)
    console.print("[bold green]nothing was lost[/]" if good else "[bold red]FAILED[/]")
    return 0 if good else 1


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=40, help="how long logs are generated (default 40)")
    parser.add_argument("--json", action="store_true", help="print the final status as JSON, for scripts")
    given = parser.parse_args()
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory(prefix="sls-siem-demo-") as work:
        house = House(
            Path(work), shards=8, consumers=4, senders=2, toml='[log]\nlevel = "error"', sls_options=("--nasty", "0.01")
        )
        with house:
            house.start()
            picture = play(house, given.seconds, console)
            code = house.stop()
            if given.json:
                sys.stdout.write(json.dumps(picture.status) + "\n")
            result = verdict(house, code, console)
            if result:
                console.print(house.tail(), markup=False)
            return result


if __name__ == "__main__":
    raise SystemExit(main())
