"""An SLS for tests: a real HTTP(S) server that speaks the service's protocol, and misbehaves on request.

    with SlsEmulator(project="p", logstore="l", shards=8) as sls:
        sls.fill(100_000)                       # logs of the generator, spread over the shards
        ... sls.endpoint, sls.proxy ...         # for a client that can take IP:port; for one that needs names
        sls.faults.add("status", "pull", status=500, probability=0.01)
        sls.clock.advance(3600)
        sls.store().shards[0].pulls             # what was handed out: the witness

`python -m tests.emulators.sls --port P --shards 8 --fill 100000` runs the same as a process; see `sls_program`.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.emulators.generator import Generator, Ledger
from tests.emulators.generator_wire import frame
from tests.emulators.sls_auth import AccessKey
from tests.emulators.sls_calls import Knobs
from tests.emulators.sls_control import control
from tests.emulators.sls_feed import Feeder, Pool
from tests.emulators.sls_http import HttpServer, Request, Response
from tests.emulators.sls_service import Service
from tests.emulators.sls_store import DAY, Logstore, Shard
from tests.emulators.sls_tls import Authority


class SlsEmulator:
    def __init__(
        self,
        *,
        project: str = "p",
        logstore: str = "l",
        shards: int = 1,
        port: int = 0,
        host: str = "127.0.0.1",
        tls: bool = False,
        keys: Iterable[AccessKey] = (AccessKey("ak", "sk"),),
        knobs: Knobs | None = None,
        ttl: float = 30 * DAY,
        first_cursor: int | None = None,
    ) -> None:
        self.project, self.logstore = project, logstore
        self.tls = tls
        self._host = host
        self._authority: Authority | None = None
        self.server = HttpServer(
            self._handle, host=host, port=port, tls=self._context, encrypted=tls, now=self._server_time
        )
        self.service = Service(default_project=project, stopping=self.server.stopping, knobs=knobs)
        self.service.keys.update((key.id, replace(key)) for key in keys)
        self.clock, self.faults, self.knobs = self.service.clock, self.service.faults, self.service.knobs
        self.generators: dict[tuple[str, str], Generator] = {}
        self.pools: dict[tuple[str, str], Pool] = {}
        self.asked_to_stop = threading.Event()
        self.feeder = Feeder(self)
        self._filling = threading.Lock()
        self.service.add_logstore(project, logstore, shards, ttl=ttl, first_cursor=first_cursor)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if self._authority is not None:
            self._authority.close()

    def start(self) -> None:
        self.server.start()

    def stop(self) -> None:
        """Close the port; the data stays, and `start` opens the same port again."""
        self.feeder.stop()
        self.server.stop()

    @property
    def port(self) -> int:
        return self.server.port

    @property
    def endpoint(self) -> str:
        host = "127.0.0.1" if self._host in {"", "0.0.0.0"} else self._host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"

    @property
    def proxy(self) -> str:
        """For HTTP_PROXY or HTTPS_PROXY, with any endpoint whose name is made up."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def ca_file(self) -> Path:
        if self._authority is None:
            self._authority = Authority()
        return self._authority.ca_file

    def _context(self) -> ssl.SSLContext:
        _ = self.ca_file
        if self._authority is None:
            raise RuntimeError("no authority")
        return self._authority.context()

    def _server_time(self) -> float:
        return self.clock.server_time()

    def _handle(self, request: Request) -> Response:
        if request.path.startswith("/_control/"):
            return control(self, request)
        return self.service.handle(request)

    def store(self, logstore: str | None = None, project: str | None = None) -> Logstore:
        return self.service.projects[project or self.project][logstore or self.logstore]

    def add_logstore(
        self,
        logstore: str,
        shards: int = 1,
        *,
        project: str | None = None,
        ttl: float = 30 * DAY,
        first_cursor: int | None = None,
    ) -> Logstore:
        """Also: delete what has that name and make it anew."""
        return self.service.add_logstore(project or self.project, logstore, shards, ttl=ttl, first_cursor=first_cursor)

    def append(self, groups: Iterable[bytes], shard: int | None = None, *, store: Logstore | None = None) -> int:
        """Store LogGroups on one shard, or in turn on every shard that can be written; how many."""
        target, rest, count = store or self.store(), iter(groups), 0
        while some := list(islice(rest, 256)):  # made without the lock, so that pulls go on
            with self.service.lock:
                now = self.clock.now()
                chosen = [target.shards[shard]] if shard is not None else target.writable()
                for place, group in enumerate(some, target.next_put):
                    chosen[place % len(chosen)].append(group, now)
                target.next_put += len(some)
                count += len(some)
        return count

    def fill(
        self,
        logs: int | None = None,
        *,
        max_bytes: int | None = None,
        shard: int | None = None,
        store: Logstore | None = None,
        generator: Generator | None = None,
    ) -> Ledger:
        """Append generated logs; the same generator goes on at each call, so every gen_id is made once."""
        target = store or self.store()
        source = generator or self.generators.setdefault((target.project, target.name), Generator())
        with self._filling:  # a generator's numbers go on, so two must not draw from it at once
            self.append((made.data for made in source.groups(logs, max_bytes=max_bytes)), shard, store=target)
        return source.ledger

    def repeat(self, groups: list[bytes], times: int, shard: int, *, store: Logstore | None = None) -> None:
        """Store the same groups again and again by reference: a backlog of any size in little memory."""
        framed = [frame(group) for group in groups]
        with self.service.lock:
            for _ in range(times):
                (store or self.store()).shards[shard].append_framed(framed, self.clock.now())

    def store_framed(
        self, groups: list[bytes], shard: int | None = None, *, store: Logstore | None = None, border: bool = True
    ) -> None:
        """Store framed LogGroups by reference at one moment, on one shard or in turn on every one that can be written."""
        target = store or self.store()
        with self.service.lock:
            chosen = [target.shards[shard]] if shard is not None else target.writable()
            first = target.next_put % len(chosen)
            for place, one in enumerate([*chosen[first:], *chosen[:first]]):
                one.append_framed(groups[place :: len(chosen)], self.clock.now(), border=border)
            target.next_put += 0 if border else len(groups)

    def split(self, shard: int, *, store: Logstore | None = None, count: int = 2) -> list[Shard]:
        """The new shards."""
        with self.service.lock:
            return (store or self.store()).split(shard, self.clock.now(), None, count)[1:]

    def merge(self, shard: int, *, store: Logstore | None = None) -> Shard:
        with self.service.lock:
            return (store or self.store()).merge(shard, self.clock.now())[0]

    def recreate_shard(self, shard: int, *, store: Logstore | None = None) -> Shard:
        with self.service.lock:
            return (store or self.store()).recreate_shard(shard, self.clock.now())

    def trim(self, shard: int, groups: int | None = None, *, store: Logstore | None = None) -> int:
        """Let retention take the oldest `groups` (or all) of a shard; the first cursor that is left."""
        with self.service.lock:
            target = store or self.store()
            found = target.shards[shard]
            begin = found.begin(self.clock.now(), target.ttl)
            found.forced_begin = found.end if groups is None else min(found.end, begin + groups)
            return found.forced_begin

    def checkpoints(self, group: str, *, store: Logstore | None = None) -> dict[int, int | None]:
        """Shard -> saved cursor as a number."""
        with self.service.lock:
            found = (store or self.store()).groups.get(group)
            return {} if found is None else {number: one.checkpoint for number, one in found.shards.items()}

    def drained(self, group: str, *, store: Logstore | None = None) -> bool:
        """Every shard's checkpoint is at its end."""
        saved = self.checkpoints(group, store=store)
        shards = (store or self.store()).shards
        return bool(saved) and all(saved.get(number) == shard.end for number, shard in list(shards.items()))

    def owners(self, group: str, *, store: Logstore | None = None) -> dict[int, str]:
        with self.service.lock:
            target = store or self.store()
            found = target.groups.get(group)
            if found is None:
                return {}
            found.tend(target.views(), self.clock.now())
            return {number: one.owner for number, one in found.shards.items()}


if __name__ == "__main__":
    from tests.emulators.sls_program import main

    raise SystemExit(main())
