"""HTTP to an OpenAI-compatible server: retries, and what went wrong.

Nothing that leaves this module, no message, no exception, no return value, holds a key.
"""

import asyncio
import json
import math
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from tseval.errors import BackendUnavailable, RequestFailed

from .address import Address, Secrets

if TYPE_CHECKING:
    import httpx
    from tenacity import RetryCallState

Json = dict[str, Any]
Sleep = Callable[[float], Awaitable[None]]

# So many requests in a row without contact mean that the server is gone, not that a row is bad.
GONE_AFTER = 8
# Before the first contact a refused connection is tried once more and then reported.
_FIRST_CONTACT_TRIES = 2
_CONNECT_SECONDS = 15.0
_LONGEST_WAIT_SECONDS = 120.0
_RETRIED = frozenset({408, 409, 425, 429})
_JSON = {"Content-Type": "application/json"}
# A key or an address that does not work will not work for the next request either.
_TELLING = frozenset({401, 403, 404})


class Rejected(Exception):
    """The server refused a request for good: a 4xx, or an error object behind a 200.

    Attributes:
        status: HTTP status.
        message: What the server said, scrubbed.
        param: The field that it complained about, or ''.
        code: Its own word for the error, or ''.
    """

    def __init__(self, status: int, message: str, *, param: str = "", code: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code


class _Transient(Exception):
    """One attempt failed in a way that another may not."""

    def __init__(
        self, message: str, kind: str, *, contact: bool = True, wait: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.kind = kind
        self.contact = contact
        self.wait = wait


class Server:
    """An open connection pool to one server; retries what may pass.

    Retried, with exponential back-off and jitter or as long as Retry-After says: 408, 409, 425,
    429, 5xx, time-outs, lost connections, and bodies that are not whole JSON objects. At most
    ``concurrency`` requests are under way; one that waits to be retried keeps its place, so that
    a server that pushes back is asked less.

    Args:
        address: Where it is.
        key: Bearer token, or ''.
        concurrency: Most requests at once.
        timeout_seconds: Most time for one attempt.
        max_retries: Further attempts after the first.
        sleep: Waits; tests pass one that does not.
    """

    def __init__(
        self,
        address: Address,
        key: str,
        *,
        concurrency: int,
        timeout_seconds: float,
        max_retries: int,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        from tenacity import wait_exponential, wait_random

        self.address = address
        self.secrets = Secrets(key, address.password)
        self._timeout = timeout_seconds
        self._max_retries = max_retries
        self._sleep = sleep
        self._backoff = wait_exponential(multiplier=0.5, max=60.0) + wait_random(0.0, 1.0)
        self._slots = asyncio.Semaphore(concurrency)
        self._client = _client(address, key, concurrency)
        self._reached = False
        self._failed_in_a_row = 0
        self._gone = ""

    async def close(self) -> None:
        """Close every connection."""
        await self._client.aclose()

    async def get(self, path: str, *, at_root: bool = False) -> Json:
        """Fetch a JSON object; see :meth:`post`."""
        return await self._request("GET", self._url(path, at_root), None)

    async def post(self, path: str, body: Json, *, at_root: bool = False) -> Json:
        """Send a JSON object and return the one that comes back.

        Args:
            path: Path below the base URL, with its slash.
            body: What is sent.
            at_root: Whether the path starts at the server's root instead.

        Raises:
            Rejected: The server refused it (4xx): another attempt would end the same way.
            RequestFailed: Every attempt failed.
            BackendUnavailable: So did the last eight requests, or the quota is used up.
        """
        # ASCII with escapes: lone surrogates in a prompt pass, where UTF-8 would raise.
        return await self._request("POST", self._url(path, at_root), json.dumps(body).encode())

    def _url(self, path: str, at_root: bool) -> str:
        return (self.address.root if at_root else self.address.url) + path

    async def _request(self, method: str, url: str, body: bytes | None) -> Json:
        from tenacity import AsyncRetrying, retry_if_exception_type

        retrying = AsyncRetrying(
            sleep=self._sleep,
            stop=self._enough,
            wait=self._wait,
            retry=retry_if_exception_type(_Transient),
            reraise=True,
        )
        async with self._slots:
            try:
                answer: Json = await retrying(self._attempt, method, url, body)
            except _Transient as error:
                self._count(lost=not error.contact)
                attempts = retrying.statistics.get("attempt_number", 1)
                raise RequestFailed(
                    f"{error.message} ({_times(attempts)})", kind=error.kind
                ) from None
            except Rejected as error:
                self._count(lost=error.status in _TELLING, why=error.message)
                raise
        self._count(lost=False)
        return answer

    def _enough(self, state: "RetryCallState") -> bool:
        limit = self._max_retries + 1
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, _Transient) and not error.contact and not self._reached:
            limit = min(limit, _FIRST_CONTACT_TRIES)
        return state.attempt_number >= limit

    def _wait(self, state: "RetryCallState") -> float:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, _Transient) and error.wait is not None:
            return error.wait
        return self._backoff(state)

    async def _attempt(self, method: str, url: str, body: bytes | None) -> Json:
        import httpx

        if self._gone:
            raise BackendUnavailable(self._gone, hint=_RESUME)
        try:
            async with asyncio.timeout(self._timeout):
                response = await self._client.request(
                    method, url, content=body, headers=_JSON if body else {}
                )
        except TimeoutError:
            raise _Transient(
                f"{self.address.url} did not answer within {self._timeout:g} s", "timeout"
            ) from None
        except httpx.DecodingError as error:
            raise _Transient(f"unreadable body: {self._say(error)}", "malformed") from None
        except httpx.TransportError as error:
            raise _Transient(
                f"no connection to {self.address.url}: {self._say(error)}", "server", contact=False
            ) from None
        self._reached = True
        return self._read(response)

    def _read(self, response: "httpx.Response") -> Json:
        status = response.status_code
        content = _json_object(response.content)
        if status == 200 and content is not None and not _is_error(content):
            return content
        if content is None and 200 <= status < 300:
            kind = response.headers.get("content-type", "no content type")
            raise _Transient(
                f"{self.address.url} sent no whole JSON object but"
                f" {len(response.content)} bytes of {self.secrets.scrub(kind)}",
                "malformed",
            )
        rejected = self._rejection(status, content, response)
        if rejected.code == "insufficient_quota":
            raise BackendUnavailable(
                f"{self.address.url} says that the quota is used up: {rejected.message}",
                hint=_RESUME,
            )
        if rejected.status in _RETRIED or rejected.status >= 500:
            raise _Transient(
                f"{self.address.url} answered {rejected.status}: {rejected.message}",
                "server",
                wait=_retry_after(response.headers.get("retry-after")),
            )
        raise rejected

    def _rejection(self, status: int, content: Json | None, response: "httpx.Response") -> Rejected:
        if content is None:
            plain = re.sub(r"<[^>]*>", " ", response.text)
            where = response.headers.get("location", "")
            text = f"redirects to {where}" if where else plain
            return Rejected(status, self.secrets.scrub(text) or "no message")
        error = content.get("error")
        fields = error if isinstance(error, dict) else content
        code = fields.get("code") or fields.get("type") or ""
        if 200 <= status < 300:
            # Some gateways put a failure behind a 200; its code is then the status.
            status = code if isinstance(code, int) and 400 <= code < 600 else 502
        param = fields.get("param")
        return Rejected(
            status,
            self.secrets.scrub(_message(error if isinstance(error, str) else fields)),
            param=param if isinstance(param, str) else "",
            code=str(code),
        )

    def _say(self, error: Exception) -> str:
        return self.secrets.scrub(str(error)) or type(error).__name__

    def _count(self, *, lost: bool, why: str = "no connection") -> None:
        """Take note of how a request ended; raise once the server has to be given up."""
        self._failed_in_a_row = self._failed_in_a_row + 1 if lost else 0
        if self._failed_in_a_row >= GONE_AFTER:
            self._gone = (
                f"{self.address.url}: the last {GONE_AFTER} requests failed in a row ({why})"
            )
            raise BackendUnavailable(self._gone, hint=_RESUME) from None


_RESUME = "see to the server, then run the same command again: it resumes"


def _client(address: Address, key: str, concurrency: int) -> "httpx.AsyncClient":
    import httpx

    return httpx.AsyncClient(
        headers={"Authorization": f"Bearer {key}"} if key else {},
        auth=(address.user, address.password) if address.user or address.password else None,
        # The time for an answer is bounded around the whole attempt; bytes that trickle in
        # would never trip a limit between two of them.
        timeout=httpx.Timeout(None, connect=_CONNECT_SECONDS),
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=concurrency),
        # The environment's proxy settings are for the world outside; so are certificates, which
        # take a tenth of a second to load.
        trust_env=not address.is_local,
        verify=not (address.is_local and address.url.startswith("http:")),
        follow_redirects=False,
    )


def _json_object(content: bytes) -> Json | None:
    try:
        value = json.loads(content)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _is_error(content: Json) -> bool:
    return bool(content.get("error")) and not content.get("choices")


def _message(fields: Json | str) -> str:
    """Find the sentence in an error object; several dialects are spoken."""
    if isinstance(fields, str):
        return fields
    for name in ("message", "detail", "error", "msg"):
        value = fields.get(name)
        if isinstance(value, str) and value:
            return value
        if isinstance(value, list) and value:
            return "; ".join(_complaint(item) for item in value)
    return "no message"


def _complaint(item: Any) -> str:
    """One entry of a validation error. Its 'input' is left out: it echoes the prompt."""
    if not isinstance(item, dict):
        return str(item)
    where = ".".join(str(part) for part in item.get("loc", ()) if part != "body")
    return f"{where}: {item.get('msg', 'invalid')}"


def _retry_after(header: str | None) -> float | None:
    """Seconds that a Retry-After header asks for, at most 120; None where it says nothing."""
    if not header:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            moment = parsedate_to_datetime(header)
        except ValueError:
            return None
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        seconds = (moment - datetime.now(UTC)).total_seconds()
    return min(max(seconds, 0.0), _LONGEST_WAIT_SECONDS) if math.isfinite(seconds) else None


def _times(attempts: int) -> str:
    return "1 attempt" if attempts == 1 else f"{attempts} attempts"
