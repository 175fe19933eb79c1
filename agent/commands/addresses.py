"""What a person is told about where a server is: addresses that a browser of this machine can open."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

MICROPHONE = (
    "Browsers lend a microphone to 127.0.0.1, [::1] and localhost, and to other machines over https only: "
    "set access.certificate"
)


def address_here(host: str) -> str:
    """What stands for `host` in a URL: brackets around IPv6, loopback where a server listens on all addresses."""
    address = _parse(host or "0.0.0.0")
    if address is None:
        return host
    loopback = "::1" if address.version == 6 else "127.0.0.1"
    shown = loopback if address.is_unspecified else host
    return f"[{shown}]" if address.version == 6 else shown


def is_loopback(host: str) -> bool:
    """Whether this machine alone can reach a server that listens there."""
    address = _parse(host)
    return host == "localhost" if address is None else address.is_loopback


def _parse(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:  # a name
        return None
