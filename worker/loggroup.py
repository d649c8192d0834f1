"""SLS's protobuf messages, in a descriptor pool of our own.

The SDK registers `LogGroup` in the default pool; a second definition there is an error, and a sender must not import the
SDK for one message. Text fields are `string`: upb hands them out as str, and as bytes where they are not UTF-8.

The same bytes can be read by another schema, too: a message that is not repeated and comes again is merged into the first,
and its repeated fields grow longer. So where `Logs` and `Contents` are said to come once and `Key` and `Value` to be
repeated, protobuf hands out all names and all values of a LogGroup as two lists, without an object for each field.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, EncodeError

__all__ = ["DecodeError", "EncodeError", "FlatGroup", "Frames", "LogGroup", "LogGroupList"]

_TYPES = {"string": 9, "bytes": 12, "uint32": 13, "fixed32": 7, "message": 11}
_OPTIONAL, _REQUIRED, _REPEATED = 1, 2, 3
#: message -> (name, number, type, label, type of a nested message); facts: the SDK's own descriptors.
_MESSAGES: dict[str, list[tuple[str, int, str, int, str]]] = {
    "Content": [("Key", 1, "string", _REQUIRED, ""), ("Value", 2, "string", _REQUIRED, "")],
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
    "Fields": [("Key", 1, "bytes", _REPEATED, ""), ("Value", 2, "bytes", _REPEATED, "")],
    "FlatLogs": [
        ("Time", 1, "uint32", _OPTIONAL, ""),
        ("Contents", 2, "message", _OPTIONAL, "Fields"),
        ("Time_ns", 4, "fixed32", _OPTIONAL, ""),
    ],
    "FlatGroup": [
        ("Logs", 1, "message", _OPTIONAL, "FlatLogs"),
        ("Reserved", 2, "bytes", _OPTIONAL, ""),
        ("Topic", 3, "bytes", _OPTIONAL, ""),
        ("Source", 4, "bytes", _OPTIONAL, ""),
        ("MachineUUID", 5, "bytes", _OPTIONAL, ""),
        ("LogTags", 6, "message", _OPTIONAL, "Fields"),
    ],
    "Frames": [("LogGroups", 1, "bytes", _REPEATED, "")],
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


def _message(name: str) -> Any:
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"sls_siem.{name}"))


LogGroup, LogGroupList = _message("LogGroup"), _message("LogGroupList")
#: A LogGroup with the fields of all its logs in two lists; the bytes of each group of a LogGroupList.
FlatGroup, Frames = _message("FlatGroup"), _message("Frames")
