"""SLS's protobuf messages, in a descriptor pool of our own.

The SDK registers `LogGroup` in the default pool; a second definition there is an error, and a sender must not import the
SDK for one message. Text fields are `string`: upb hands them out as str, and as bytes where they are not UTF-8.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

__all__ = ["DecodeError", "LogGroup", "LogGroupList"]

_TYPES = {"string": 9, "uint32": 13, "fixed32": 7, "message": 11}
_OPTIONAL, _REPEATED = 1, 3
#: message -> (name, number, type, label, type of a nested message); facts: the SDK's own descriptors.
_MESSAGES: dict[str, list[tuple[str, int, str, int, str]]] = {
    "Content": [("Key", 1, "string", _OPTIONAL, ""), ("Value", 2, "string", _OPTIONAL, "")],
    "Log": [
        ("Time", 1, "uint32", _OPTIONAL, ""),
        ("Contents", 2, "message", _REPEATED, "Content"),
        ("Time_ns", 4, "fixed32", _OPTIONAL, ""),
    ],
    "LogTag": [("Key", 1, "string", _OPTIONAL, ""), ("Value", 2, "string", _OPTIONAL, "")],
    "LogGroup": [
        ("Logs", 1, "message", _REPEATED, "Log"),
        ("Reserved", 2, "string", _OPTIONAL, ""),
        ("Topic", 3, "string", _OPTIONAL, ""),
        ("Source", 4, "string", _OPTIONAL, ""),
        ("MachineUUID", 5, "string", _OPTIONAL, ""),
        ("LogTags", 6, "message", _REPEATED, "LogTag"),
    ],
    "LogGroupList": [("LogGroups", 1, "message", _REPEATED, "LogGroup")],
}


def _pool() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="sls_siem/loggroup.proto", package="sls_siem", syntax="proto2")
    for message, fields in _MESSAGES.items():
        made = file.message_type.add(name=message)
        for name, number, kind, label, nested in fields:
            made.field.add(
                name=name, number=number, type=_TYPES[kind], label=label,
                type_name=f".sls_siem.{nested}" if nested else None,
            )  # fmt: skip
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool


_POOL = _pool()
LogGroup: Any = message_factory.GetMessageClass(_POOL.FindMessageTypeByName("sls_siem.LogGroup"))
LogGroupList: Any = message_factory.GetMessageClass(_POOL.FindMessageTypeByName("sls_siem.LogGroupList"))
