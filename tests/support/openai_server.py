"""A real HTTP server on loopback that speaks OpenAI's protocol, and misbehaves on demand.

It serves a scripted model through a toy chat template and a toy tokenizer, so everything that
can be counted or rendered on a real server can be here: prompt lengths, continued messages,
token ids, log-probabilities. ``Faults`` make it fail in the ways that real servers do.
"""

import json
import math
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from string import ascii_uppercase
from typing import Any, Literal

Json = dict[str, Any]
TOKEN = re.compile(r"<[^<>\s]+>|\w+|\s+|[^\w\s]")
END = "<|end|>"


@dataclass(frozen=True)
class Ask:
    """What the scripted model is asked.

    Attributes:
        user: The last user message.
        begun: What already stands in the assistant's turn.
        thinks: Whether thinking is on for this request.
        body: The whole request.
    """

    user: str
    begun: str
    thinks: bool
    body: Json


def sensible(ask: Ask) -> str:
    """Answer the questions that a start asks, and echo everything else."""
    if "17 + 25" in ask.user:
        return "42"
    if "the alphabet" in ask.user:
        return "-".join(ascii_uppercase)
    if "anything you like" in ask.user and ask.body.get("temperature"):
        return f"Number {ask.body.get('seed')} comes to mind."
    if "Is the sky blue" in ask.user:
        return "yes"
    if "Who are you" in ask.user:
        return "I am a scripted model."
    return f"You said: {ask.user}"


@dataclass(frozen=True)
class Fault:
    """One way to misbehave.

    Attributes:
        kind: What happens. 'status' answers with ``status`` and ``body``; 'slow' holds the
            answer until the server closes or ``seconds`` have passed; 'truncated' sends half of
            the JSON under a right length; 'dropped' closes the connection inside the body;
            'html' sends a web page with status 200; 'echo' repeats the Authorization header in
            an error; 'filtered' ends with content_filter; 'null' has null content.
    """

    kind: Literal["status", "slow", "truncated", "dropped", "html", "echo", "filtered", "null"]
    status: int = 500
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 30.0


def http_error(status: int, message: str = "scripted", **headers: str) -> Fault:
    """An error answer; ``retry_after='0'`` becomes a Retry-After header."""
    names = {name.replace("_", "-").title(): value for name, value in headers.items()}
    return Fault("status", status, {"error": {"message": message}}, names)


@dataclass
class Behaviour:
    """How the server behaves; tests change what they need, also while it runs.

    Attributes:
        answer: The scripted model: what stands behind the trace.
        trace: Thinking trace, or '' for a model that does not think.
        marks: Marks around the trace.
        opened_by_template: Whether the template writes the opener.
        system: System message that the template puts first, or ''.
        switch: Whether ``enable_thinking=False`` works.
        reasoning_field: Field that traces are moved to, or '' to leave them in the text.
        parser: 'whole' takes a text without a closing mark for a trace (most parsers), 'none'
            leaves it in the text.
        continuation: What becomes of ``continue_final_message``.
        template: 'plain' keeps what a message holds, 'strips' drops traces of earlier turns,
            'inserts' puts an empty trace before the final message.
        models: Served names, or None for a server without a list.
        any_name: Whether it answers to names that it does not list.
        context_length: Refuses requests for more tokens than fit; None for no limit.
        tell_context: Whether the list of models tells it.
        output_limit: Refuses more new tokens than this; None for no limit.
        usage: Whether tokens are counted.
        completions, tokenize, logprobs: Whether those routes exist.
        templates_text: Whether the completions route puts a text into the chat template.
        starts: Token that stands before every text, or ''; tokens in it are not looked for.
        top_logprobs: Most tokens whose figures are reported; 0 for none.
        shares: Probabilities of the next token, or None for 0.9 on the one that is written.
        doubles_start: Whether the completions route puts a further token before token ids.
        refuses: Fields that a request must not have, with the error as a real server words it.
        key: Key that is asked for, or ''.
        vocabulary: Tokens that have the first ids.
        faults: Asked with the number of each chat or completions request, from 0.
        hold: Requests wait here until it is set, for tests of concurrency.
    """

    answer: Callable[[Ask], str] = sensible
    trace: str = ""
    marks: tuple[str, str] = ("<think>", "</think>")
    opened_by_template: bool = False
    system: str = ""
    switch: bool = True
    reasoning_field: str = ""
    parser: Literal["whole", "none"] = "whole"
    continuation: Literal["honour", "ignore", "refuse"] = "honour"
    template: Literal["plain", "strips", "inserts"] = "plain"
    models: list[str] | None = field(default_factory=lambda: ["toy"])
    any_name: bool = False
    context_length: int | None = None
    tell_context: bool = False
    output_limit: int | None = None
    usage: bool = True
    completions: bool = True
    tokenize: bool = False
    templates_text: bool = False
    starts: str = ""
    top_logprobs: int = 0
    shares: Callable[[Ask], dict[str, float]] | None = None
    doubles_start: bool = False
    logprobs: bool = False
    refuses: dict[str, str] = field(default_factory=dict)
    key: str = ""
    vocabulary: list[str] = field(default_factory=list)
    faults: Callable[[int], Fault | None] = lambda number: None
    hold: threading.Event | None = None


def first(count: int, fault: Fault) -> Callable[[int], Fault | None]:
    """Misbehave for the first requests only."""
    return lambda number: fault if number < count else None


def always(fault: Fault) -> Callable[[int], Fault | None]:
    """Misbehave every time."""
    return lambda number: fault


class Refusal(Exception):
    """An error answer that the server gives on purpose."""

    def __init__(self, status: int, error: Any) -> None:
        super().__init__(status)
        self.status = status
        self.error = error if isinstance(error, dict) else {"message": error}


class OpenAIServer:
    """The running server.

    Attributes:
        url: Base URL, with '/v1'.
        behaviour: How it behaves; may be changed at any time.
        requests: Bodies of the chat and completions requests so far, with their 'route'.
        counts: Requests by path.
        most_at_once: High-water mark of requests that were under way together.
        authorizations: Authorization headers seen, None for a request without one.
    """

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.requests: list[Json] = []
        self.counts: Counter[str] = Counter()
        self.most_at_once = 0
        self.authorizations: list[str | None] = []
        self.closing = threading.Event()
        self._numbers = list(behaviour.vocabulary)
        self._at_once = 0
        self._lock = threading.Lock()
        self._http = _Http(("127.0.0.1", 0), _Handler)
        self._http.owner = self
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop at once; whoever is still waited for gets no answer."""
        if not self.closing.is_set():
            self.closing.set()
            self._http.shutdown()
            self._http.server_close()

    def forget(self) -> None:
        """Count requests, and faults, from 0 again."""
        with self._lock:
            self.requests.clear()
            self.counts.clear()
            self.authorizations.clear()
            self.most_at_once = 0

    # -- the toy tokenizer: every piece that TOKEN finds is one token

    def ids(self, text: str) -> list[int]:
        """Token ids of a text."""
        with self._lock:
            found = []
            for piece in TOKEN.findall(text):
                if piece not in self._numbers:
                    self._numbers.append(piece)
                found.append(self._numbers.index(piece))
        return found

    def text(self, ids: list[int]) -> str:
        """Text of token ids."""
        return "".join(self._numbers[i] for i in ids)

    # -- the toy chat template

    def render(self, body: Json) -> str:
        """Render the messages of a request as the template does."""
        how = self.behaviour
        continues = bool(body.get("continue_final_message")) and how.continuation == "honour"
        lines = [f"<|system|>{how.system}{END}"] if how.system else []
        for number, message in enumerate(body["messages"]):
            content = message["content"]
            last = number == len(body["messages"]) - 1
            if message["role"] == "assistant" and how.template != "plain":
                content = content.rpartition(how.marks[1])[2].lstrip("\n")
                if how.template == "inserts":
                    content = f"{how.marks[0]}\n\n{how.marks[1]}\n\n{content}"
            closing = "" if last and continues else END
            lines.append(f"<|{message['role']}|>{content}{closing}")
        if not continues:
            lines.append("<|assistant|>")
            if how.trace and how.opened_by_template and self._thinks(body):
                lines[-1] += how.marks[0] + "\n"
            elif how.trace and how.switch and not self._thinks(body):
                lines[-1] += f"{how.marks[0]}\n\n{how.marks[1]}\n\n"
        return "".join(lines)

    def _thinks(self, body: Json) -> bool:
        how = self.behaviour
        switch = (body.get("chat_template_kwargs") or {}).get("enable_thinking", True)
        return bool(how.trace) and (switch or not how.switch)

    def write(self, prompt: str, body: Json) -> str:
        """Let the scripted model go on from a rendered prompt."""
        how = self.behaviour
        begun = prompt.rpartition("<|assistant|>")[2]
        users = re.findall(r"<\|user\|>(.*?)<\|end\|>", prompt, re.DOTALL)
        opener, closer = how.marks
        inside = begun.startswith(opener) and closer not in begun
        behind = closer in begun
        thinks = bool(how.trace) and not behind and bool(users)
        answer = how.answer(Ask(users[-1] if users else prompt, begun, thinks, body))
        if inside:
            return f"{how.trace or 'Well.'}\n{closer}\n\n{answer}"
        said = begun.rpartition(closer)[2].lstrip("\n") if behind else begun
        if said:
            return answer.removeprefix(said) if answer.startswith(said) else answer
        return f"{opener}\n{how.trace}\n{closer}\n\n{answer}" if thinks else answer

    # -- routes

    def handle(self, handler: "_Handler", path: str, body: Json) -> Json | Fault:
        """Answer one request with a JSON object or a fault."""
        how = self.behaviour
        with self._lock:
            self.counts[path] += 1
            self.authorizations.append(handler.headers.get("Authorization"))
        if body and handler.headers.get("Content-Type") != "application/json":
            raise Refusal(415, "Only 'application/json' is allowed")
        if how.key and handler.headers.get("Authorization") != f"Bearer {how.key}":
            raise Refusal(401, "Incorrect API key provided")
        if path == "/v1/models" and how.models is not None:
            extra = {"max_model_len": how.context_length} if how.tell_context else {}
            return {"object": "list", "data": [{"id": name, **extra} for name in how.models]}
        if path in ("/tokenize", "/detokenize") and how.tokenize:
            return self._tokenizer(path, body)
        if path == "/v1/chat/completions" or (path == "/v1/completions" and how.completions):
            return self._generate(path, body)
        raise Refusal(404, "Not Found")

    def _tokenizer(self, path: str, body: Json) -> Json:
        if path == "/detokenize":
            return {"prompt": self.text(body["tokens"])}
        text = self.render(body) if "messages" in body else body["prompt"]
        if body.get("add_special_tokens") and "prompt" in body:
            text = self.behaviour.starts + text
        ids = self.ids(text)
        return {"tokens": ids, "count": len(ids), "max_model_len": 4096}

    def _generate(self, path: str, body: Json) -> Json | Fault:
        how = self.behaviour
        with self._lock:
            number = len(self.requests)
            self.requests.append({"route": path, **body})
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            if how.hold is not None:
                how.hold.wait(120)
            fault = how.faults(number)
            if fault is not None and fault.kind == "slow":
                self.closing.wait(fault.seconds)
            if fault is not None and fault.kind not in ("null", "filtered", "slow"):
                return fault
            self._check(body)
            chat = "messages" in body
            return self._answer(chat, body, fault.kind if fault else "")
        finally:
            with self._lock:
                self._at_once -= 1

    def _check(self, body: Json) -> None:
        how = self.behaviour
        for name, error in how.refuses.items():
            if name in body:
                raise Refusal(400, error)
        if how.models is not None and not how.any_name and body["model"] not in how.models:
            raise Refusal(404, f"The model `{body['model']}` does not exist.")
        if body.get("continue_final_message") and how.continuation == "refuse":
            raise Refusal(400, "the final message must have the role 'user'")

    def _answer(self, chat: bool, body: Json, fault: str) -> Json:
        how = self.behaviour
        given = body.get("prompt")
        prompt = self.render(body) if chat else ""
        if isinstance(given, str):
            question = {"messages": [{"role": "user", "content": given}]}
            prompt = self.render(question) if how.templates_text else how.starts + given
        asked = given if isinstance(given, list) else self.ids(prompt)
        if how.doubles_start and not chat:
            asked = [*self.ids("<s>"), *asked]
        prompt = self.text(asked)
        limit = body.get("max_tokens") or body.get("max_completion_tokens") or 16
        self._check_room(len(asked), limit)
        new = self.ids(self.write(prompt, body))
        finish = "stop" if len(new) <= limit else "length"
        text = self.text(new[:limit])
        for banned in body.get("bad_words", ()):
            text = text.replace(banned, "")
        choice: Json = {"index": 0, "finish_reason": finish}
        if chat:
            choice["message"] = self._message(text, self._thinks(body))
        else:
            choice["text"] = text
            if body.get("echo") and how.logprobs:
                tokens = [*asked, *new[:1]]
                choice["logprobs"] = {
                    "token_logprobs": [None, *(-0.5 * (i % 3) for i in tokens[1:])],
                    "top_logprobs": [None, *({"x": -0.25} for _ in tokens[1:])],
                }
        choice |= self._figures(chat, prompt, new, body)
        if fault == "filtered":
            choice["finish_reason"] = "content_filter"
        if fault == "null" and chat:
            choice["message"] = {"role": "assistant", "content": None}
        counts = {"prompt_tokens": len(asked), "completion_tokens": min(len(new), limit)}
        return {
            "object": "chat.completion" if chat else "text_completion",
            "model": body["model"],
            "choices": [choice],
            **({"usage": counts} if how.usage else {}),
        }

    def _figures(self, chat: bool, prompt: str, new: list[int], body: Json) -> Json:
        """Log-probabilities of the first new token, in the form of either route."""
        how = self.behaviour
        most = body.get("top_logprobs", 0) if chat else body.get("logprobs", 0)
        if not most or body.get("echo") or not how.top_logprobs:
            return {}
        if most > how.top_logprobs:
            raise Refusal(
                400, f"Requested logprobs of {most}, which is greater than {how.top_logprobs}"
            )
        written = self.text(new[:1])
        users = re.findall(r"<\|user\|>(.*?)<\|end\|>", prompt, re.DOTALL)
        ask = Ask(users[-1] if users else prompt, "", False, body)
        shares = how.shares(ask) if how.shares else {written: 0.9, "~": 0.06, "=": 0.03}
        ranked = sorted(shares.items(), key=lambda share: -share[1])[:most]
        if written in shares and written not in dict(ranked):
            ranked.append((written, shares[written]))
        rows = [{"token": token, "logprob": math.log(share)} for token, share in ranked]
        if chat:
            return {"logprobs": {"content": [{"token": written, "top_logprobs": rows}]}}
        tops = {row["token"]: row["logprob"] for row in rows}
        return {"logprobs": {"tokens": [written], "top_logprobs": [tops]}}

    def _check_room(self, used: int, asked: int) -> None:
        how = self.behaviour
        if how.output_limit is not None and asked > how.output_limit:
            raise Refusal(
                400,
                f"max_tokens is too large: {asked}. This model supports at most"
                f" {how.output_limit} completion tokens, whereas you provided {asked}.",
            )
        if how.context_length is not None and used + asked > how.context_length:
            raise Refusal(
                400,
                f"'max_tokens' or 'max_completion_tokens' is too large: {asked}. This model's"
                f" maximum context length is {how.context_length} tokens and your request has"
                f" {used} input tokens ({asked} > {how.context_length} - {used}).",
            )

    def _message(self, text: str, thinks: bool) -> Json:
        how = self.behaviour
        opener, closer = how.marks
        message: Json = {"role": "assistant", "content": text}
        if not how.reasoning_field:
            return message
        trace, mark, answer = text.removeprefix(opener).partition(closer)
        if mark:
            message |= {"content": answer.lstrip("\n") or None, how.reasoning_field: trace}
        elif how.parser == "whole":
            message |= {"content": None, how.reasoning_field: trace}
        return message


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    owner: OpenAIServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients that give up are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body leave in one packet: apart, the second waits 40 ms for an acknowledgement.
    wbufsize = -1
    disable_nagle_algorithm = True
    server: _Http

    def do_GET(self) -> None:
        """Answer a GET."""
        self._serve({})

    def do_POST(self) -> None:
        """Answer a POST."""
        self._serve(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet."""

    def _serve(self, body: Json) -> None:
        if self.server.owner.closing.is_set():
            # Connections that are open outlive the listening socket.
            self.close_connection = True
            return
        try:
            answer = self.server.owner.handle(self, self.path, body)
        except Refusal as refusal:
            self._send(refusal.status, {"error": refusal.error})
            return
        if isinstance(answer, Fault):
            self._misbehave(answer)
        else:
            self._send(200, answer)

    def _misbehave(self, fault: Fault) -> None:
        if fault.kind == "status":
            self._send(fault.status, fault.body, fault.headers)
        elif fault.kind == "echo":
            said = f"bad header: {self.headers.get('Authorization')}"
            self._send(fault.status, {"error": {"message": said}})
        elif fault.kind == "html":
            self._raw(200, b"<html><body>Welcome to nginx!</body></html>", "text/html")
        elif fault.kind == "truncated":
            self._raw(200, b'{"choices": [{"message": {"content": "hal', "application/json")
        elif fault.kind == "dropped":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b'{"choices": [')
            self.close_connection = True

    def _send(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        self._raw(status, json.dumps(value).encode(), "application/json", headers)

    def _raw(
        self, status: int, content: bytes, kind: str, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def serving(**behaviour: Any) -> Iterator[OpenAIServer]:
    """Run a server for the duration of a with block; arguments as in :class:`Behaviour`."""
    server = OpenAIServer(Behaviour(**behaviour))
    try:
        yield server
    finally:
        server.close()
