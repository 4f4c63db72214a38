"""Where a server is, and the secrets that open it: what may be shown, and what never is."""

import base64
import ipaddress
import json
import re
from urllib.parse import SplitResult, quote, unquote, urlsplit

from msgspec import Struct

from tseval.errors import ConfigError

_LONGEST_QUOTE = 300
_KEY_SHAPES = re.compile(r"(?i)\bbearer\s+\S+|\bsk-[\w*.-]{4,}")


class Address(Struct, frozen=True, kw_only=True):
    """Where a server is.

    Attributes:
        url: Base URL without credentials: what may be shown and stored.
        user, password: Credentials that stood in the URL, or ''.
    """

    url: str
    user: str = ""
    password: str = ""

    @property
    def root(self) -> str:
        """The URL without its trailing '/v1', where servers keep what OpenAI does not know."""
        return self.url.removesuffix("/v1")

    @property
    def is_local(self) -> bool:
        """Whether it is this machine; proxies are not asked then."""
        host = urlsplit(self.url).hostname or ""
        try:
            ip = ipaddress.ip_address(host)
        except ValueError:
            return host == "localhost" or host.endswith(".localhost")
        return ip.is_loopback or ip.is_unspecified


def parse_address(text: str) -> Address:
    """Read a base URL; credentials in it are taken out.

    Raises:
        ConfigError: It is empty, has no http scheme, or carries a query.
    """
    text = text.strip()
    parts = urlsplit(text)
    if not text:
        raise ConfigError(
            "no server address",
            hint="--base-url http://localhost:8000/v1, or set OPENAI_BASE_URL",
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        shown = text.rpartition("@")[2]
        raise ConfigError(
            f"{shown!r} is no http address", hint=f"for example http://{_bare_host(shown)}/v1"
        )
    if parts.query or parts.fragment:
        # A query is where keys like to hide, and it would have to be repeated for every path.
        raise ConfigError(
            f"the server address {_public(parts)!r} must not have a query",
            hint="leave out what stands behind '?' or '#'; a key belongs into OPENAI_API_KEY",
        )
    return Address(
        url=_public(parts),
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
    )


def _public(parts: SplitResult) -> str:
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path.rstrip('/')}"


def _bare_host(text: str) -> str:
    host = re.sub(r"^\w+://", "", text).split("/")[0]
    return host if re.fullmatch(r"[\w.:\[\]-]+", host) else "localhost:8000"


class Secrets:
    """Takes keys out of texts that a server or a library wrote.

    Args:
        values: The secrets; empty ones are ignored.
    """

    def __init__(self, *values: str) -> None:
        forms: set[str] = set()
        for value in filter(None, values):
            coded = base64.b64encode(value.encode()).decode()
            forms |= {value, quote(value, safe=""), json.dumps(value)[1:-1], coded}
        # Longest first, so that no form leaves the tail of a longer one behind.
        self._forms = sorted(forms, key=lambda form: (-len(form), form))

    def scrub(self, text: str) -> str:
        """Return one printable line of at most 300 characters without any secret in it."""
        for form in self._forms:
            text = text.replace(form, "***")
        text = _KEY_SHAPES.sub("***", text)
        text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
        return text if len(text) <= _LONGEST_QUOTE else text[:_LONGEST_QUOTE] + " ..."
