"""The variables of the founding document are settings too, where no file names a source. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def founding_environment(
    tables: dict[str, Any], environment: Mapping[str, str], origins: dict[str, str], *, has_file: bool
) -> None:
    """The variables of the founding document are enough where no file names a source."""
    get = environment.get
    hec = tables.setdefault("hec", {})
    if "urls" not in hec and get("SPLUNK_HEC_URL"):
        hec["urls"] = [url.strip() for url in environment["SPLUNK_HEC_URL"].split(",") if url.strip()]
        origins["hec.urls"] = "environment (SPLUNK_HEC_URL)"
    if not {"token", "token_file"} & hec.keys() and get("SPLUNK_HEC_TOKEN"):
        hec["token"] = environment["SPLUNK_HEC_TOKEN"]
        origins["hec.token"] = "environment (SPLUNK_HEC_TOKEN)"
    if has_file:
        return
    endpoints = _list(get("SLS_ENDPOINTS") or get("SLS_ENDPOINT", ""), ";")
    projects = _list(get("SLS_PROJECTS") or get("SLS_PROJECT", ""), ";")
    logstores = _list(get("SLS_LOGSTORES") or get("SLS_LOGSTORE", ""), ";")
    tables["source"] = [
        {
            "endpoint": endpoints[min(place, len(endpoints) - 1)] if endpoints else "",
            "project": project,
            "logstore": _list(logstores[min(place, len(logstores) - 1)], ",") if logstores else [],
            "consumer_group": get("SLS_CG", ""),
            "start": get("SLS_SIEM_START", "begin"),
            "access_key_id": get("SLS_AK_ID") or get("ALIBABA_CLOUD_ACCESS_KEY_ID", ""),
            "access_key_secret": get("SLS_AK_KEY") or get("ALIBABA_CLOUD_ACCESS_KEY_SECRET", ""),
        }
        for place, project in enumerate(projects)
    ]


def _list(text: str, separator: str) -> list[str]:
    return [one.strip() for one in text.split(separator) if one.strip()]
