"""The start of a server backend: which routes, which format, which capabilities, which identity."""

from msgspec import Struct

from tseval.errors import BackendError, RequestFailed
from tseval.formats import BUILTIN_FAMILIES, TemplateView, choose_format
from tseval.protocol import canonical_json
from tseval.requests import Capabilities, Report, Subject

from . import probe
from .choose import Tops, find_tops
from .http import Rejected, Server
from .options import Options
from .render import LocalRenderer, Renderer, ServerRenderer
from .wire import Reply, Wire


class Found(Struct, frozen=True, kw_only=True):
    """What the start found out.

    Attributes:
        wire: Speaks the server's dialect, as far as it was learnt.
        renderer: Makes prompts for the completions route, or None where that cannot be used.
        separates: Whether the chat route takes traces out of the text.
        view: What the format families are shown.
        capabilities: What the backend can do here.
        tops: How many of the most probable tokens the routes report.
        context_length: Tokens that prompt and completion share, or None.
        subject: Identity of the model.
    """

    wire: Wire
    renderer: Renderer | None
    separates: bool
    view: TemplateView
    capabilities: Capabilities
    tops: Tops
    context_length: int | None
    subject: Subject


async def explore(server: Server, wanted: str, options: Options, report: Report) -> Found:
    """Ask a server what it is and what it can do: some twenty small requests.

    Raises:
        ConfigError: It does not serve the model.
        BackendError: It cannot do what an option demands, or its answers cannot be told apart
            from traces.
        Rejected, RequestFailed, BackendUnavailable: It did not answer.
    """
    report(f"asking {server.address.url} for its models", None)
    served = await probe.find_model(server, wanted, strict=options.check_name)
    wire = Wire(server, served.name, options.extra_body)
    report(f"asking {served.name} how it answers", None)
    look = await probe.first_answer(wire)
    looked = look.reply
    mark = await probe.canary(wire) if options.canary else "off"
    report(f"asking {served.name} what it can do", None)
    renderer = await _renderer(wire, options, look)
    if renderer is not None:
        view = await renderer.view(wire.template_kwargs({}))
    else:
        view = await _observed_view(wire, options, look)
    prefix = await _prefix(wire, options, looked, view, renderer)
    raw = renderer is not None or await probe.takes_raw(wire)
    tops = await find_tops(wire, text=raw)
    capabilities = Capabilities(
        prefix=bool(prefix),
        raw=raw,
        logprobs=await _gives_logprobs(wire, renderer),
        # For every way in which a question can be put here.
        choices=bool(tops.text or not raw) and bool(tops.chat or renderer),
        seeds=await probe.heeds_seeds(wire),
    )
    extra = canonical_json(options.extra_body).decode() if options.extra_body else ""
    identity = {"server": server.address.url, "model": wire.model, "canary": mark}
    subject = Subject(
        name=wire.model,
        identity=identity | ({"extra_body": extra} if extra else {}),
        verified=False,
        execution={
            "engine": "openai-compatible server",
            "prefix": prefix or "none",
            "traces": "taken out by the server" if looked.trace else "inline or none",
            "listed": "yes" if served.listed else "no",
            "next-token figures": f"{tops.chat} (chat), {tops.text} (completions)",
            "fields dropped": ", ".join(sorted(wire.dropped)) or "none",
        },
    )
    return Found(
        wire=wire,
        renderer=renderer,
        separates=looked.trace is not None,
        view=view,
        capabilities=capabilities,
        tops=tops,
        context_length=options.context_length or served.context_length,
        subject=subject,
    )


async def _renderer(wire: Wire, options: Options, look: probe.Look) -> Renderer | None:
    if options.prefix in ("none", "chat"):
        return None
    renderer: Renderer
    if options.tokenizer:
        renderer = await LocalRenderer.load(options.tokenizer)
        if await probe.renders_alike(wire, renderer, look.reply) is False:
            raise BackendError(
                f"the tokenizer {options.tokenizer!r} renders another prompt than the server,"
                f" which counts {look.reply.prompt_tokens} tokens",
                hint="pass the tokenizer and chat template of the model that is served",
            )
    else:
        renderer = ServerRenderer(wire.server, wire.model)
    if await _usable(wire, options, renderer, look):
        return renderer
    if options.tokenizer or options.prefix == "completions":
        raise BackendError(
            f"{wire.server.address.url} has no completions route that answers token ids as its"
            " chat route answers messages",
            hint="-M prefix=chat or -M prefix=none, without -M tokenizer",
        )
    return None


async def _usable(wire: Wire, options: Options, renderer: Renderer, look: probe.Look) -> bool:
    """Whether the completions route can take the chat route's place with these prompts."""
    # Fields such as reasoning_effort shape the chat route's prompt in ways unseen.
    if wire.shapes_prompts and not options.tokenizer:
        return False
    try:
        alike = await probe.renders_alike(wire, renderer, look.reply)
        if alike is False or (alike is None and not options.tokenizer):
            return False
        return bool(options.format) or await probe.raw_agrees(wire, renderer, look)
    except RequestFailed:
        return False


async def _observed_view(wire: Wire, options: Options, look: probe.Look) -> TemplateView:
    looked = look.reply
    if looked.trace and not looked.text and looked.finish == "stop":
        raise BackendError(
            f"{wire.server.address.url} puts the whole answer into its reasoning field: trace"
            " and answer cannot be told apart",
            hint="start the server with the model's own reasoning parser, or with none",
        )
    works = probe.thinks(looked) and await probe.off_works(wire, look.tokens)
    view = probe.recognise(looked, off_works=works)
    if view is None and not options.format:
        raise BackendError(
            f"{wire.model} wrote {look.tokens} tokens on a sum, without a mark or an end:"
            " a trace that never closed looks like that, and so does rambling",
            hint="say which: -M format=template-tags, tags, harmony or none",
        )
    return view or TemplateView(rendered="", rendered_off="")


async def _prefix(
    wire: Wire, options: Options, looked: Reply, view: TemplateView, renderer: Renderer | None
) -> str:
    """Say how a beginning is continued, or '' for not at all."""
    if options.prefix == "none":
        return ""
    if renderer is not None:
        return f"completions, {renderer.name}"
    if options.prefix == "chat":
        if await probe.not_refuted(wire):
            return "chat"
        raise BackendError(
            f"{wire.server.address.url} does not continue a final assistant message"
            " (-M prefix=chat)",
            hint="-M tokenizer=PATH continues by another route, -M prefix=none goes without",
        )
    if looked.trace and not options.format:
        # The server swallows the marks, so nobody knows which ones a beginning would need.
        return ""
    fmt = choose_format(BUILTIN_FAMILIES, view)
    return "chat" if await probe.chat_continues(wire, fmt) else ""


async def _gives_logprobs(wire: Wire, renderer: Renderer | None) -> bool:
    if renderer is None:
        return False
    try:
        ids = await renderer.text_ids("The sky is blue.")
        return bool(ids) and await probe.score(wire, ids) is not None
    except (Rejected, RequestFailed):
        return False
