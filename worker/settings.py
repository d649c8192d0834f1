"""The tables of the settings that concern SLS, routes and Splunk."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from buffer.settings import MIB, Section, SpoolSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSettings(Section):
    """One logstore to read. Any key but name, project and logstore may stand in `[source_defaults]`."""

    name: str
    """Unique; default: the logstore."""
    project: str
    """The SLS project."""
    logstore: str
    """The logstore in it; or a list: a source each, named after it."""
    endpoint: str
    """`https://` unless it says otherwise; `IP:port` works."""
    consumer_group: str
    """The same on all hosts that share the work; made by its first run. One source of a logstore each."""
    start: str
    """begin | end | ISO time with offset | -2h. Counts in the group's first run only."""
    access_key_id: str = field(default="", repr=False)
    """Of a RAM user with the policy of docs/ram-policy.json."""
    access_key_secret: str = field(default="", repr=False)
    """Better `"${credential:sls_ak}"` or a `credentials_file` than the text itself."""
    security_token: str = field(default="", repr=False)
    """STS."""
    credentials_file: Path | None = None
    """JSON with access_key_id, access_key_secret and security_token; re-read when it changes."""
    region: str = ""
    """When set, requests are signed with version 4."""
    query: str = ""
    """SPL, run by SLS before the wire. Two queries on one logstore are two sources, each with a group of its own."""
    codec: Literal["auto", "zstd", "lz4"] = "auto"
    """How SLS compresses: `auto` asks for zstd and takes lz4 where there is none; `zstd`, `lz4`."""
    heartbeat_interval: float = 5.0
    """Seconds."""
    consumer_timeout: float = 30.0
    """Seconds after which SLS gives a silent consumer's shards away."""
    max_groups: int = 1000
    """LogGroups a pull may bring, 1 to 1000."""
    allow_plaintext: bool = False
    """Plain http to anything but loopback."""
    ca_file: Path | None = None
    """Certificates to trust in place of the system's: for a proxy that looks into TLS."""
    proxy: str = field(default="", repr=False)
    """`http://[user:password@]host:port`; default: the environment's `HTTPS_PROXY`, `NO_PROXY`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteSettings(Section):
    """Which sourcetype, index and shape a topic's events get. The first route that matches wins."""

    name: str = ""
    """In metrics and holds; default: the topic glob, or the place in the file."""
    topic: str = "*"
    """Glob over `__topic__`."""
    source_name: str = "*"
    """Glob over the source's name."""
    logstore: str = "*"
    """Glob over the logstore."""
    sourcetype: str = ""
    """Default: hec.sourcetype, else by the topic, such as `aliyun:rds:audit`."""
    index: str = ""
    """Default: hec.index."""
    source: str = ""
    """Splunk's source; default sls:<project>/<logstore>."""
    host: str = ""
    """`source` (__source__), `hostname` (__tag__:__hostname__), `project`, `field:<name>`, or a text after `=`.
    Default: __source__ unless empty, else __tag__:__hostname__, else the project."""
    json_fields: tuple[str, ...] = ()
    """Fields whose JSON text is unfolded into objects; dotted paths, JSON in JSON too."""
    time_field: str = ""
    """A field that holds the event's time: epoch seconds, ms, us, ns, or ISO 8601."""
    token: str = field(default="", repr=False)
    """A token of its own; default: hec.token."""
    fields: dict[str, str] = field(default_factory=dict)
    """Few, flat, added to the envelope's `fields`."""
    drop: bool = False
    """Do not send; counted as filtered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HecSettings(Section):
    """Splunk's HTTP Event Collector."""

    urls: tuple[str, ...]
    """`https://host:8088`, one or more; shared out between them, and around those that do not take."""
    token: str = field(default="", repr=False)
    """Or a `token_file`."""
    token_file: Path | None = None
    """Re-read when it changes. Several tokens, one a line, for a rotation that overlaps: the first is preferred, and an
    endpoint that refuses it is asked with the next, and with the one the file held before."""
    index: str = ""
    """For what no route sets; empty: the token's own default."""
    sourcetype: str = ""
    """For what no route sets; empty: by the topic, such as `aliyun:rds:audit`."""
    source: str = ""
    """For what no route sets; empty: `sls:<project>/<logstore>`."""
    ack: Literal["off", "auto", "required"] = "auto"
    """Indexer acknowledgement: `off`, `auto` (when the token asks for it), `required`."""
    max_request_bytes: int = 4 * MIB
    """Uncompressed. Splunk Cloud takes between 5 and 6 MB; what an endpoint refuses for its size is learned and remembered."""
    in_flight: int = 4
    """Requests per sender."""
    timeout: float = 120.0
    """Seconds for an answer. Under 60 a slow Splunk gets events twice."""
    connect_timeout: float = 10.0
    """Seconds for a connection, TLS too."""
    trust_prefix: Literal["none", "splunk"] = "none"
    """`none`; `splunk`: events in front of a refused one were taken, as Splunk itself does; look-alikes may not."""
    on_incorrect_index: Literal["hold", "dead-letter", "fallback"] = "hold"
    """`hold`: park its events until the index takes them; `dead-letter`: bury them; `fallback`: send them to `fallback_index`."""
    fallback_index: str = ""
    """Of `on_incorrect_index = "fallback"`; must be allowed to the token."""
    max_bytes_per_second: int = 0
    """Uncompressed, whole supervisor; 0: no limit."""
    id_field: Literal["event", "fields", "none"] = "event"
    """Where `sls_id` goes: `event`, `fields` (indexed), `none`."""
    ca_file: Path | None = None
    """Certificates to trust in place of the system's. Used anew when the file changes, as are `client_cert` and `client_key`."""
    client_cert: Path | None = None
    """PEM, for an endpoint that wants one."""
    client_key: Path | None = None
    """PEM; default: in `client_cert`."""
    verify_tls: bool = True
    """`false` trusts anybody: for a test only."""
    proxy: str = field(default="", repr=False)
    """`http://[user:password@]host:port`; default: the environment's `HTTPS_PROXY`, `NO_PROXY`."""
    gzip: bool = True
    """Compress requests."""
    ack_timeout: float = 300.0
    """Seconds until what was not acknowledged is sent again, on a new channel."""
    max_unacked_bytes: int = 64 * MIB
    """Uncompressed, of one sender; over it no more is sent until Splunk has acknowledged. It takes no memory."""
    allow_plaintext: bool = False
    """Plain http, and the token with it, to anything but loopback."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings(Section):
    """Our own log lines, JSON, on stderr."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """`debug`, `info`, `warning`, `error`."""
    file: Path | None = None
    """Into this file too: 100 MB, then it becomes `<file>.1` and so on to `.5`. Only the supervisor writes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """All that a child is given. Plain frozen data: it is pickled to the child by spawn."""

    sources: tuple[SourceSettings, ...]
    routes: tuple[RouteSettings, ...]
    hec: HecSettings
    spool: SpoolSettings
    log: LogSettings
    checkpoint: Literal["spooled", "delivered"] = "spooled"
