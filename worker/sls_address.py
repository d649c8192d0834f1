"""Where SLS is, and which way leads there: endpoints that are addresses, this machine, proxies."""

from __future__ import annotations

import ipaddress
import urllib.request


def is_address(host: str) -> bool:
    """Whether a project's name cannot be put in front of it."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return True


def is_loopback(host: str) -> bool:
    """This machine."""
    return host == "localhost" or (is_address(host) and ipaddress.ip_address(host).is_loopback)


def choose_proxies(proxy: str, host: str) -> dict[str, str]:
    """The setting, else the environment's, but never for this machine."""
    if proxy:
        return {"http": proxy, "https": proxy}
    if is_loopback(host) or urllib.request.proxy_bypass(host):
        return {}
    found = urllib.request.getproxies()
    return {scheme: found[scheme] for scheme in ("http", "https") if scheme in found}
