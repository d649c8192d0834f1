"""How the values of the fields of audit logs look.

Addresses are those reserved for documentation (RFC 5737) and private ones; names and ids are invented.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random

#: a constant, or something made anew for each template
Value = str | Callable[[Random], str]


def digits(count: int) -> Callable[[Random], str]:
    return lambda random: "".join(random.choices("0123456789", k=count))


def hexadecimal(count: int) -> Callable[[Random], str]:
    return lambda random: f"{random.getrandbits(count * 4):0{count}x}"


def pick(*values: str) -> Callable[[Random], str]:
    return lambda random: random.choice(values)


def number(low: int, high: int) -> Callable[[Random], str]:
    return lambda random: str(random.randint(low, high))


def outside(random: Random) -> str:
    return f"{random.choice(('198.51.100', '203.0.113', '192.0.2'))}.{random.randint(1, 254)}"


def inside(random: Random) -> str:
    return f"10.{random.randint(0, 31)}.{random.randint(0, 255)}.{random.randint(1, 254)}"


USER = pick("alice", "bob", "carol", "ops-bot", "张伟", "李娜")
METHOD = pick("GET", "GET", "GET", "POST", "PUT", "DELETE")
STATUS = pick("200", "200", "200", "204", "301", "404", "500", "-")
OWNER = "1234567890123456"
REGION = pick("cn-hangzhou", "cn-shanghai", "ap-southeast-1")


def path(random: Random) -> str:
    words = (random.choice(("api", "v1", "orders", "login", "static", "img", "users")) for _ in range(2))
    return f"/{'/'.join(words)}/{random.getrandbits(48):x}?t={random.getrandbits(64)}"


def object_name(random: Random) -> str:
    name = random.choice(("a%2Fb", "logs%2F2026%2F01%2F01", "%E5%9B%BE%E7%89%87"))
    return random.choice((f"{name}%2F{random.getrandbits(96):x}.gz", f"{name}-{random.getrandbits(64)}.txt", "-"))


def agent(random: Random) -> str:
    minor = random.randint(90, 140)
    return random.choice(
        (
            f"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{minor}.0.0.0",
            f"aliyun-sdk-go/2.{minor % 10}.{minor % 23} (Linux/5.10.{minor}/x86_64;go1.22)",
            "curl/8.5.0",
            "-",
        )
    )


def sql(random: Random) -> str:
    table, number = random.choice(("orders", "users", "payments")), random.randint(1, 10**6)
    return random.choice(
        (
            f"SELECT * FROM {table} WHERE id={number}",
            f'UPDATE {table} SET note="it\'s\n\tfine" WHERE id IN ({number}, {number + 1}) -- 备注',
            f"INSERT INTO {table} (a, b) VALUES ({number}, 'x\\\\y')",
        )
    )


def actiontrail(random: Random) -> str:
    """An ActionTrail event: a JSON string, with JSON in a string in it."""
    name, service = random.choice(
        (("AuthorizeSecurityGroup", "Ecs"), ("ConsoleSignin", "AasCustomer"), ("PutBucketAcl", "Oss"))
    )
    parameters = {
        "PortRange": f"{random.randint(1, 65535)}/22",
        "SourceCidrIp": "0.0.0.0/0",
        "RegionId": REGION(random),
    }
    event = {
        "eventId": hexadecimal(32)(random),
        "eventVersion": "1",
        "eventCategory": "Management",
        "eventType": "ConsoleSignin" if name == "ConsoleSignin" else "ApiCall",
        "eventName": name,
        "eventRW": random.choice(("Write", "Read")),
        "eventSource": f"{service.lower()}.aliyuncs.com",
        "serviceName": service,
        "acsRegion": REGION(random),
        "eventTime": "2026-01-01T00:00:01Z",
        "sourceIpAddress": outside(random),
        "userAgent": agent(random),
        "requestId": hexadecimal(32)(random).upper(),
        "errorCode": random.choice(("", "", "NoPermission")),
        "requestParameterJson": json.dumps(parameters),
        "userIdentity": {
            "type": "ram-user",
            "accountId": OWNER,
            "principalId": digits(18)(random),
            "userName": USER(random),
        },
        "additionalEventData": {"mfaChecked": "false", "loginAccount": "alice@example.com"},
    }
    return json.dumps(event, ensure_ascii=False)


def kubernetes_user(random: Random) -> str:
    return json.dumps(
        {"username": f"system:serviceaccount:{USER(random)}", "groups": ["system:authenticated"]}, ensure_ascii=False
    )
