"""Who may come in: keys, origins of web pages, and TLS. Counts nobody and sends nothing."""

from __future__ import annotations

import hashlib
import hmac
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from websockets.datastructures import Headers

from agent.config import AccessConfig, KeyConfig
from agent.errors import ConfigError

BROWSER_KEY: Final = "openai-insecure-api-key."  # browsers can set no header, but offer subprotocols
ANY_ORIGIN: Final = "*"


class Refused(Exception):
    """Why a client is turned away, before there is a conversation."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message  # of HTTP; for programs; for people
        self.headers = headers or {}


@dataclass(frozen=True, slots=True)
class Key:
    """One that was handed out. The secret itself is not kept."""

    name: str
    digest: bytes
    max_sessions: int | None = None  # None: as many as there are
    messages_per_s: int | None = None


class Access:
    """Knows the keys that were handed out, and the web pages that are trusted."""

    def __init__(self, keys: Sequence[Key], allowed_origins: Sequence[str]) -> None:
        self._keys, self._allowed_origins = keys, allowed_origins

    def check(self, headers: Headers) -> Key | None:
        """The key that was shown; None: none is needed. Raises Refused."""
        for origin in headers.get_all("Origin"):
            self._check_origin(origin, headers.get_all("Host"))
        if not self._keys:
            return None
        shown, found = _digest(_shown(headers)), None
        for key in self._keys:  # every one, so that the time tells nothing
            if hmac.compare_digest(key.digest, shown):
                found = key
        if found is None:
            message = "this server wants a key that it knows: Authorization: Bearer KEY"
            raise Refused(401, "invalid_api_key", message, {"WWW-Authenticate": "Bearer"})
        return found

    def _check_origin(self, origin: str, hosts: Sequence[str]) -> None:
        if ANY_ORIGIN in self._allowed_origins or origin in self._allowed_origins:
            return
        if origin.partition("://")[2] not in hosts:
            raise Refused(403, "origin_not_allowed", f"pages of {origin[:200]!r} may not talk to this server")


def build_access(config: AccessConfig, keys: Mapping[str, KeyConfig]) -> Access:
    """What the configuration means."""
    known = [
        Key(name, _digest(key.key.get_secret_value()), key.max_sessions, key.messages_per_s)
        for name, key in keys.items()
    ]
    return Access(known, config.allowed_origins)


def build_tls(config: AccessConfig) -> ssl.SSLContext | None:
    """None: the way is not protected. Raises ConfigError when the files are not what they should be."""
    if config.certificate is None:
        if config.private_key:
            raise ConfigError("access.private_key: of no use without access.certificate")
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(config.certificate, config.private_key)
    except OSError as error:  # SSLError is one
        raise ConfigError(f"access.certificate: {config.certificate} cannot be used: {error}") from error
    return context


def _shown(headers: Headers) -> str:
    """The key that a client shows, in either way; empty: none."""
    for authorization in headers.get_all("Authorization"):
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() == "bearer":
            return key.strip()
    for offered in ",".join(headers.get_all("Sec-WebSocket-Protocol")).split(","):
        if offered.strip().startswith(BROWSER_KEY):
            return offered.strip().removeprefix(BROWSER_KEY)
    return ""


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="surrogateescape")).digest()
