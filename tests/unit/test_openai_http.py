"""The server backend's connection: addresses, keys, retries, and servers that misbehave."""

import asyncio
import socket
import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from tests.support.openai_backend import Started, Waits, look, request, spec, use
from tests.support.openai_server import Fault, OpenAIServer, always, first, http_error, serving
from tseval.errors import BackendError, BackendUnavailable, ConfigError, RequestFailed
from tseval.models.openai import OpenAIBackend
from tseval.models.openai.address import Secrets, parse_address
from tseval.requests import Completion, ModelSpec

KEY = "sk-very/secret+key=="


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def ask_under(fault: Any, **options: Any) -> tuple[Completion, list[float], int]:
    """One completion from a server that misbehaves once its start is over."""
    with serving() as server:

        async def ask(started: Started) -> tuple[Completion, list[float], int]:
            server.behaviour.faults = fault
            done = await started.backend.complete(request())
            return done, started.waits.seconds, len(server.requests)

        # A short start: these tests are about what follows.
        return use(server, ask, **{"canary": "off", "prefix": "none"} | options)


# -- addresses


@pytest.mark.parametrize(
    ("text", "url", "root", "local"),
    [
        ("http://localhost:8000/v1/", "http://localhost:8000/v1", "http://localhost:8000", True),
        ("http://127.0.0.5/v1", "http://127.0.0.5/v1", "http://127.0.0.5", True),
        ("http://[::1]:80/v1", "http://[::1]:80/v1", "http://[::1]:80", True),
        ("http://0.0.0.0:8000/v1", "http://0.0.0.0:8000/v1", "http://0.0.0.0:8000", True),
        ("https://me:pw@host.example/v1", "https://host.example/v1", "https://host.example", False),
        (
            "https://localhost.example",
            "https://localhost.example",
            "https://localhost.example",
            False,
        ),
    ],
)
def test_an_address_is_shown_without_credentials_and_knows_its_root(
    text: str, url: str, root: str, local: bool
) -> None:
    address = parse_address(text)
    assert (address.url, address.root, address.is_local) == (url, root, local)


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("", "no server address", "OPENAI_BASE_URL"),
        ("localhost:8000/v1", "'localhost:8000/v1' is no http address", "http://localhost:8000/v1"),
        ("ftp://me:pw@files/v1", "'files/v1' is no http address", "http://files/v1"),
        ("http://h/v1?api-key=pw", "'http://h/v1' must not have a query", "OPENAI_API_KEY"),
    ],
)
def test_a_wrong_address_says_what_is_expected_and_repeats_no_secret(
    text: str, message: str, hint: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_address(text)
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert "pw" not in str(caught.value)


def test_the_address_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        backend = OpenAIBackend(ModelSpec(backend="openai", name="toy"))
        assert asyncio.run(backend.start(lambda *_: None)).identity["server"] == server.url


def test_a_local_server_is_reached_past_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with serving() as server:
        assert look(server).subject.name == "toy"


# -- keys


@pytest.mark.parametrize("variable", ["OPENAI_API_KEY", "MY_KEY"])
def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, KEY)
    options = {} if variable == "OPENAI_API_KEY" else {"api_key_env": variable}
    with serving(key=KEY) as server:
        started = look(server, **options)
        assert KEY not in repr(started.subject)
        assert KEY not in repr(started.backend.spec)


def test_without_a_key_no_authorization_is_sent() -> None:
    with serving() as server:

        async def ask(started: Started) -> None:
            await started.backend.complete(request())

        use(server, ask)
        assert server.authorizations == [None]


def test_credentials_of_the_address_come_from_the_environment_and_are_shown_nowhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with serving() as server:
        url = server.url.replace("http://", "http://me:p%40ss-word@")
        monkeypatch.setenv("OPENAI_BASE_URL", url)
        backend = OpenAIBackend(ModelSpec(backend="openai", name="toy"))
        subject = asyncio.run(backend.start(lambda *_: None))
        assert set(server.authorizations) == {"Basic bWU6cEBzcy13b3Jk"}
        assert "ss-word" not in repr(subject)
        assert subject.identity["server"] == server.url
        with pytest.raises(ConfigError, match="must not hold credentials") as caught:
            OpenAIBackend(ModelSpec(backend="openai", name="toy", base_url=url))
        assert "ss-word" not in str(caught.value)
        assert "OPENAI_BASE_URL" in caught.value.hint


def test_a_wrong_key_ends_the_start_with_the_variable_to_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "another")
    with serving(key=KEY) as server, pytest.raises(BackendError) as caught:
        look(server)
    assert "answered 401 for model 'toy': Incorrect API key provided" in caught.value.message
    assert "OPENAI_API_KEY" in caught.value.hint
    assert "another" not in str(caught.value)


def test_a_named_variable_that_is_not_set_is_an_error_that_repeats_no_pasted_key() -> None:
    with serving() as server:
        with pytest.raises(ConfigError, match="no variable of 'NOT_SET' is set"):
            OpenAIBackend(spec(server, api_key_env="NOT_SET"))
        with pytest.raises(ConfigError) as caught:
            OpenAIBackend(spec(server, api_key_env=KEY))
        assert KEY not in str(caught.value)


def test_a_key_with_a_line_break_is_an_error_before_anything_is_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-one\nsk-two")
    with serving() as server:
        with pytest.raises(ConfigError, match="cannot stand in an HTTP header") as caught:
            look(server)
        assert "sk-" not in str(caught.value)
        assert not server.counts


@pytest.mark.parametrize("status", [400, 500])
def test_a_key_that_the_server_echoes_is_scrubbed(
    monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with pytest.raises(RequestFailed) as caught:
        ask_under(always(Fault("echo", status)))
    assert "bad header: ***" in caught.value.message
    assert KEY not in repr(caught.value.__dict__)


def test_every_form_of_a_secret_is_scrubbed() -> None:
    secrets = Secrets('a"b/c d-secret', "")
    forms = ['a"b/c d-secret', 'a\\"b/c d-secret', "a%22b%2Fc%20d-secret", "YSJiL2MgZC1zZWNyZXQ="]
    for form in forms:
        assert secrets.scrub(f"it was {form}.") == "it was ***."
    assert secrets.scrub("you sent sk-abc*****xyz") == "you sent ***"
    assert secrets.scrub("Authorization: Bearer abc.def") == "Authorization: ***"
    assert secrets.scrub("two\r\nlines\x1b[31m") == "two lines [31m"
    assert len(secrets.scrub("x" * 5000)) < 310


# -- what is retried


@pytest.mark.parametrize(
    "fault",
    [
        http_error(429),
        http_error(500),
        http_error(502),
        http_error(503),
        Fault("truncated"),
        Fault("dropped"),
        Fault("html"),
        Fault("status", 200, {"error": {"message": "upstream", "code": 503}}),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.status}",
)
def test_what_may_pass_is_tried_again(fault: Fault) -> None:
    done, waits, requests = ask_under(first(2, fault))
    assert done.text == "You said: Hello"
    assert requests == 3
    assert len(waits) == 2


def test_waits_grow_between_attempts() -> None:
    _, waits, _ = ask_under(first(5, http_error(500)))
    floors = [0.5, 1, 2, 4, 8]
    assert all(floor <= wait <= floor + 1 for floor, wait in zip(floors, waits, strict=True))


@pytest.mark.parametrize(
    ("header", "wait"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("99999", 120.0),
        ("-3", 0.0),
        ("inf", None),
        ("soon", None),
        ("tomorrow", 120.0),
        ("yesterday", 0.0),
    ],
)
def test_retry_after_is_honoured_as_number_and_date_up_to_two_minutes(
    header: str, wait: float | None
) -> None:
    days = {"tomorrow": 1, "yesterday": -1}.get(header)
    if days is not None:
        # Made here, since a parameter with the time in it is another test in each process.
        header = format_datetime(datetime.now(UTC) + timedelta(days=days), usegmt=True)
    _, waits, _ = ask_under(first(1, http_error(429, retry_after=header)))
    if wait is None:
        assert 0.5 <= waits[0] <= 1.5
    else:
        assert waits == [wait]


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        (http_error(429, "slow down"), "server", "answered 429: slow down (3 attempts)"),
        (http_error(500, "boom"), "server", "answered 500: boom (3 attempts)"),
        (Fault("truncated"), "malformed", "no whole JSON object but 41 bytes of application/json"),
        (Fault("html"), "malformed", "no whole JSON object but 43 bytes of text/html"),
        (Fault("dropped"), "server", "no connection to http://127.0.0.1"),
    ],
)
def test_a_request_that_keeps_failing_fails_with_its_kind(
    fault: Fault, kind: str, words: str
) -> None:
    with pytest.raises(RequestFailed) as caught:
        ask_under(always(fault), max_retries=2)
    assert caught.value.kind == kind
    assert words in caught.value.message


def test_a_server_that_is_too_slow_is_a_timeout() -> None:
    with pytest.raises(
        RequestFailed, match=r"did not answer within 0\.2 s \(2 attempts\)"
    ) as caught:
        ask_under(always(Fault("slow")), timeout=0.2, max_retries=1)
    assert caught.value.kind == "timeout"


@pytest.mark.parametrize("status", [400, 404, 413, 422])
def test_a_refusal_is_not_tried_again(status: int) -> None:
    with serving() as server:

        async def ask(started: Started) -> int:
            server.behaviour.faults = always(http_error(status, "no"))
            with pytest.raises(RequestFailed, match=f"answered {status}: no"):
                await started.backend.complete(request())
            return len(server.requests)

        assert use(server, ask) == 1


def test_a_used_up_quota_stops_the_run_though_its_status_is_429() -> None:
    error = {"message": "You exceeded your current quota", "code": "insufficient_quota"}
    with pytest.raises(BackendUnavailable, match="quota is used up: You exceeded"):
        ask_under(always(Fault("status", 429, {"error": error})))


def test_one_failed_request_harms_no_other() -> None:
    with serving() as server:

        async def ask(started: Started) -> list[Any]:
            # The bad prompt is refused; those around it are under way at the same time.
            server.behaviour.answer = lambda ask: 1 / 0 if ask.user == "bad" else "fine"  # type: ignore[arg-type, return-value]
            texts = ["one", "bad", "two"]
            calls = [started.backend.complete(request(text)) for text in texts]
            return await asyncio.gather(*calls, return_exceptions=True)

        one, bad, two = use(server, ask, max_retries=0)
    assert (one.text, two.text) == ("fine", "fine")
    assert isinstance(bad, RequestFailed)


# -- a server that is not there


def closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def test_a_server_that_is_not_there_is_reported_after_two_attempts() -> None:
    url = f"http://127.0.0.1:{closed_port()}/v1"
    waits = Waits()
    backend = OpenAIBackend(ModelSpec(backend="openai", name="toy", base_url=url), sleep=waits)
    with pytest.raises(BackendError) as caught:
        asyncio.run(backend.start(lambda *_: None))
    assert f"no connection to {url}" in caught.value.message
    assert "(2 attempts)" in caught.value.message
    assert "see whether the server runs" in caught.value.hint
    assert len(waits.seconds) == 1


def test_a_server_that_dies_stops_the_run_after_eight_requests() -> None:
    with serving() as server:

        async def ask(started: Started) -> list[str]:
            server.close()
            ends = []
            for _ in range(10):
                with pytest.raises(BackendError) as caught:
                    await started.backend.complete(request())
                ends.append(type(caught.value).__name__)
            assert "the last 8 requests failed in a row" in caught.value.message
            assert "it resumes" in caught.value.hint
            return ends

        ends = use(server, ask, max_retries=1)
    assert ends == ["RequestFailed"] * 7 + ["BackendUnavailable"] * 3


def test_a_key_that_is_withdrawn_stops_the_run_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving(key=KEY) as server:

        async def ask(started: Started) -> None:
            server.behaviour.key = "rotated"
            for _ in range(7):
                with pytest.raises(RequestFailed, match="answered 401"):
                    await started.backend.complete(request())
            with pytest.raises(BackendUnavailable, match="Incorrect API key"):
                await started.backend.complete(request())

        use(server, ask)


def test_failures_with_answers_between_them_do_not_stop_the_run() -> None:
    with serving() as server:

        async def ask(started: Started) -> int:
            server.behaviour.faults = lambda n: Fault("dropped") if n % 8 != 7 else None
            failed = 0
            for _ in range(32):
                try:
                    await started.backend.complete(request())
                except BackendUnavailable:
                    raise
                except RequestFailed:
                    failed += 1
            return failed

        assert use(server, ask, max_retries=0) == 28


# -- concurrency


def test_no_more_requests_are_under_way_than_allowed_and_as_many_as_allowed() -> None:
    with serving() as server:

        async def ask(started: Started) -> None:
            hold = server.behaviour.hold = threading.Event()
            calls = asyncio.gather(*(started.backend.complete(request(str(i))) for i in range(12)))
            while len(server.requests) < 3:
                await asyncio.sleep(0.01)
            # Nobody leaves yet; a fourth that was let in would be there within this time.
            await asyncio.sleep(0.2)
            assert len(server.requests) == 3
            hold.set()
            await calls

        use(server, ask, concurrency=3)
        assert server.most_at_once == 3
        assert len(server.requests) == 12


def test_a_cancelled_request_frees_its_place() -> None:
    with serving() as server:

        async def ask(started: Started) -> str:
            server.behaviour.faults = lambda n: Fault("slow") if n == 0 else None
            stuck = asyncio.create_task(started.backend.complete(request()))
            while not server.requests:
                await asyncio.sleep(0.01)
            stuck.cancel()
            with pytest.raises(asyncio.CancelledError):
                await stuck
            return (await started.backend.complete(request())).text

        assert use(server, ask, concurrency=1) == "You said: Hello"


def test_a_closed_backend_says_so_and_may_be_started_again() -> None:
    with serving() as server:

        async def ask(started: Started) -> str:
            await started.backend.close()
            await started.backend.close()
            with pytest.raises(BackendUnavailable, match="not started"):
                await started.backend.complete(request())
            await started.backend.start(lambda *_: None)
            return (await started.backend.complete(request())).text

        assert use(server, ask) == "You said: Hello"


# -- options


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("concurency", "4", "no option 'concurency'"),
        ("concurrency", "0", "-M concurrency=0: expected a whole number of at least 1"),
        ("timeout", "soon", "-M timeout=soon: expected a number of seconds above 0"),
        ("max_retries", "-1", "-M max_retries=-1"),
        ("prefix", "maybe", "expected auto, chat, completions or none"),
        ("canary", "perhaps", "expected on or off"),
        ("extra_body", "[1]", "no JSON object"),
        ("extra_body", '{"seed": 1, "model": "x"}', "must not hold model, seed"),
        ("extra_body", '{"chat_template_kwargs": 1}', "chat_template_kwargs is no JSON object"),
    ],
)
def test_a_wrong_option_is_named_with_what_it_takes(option: str, value: str, words: str) -> None:
    url = "http://127.0.0.1:1/v1"
    with pytest.raises(ConfigError) as caught:
        OpenAIBackend(ModelSpec(backend="openai", base_url=url, options={option: value}))
    assert words in caught.value.message
    if option == "concurency":
        assert "did you mean -M concurrency=" in caught.value.hint


def test_the_scripted_server_itself_leaves_no_thread_behind() -> None:
    before = threading.active_count()
    with serving() as server:
        assert isinstance(server, OpenAIServer)
    assert threading.active_count() <= before + 1
