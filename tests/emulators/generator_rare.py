"""The topics that are rare in the mix, so that every route is exercised: name, logstore and fields.

`host:inside` means a field made by that maker; a field without one is a short constant. All have the same small share.
"""

from __future__ import annotations

from tests.emulators.generator_values import (
    OWNER,
    STATUS,
    USER,
    Value,
    agent,
    hexadecimal,
    inside,
    number,
    outside,
    path,
    sql,
)

MAKERS: dict[str, Value] = {
    "agent": agent,
    "hex": hexadecimal(32),
    "in": inside,
    "out": outside,
    "n": number(1, 100_000),
    "port": number(1, 65535),
    "path": path,
    "sql": sql,
    "status": STATUS,
    "user": USER,
    "owner": OWNER,
    "json": '{"a":"1","b":{"c":["x","y"]}}',
    "text": "值 value",
}

_DATABASE = "instance_id instance_name:text db_type db:text user:user client_ip:in sql:sql fail latency:n thread_id:n"
_ACCESS = "host http_user_agent:agent real_client_ip:out request_method request_path:path status:status cc_action"
_SAS = "uuid:hex ip:in "

_RARE: tuple[tuple[str, str, str], ...] = (
    ("actiontrail_event", "actiontrail_log", "owner_id:owner event:json"),
    ("sas-vul-log", "sas_log", _SAS + "name:text alias_name:text op status level tag type extend_content:json"),
    (
        "sas-hc-log",
        "sas_log",
        _SAS + "check_name:text check_level check_type level op risk_name:text",
    ),
    (
        "sas-log-dns",
        "sas_log",
        "qname qtype src_ip:in src_port:port dst_ip:out dst_port:port answer:text",
    ),
    ("local-dns", "sas_log", "hostname:text ip:in group_id dns_query:text region time:n anwser_name:text"),
    ("sas-log-session", "sas_log", "src_ip:in src_port:port dst_ip:out dst_port:port proto session_time:n asset_type"),
    ("sas-log-http", "sas_log", "host uri:path src_ip:out dst_ip:in method ret_code:status request_body:json referer"),
    ("aegis-log-login", "sas_log", _SAS + "warn_ip:out warn_port:port warn_type warn_user:user warn_count:n"),
    (
        "aegis-log-network",
        "sas_log",
        _SAS + "src_ip:in src_port:port dst_ip:out dst_port:port dir proc_name proc_path:path",
    ),
    (
        "aegis-snapshot-process",
        "sas_log",
        _SAS + "cmdline:path md5:hex name path:path pid:n pname user:user",
    ),
    ("aegis-snapshot-port", "sas_log", _SAS + "dir src_ip:in src_port:port proto proc_name pid:n"),
    (
        "aegis-snapshot-host",
        "sas_log",
        _SAS + "account_expire name:user perm home_dir:path groups:json",
    ),
    ("rds_slow_log", "rds_log", _DATABASE + " query_time:n lock_time:n rows_examined:n"),
    ("polardb_audit_log", "polardb_log", "cluster_id node_id " + _DATABASE),
    ("drds_audit_log", "drds_log", _DATABASE + " sql_type sql_code:hex table_name trace_id:hex response_time:n"),
    (
        "oss_batch_delete_log",
        "oss_log",
        "bucket object:path request_id:hex client_ip:out User-Agent:agent",
    ),
    ("oss_metering_log", "oss_log", "bucket storage:n get_request:n put_request:n network_out:n owner_id:owner"),
    (
        "alb_layer7_access_log",
        "alb_log",
        "app_lb_id client_ip:out host request_uri:path status:status",
    ),
    ("ddoscoo_access_log", "ddos_log", _ACCESS),
    ("ddos_access_log", "ddos_log", "data_type event_type ip:in pps_in:n kbps_in:n pps_out:n kbps_out:n"),
    (
        "dns_intranet_log",
        "dns_log",
        "user_id:owner vpc_id src_addr:in src_port:port query_name rcode answer_rrset:text",
    ),
    ("redis_audit_log", "redis_log", "instance_id command:sql client_ip:in latency:n db user:user"),
    ("redis_run_log", "redis_log", "instance_id level message:text"),
    ("mongo_audit_log", "mongo_log", "instance_id param:json client_ip:in user:user optype db latency:n"),
    ("mongo_run_log", "mongo_log", "instance_id level message:text"),
    ("cps_callback_event", "cps_log", "appKey event deviceId:hex messageId:hex"),
    ("appconnect_oplog", "appconnect_log", "operator:user action target:path result"),
)


def rare_topics() -> list[tuple[str, str, dict[str, Value]]]:
    """(topic, logstore, fields)"""
    made = []
    for name, logstore, words in _RARE:
        fields: dict[str, Value] = {}
        for word in words.split():
            key, _, maker = word.partition(":")
            fields[key] = MAKERS[maker] if maker else f"{key}-1"
        made.append((name, logstore, fields))
    return made
