"""The routes, put together behind their gate."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib import resources
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.responses import Response

from seqtune import __version__
from seqtune.serve import wire
from seqtune.serve.answering import Answers, EventStream, Gone
from seqtune.serve.batcher import Batcher
from seqtune.serve.gate import Gate
from seqtune.serve.refusing import Refused, said
from seqtune.serve.settings import ServeSettings
from seqtune.serve.shelf import Entry, Shelf
from seqtune.serve.watching import CONTENT_TYPE, Watch

#: The page runs its own script and style and talks to its own server; nothing else.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
SAFE = {"x-content-type-options": "nosniff", "referrer-policy": "no-referrer", "content-security-policy": POLICY}

REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": wire.Refusal, "description": text}
    for status, text in {
        400: "Not HTTP or not JSON; a question over the limit.",
        401: "The key is missing or wrong.",
        403: "Called by another name or from another page.",
        404: "No such model.",
        408: "The body did not come in time.",
        413: "The body is too large.",
        422: "A parameter is unknown or out of bounds.",
        500: "It could not be computed.",
        503: "The queue is full, the deadline has passed, or the models are not loaded yet.",
    }.items()
}
STREAM = {200: {"content": {"text/event-stream": {}}, "description": "The answer, or with `stream` its events."}}


def create_app(shelf: Shelf, settings: ServeSettings) -> Gate:
    """The server's app: the routes over the models of a shelf.

    Args:
        shelf: the models.
        settings: the knobs.

    Returns:
        An ASGI app, whose batcher starts and ends with its lifespan.
    """
    watch = Watch()
    batcher = Batcher(shelf, settings.max_batch_size, settings.max_waiting, watch)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        batcher.start()
        yield
        await asyncio.to_thread(batcher.end, settings.shutdown_timeout)

    answers = Answers(shelf, batcher, settings)
    app = FastAPI(
        title="seqtune",
        lifespan=lifespan,
        version=__version__,
        description="Models tuned with seqtune, behind the interface of OpenAI's clients.",
        docs_url=None,  # the usual pages load their scripts from elsewhere
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # what is asked stays here
    )
    keys = [{HTTPBearer().scheme_name: []}] if settings.api_key else []
    _add_page(app)
    _add_health(app, batcher, watch, keys)
    _add_models(app, answers, keys)
    _add_completions(app, answers, settings, keys)
    _add_refusals(app)
    if settings.api_key:
        _declare_key(app)
    return Gate(app, settings, watch, batcher)


def _add_page(app: FastAPI) -> None:
    """The page and its two files."""
    kinds = {
        "": ("index.html", "text/html"),
        "page.css": ("page.css", "text/css"),
        "page.js": ("page.js", "text/javascript"),
    }
    for path, (name, kind) in kinds.items():
        content = resources.files("seqtune.serve").joinpath("page", name).read_bytes()
        app.add_api_route(f"/{path}", _file(content, kind), include_in_schema=False)


def _file(content: bytes, kind: str) -> Callable[[], Response]:
    def file() -> Response:
        return Response(content, headers={**SAFE, "cache-control": "no-cache"}, media_type=kind)

    return file


def _add_health(app: FastAPI, batcher: Batcher, watch: Watch, keys: list[Any]) -> None:
    """Whether it is well, and its figures."""

    @app.get("/health", responses={503: {"description": "Not warm yet, or a model could not answer."}}, tags=["state"])
    async def health() -> Response:
        """200 when the models are loaded and have answered once."""
        well = batcher.is_warm and not batcher.broken and not batcher.ending and batcher.thread.is_alive()
        content = b'{"status": "ok"}' if well else b'{"status": "not ready"}'
        return Response(content, 200 if well else 503, media_type="application/json")

    @app.get(
        "/metrics",
        responses={200: {"content": {"text/plain": {}}}, 401: REFUSALS[401]},
        response_class=Response,
        openapi_extra={"security": keys},
        tags=["state"],
    )
    async def metrics() -> Response:
        """Figures in Prometheus' text format."""
        return Response(watch.text(), headers={"content-type": CONTENT_TYPE})


def _add_models(app: FastAPI, answers: Answers, keys: list[Any]) -> None:
    """The list of models."""

    def card(entry: Entry) -> wire.Card:
        owner = "seqtune" if entry.base else "base"
        return wire.Card(id=entry.name, created=entry.created, owned_by=owner, parent=entry.base)

    named: dict[int | str, Any] = {status: REFUSALS[status] for status in (401, 404, 422)}

    @app.get("/v1/models", responses={401: REFUSALS[401]}, openapi_extra={"security": keys}, tags=["models"])
    async def models() -> wire.Cards:
        """All models, tuned ones first."""
        return wire.Cards(data=[card(entry) for entry in answers.shelf.entries.values()])

    @app.get("/v1/models/{name:path}", responses=named, openapi_extra={"security": keys}, tags=["models"])
    async def model(name: str) -> wire.Card:
        """One model."""
        return card(answers.entry(name))


def _add_completions(app: FastAPI, answers: Answers, settings: ServeSettings, keys: list[Any]) -> None:
    """The two ways to ask."""
    chat_kind = wire.bounded(wire.ChatRequest, settings.max_new_tokens)
    completion_kind = wire.bounded(wire.CompletionRequest, settings.max_new_tokens)
    shared: dict[str, Any] = {
        "responses": {**REFUSALS, **STREAM},
        "openapi_extra": {"security": keys},
        "tags": ["answers"],
    }

    async def chat(asked: Any, request: Request) -> Any:
        """Answer the last message of the user."""
        question, ignored = answers.question_of(asked.messages)
        jobs = await answers.jobs(asked, [question])
        stamp = wire.stamp("chatcmpl", asked.model)
        headers = {"x-seqtune-ignored-messages": str(ignored)}
        if asked.stream:

            def event(index: int, piece: str | None, reason: str | None) -> dict[str, Any]:
                delta = {"role": "assistant", "content": ""} if piece is None and reason is None else {}
                delta = {"content": piece} if piece is not None else delta
                choice = {"index": index, "delta": delta, "finish_reason": reason, "logprobs": None}
                return {**stamp, "object": "chat.completion.chunk", "choices": [choice]}

            def last() -> dict[str, Any]:
                usage = answers.usage(jobs).model_dump()
                return {**stamp, "object": "chat.completion.chunk", "choices": [], "usage": usage}

            return EventStream(answers.events(jobs, request, event, last if _wants_usage(asked) else None), headers)
        texts = await answers.whole(jobs, request)
        choices = [
            wire.ChatChoice(index=index, message=wire.Answered(content=text), finish_reason=job.reason)
            for index, (job, text) in enumerate(zip(jobs, texts, strict=True))
        ]
        found = wire.ChatCompletion(**stamp, choices=choices, usage=answers.usage(jobs), ignored_messages=ignored)
        return Response(found.model_dump_json(), headers=headers, media_type="application/json")

    async def completions(asked: Any, request: Request) -> Any:
        """Answer a prompt, or several."""
        jobs = await answers.jobs(asked, asked.prompts)
        stamp = wire.stamp("cmpl", asked.model)
        if asked.stream:

            def event(index: int, piece: str | None, reason: str | None) -> dict[str, Any]:
                choice = {"index": index, "text": piece or "", "finish_reason": reason, "logprobs": None}
                return {**stamp, "object": "text_completion", "choices": [choice]}

            def last() -> dict[str, Any]:
                return {**stamp, "object": "text_completion", "choices": [], "usage": answers.usage(jobs).model_dump()}

            return EventStream(answers.events(jobs, request, event, last if _wants_usage(asked) else None), {})
        texts = await answers.whole(jobs, request)
        choices = [
            wire.TextChoice(index=index, text=text, finish_reason=job.reason)
            for index, (job, text) in enumerate(zip(jobs, texts, strict=True))
        ]
        found = wire.Completion(**stamp, choices=choices, usage=answers.usage(jobs))
        return Response(found.model_dump_json(), media_type="application/json")

    # The kinds are made at run time, with the server's own bounds: FastAPI reads them off the annotations.
    chat.__annotations__["asked"] = chat_kind
    completions.__annotations__["asked"] = completion_kind
    app.post("/v1/chat/completions", response_model=wire.ChatCompletion, **shared)(chat)
    app.post("/v1/completions", response_model=wire.Completion, **shared)(completions)


def _wants_usage(asked: Any) -> bool:
    return bool(asked.stream_options and asked.stream_options.include_usage)


def _add_refusals(app: FastAPI) -> None:
    """Every error in the one form."""

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> Response:
        return error.response()

    @app.exception_handler(Gone)
    async def gone(_: Request, error: Gone) -> Response:
        return Response(status_code=499)  # nobody reads it

    @app.exception_handler(Exception)
    async def unforeseen(_: Request, error: Exception) -> Response:  # it goes on to the gate, which logs it
        return Refused(500, "something went wrong here; the log of the server says what").response()

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        what = {404: f"there is no {request.url.path[:100]!r}", 405: f"{request.method} is not for this address"}
        found = what.get(error.status_code, str(error.detail))
        return Refused(error.status_code, found, headers=dict(error.headers or {})).response()

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        problems = error.errors()
        if isinstance(error.body, bytes) and error.body:  # not read as JSON: curl's -d says that it is a form
            kind = request.headers.get("content-type", "missing")[:100]
            return Refused(422, f"Content-Type is {kind}: expected application/json", param="the body").response()
        first = problems[0]
        if any(each["type"] == "json_invalid" for each in problems):
            return Refused(
                400, f"the body is no JSON: {first.get('ctx', {}).get('error', 'it can not be read')}"
            ).response()
        lines = [f"{_place(each['loc'])}: {said(each)}" for each in problems[:10]]
        if len(problems) > 10:
            lines.append(f"and {len(problems) - 10} more")
        return Refused(422, "; ".join(lines), param=_place(first["loc"])).response()


def _place(loc: Any) -> str:
    """``messages.0.content`` for where a body is wrong; the types it is not are left out."""
    parts = [str(part)[:100] for part in loc[1:]]
    return ".".join(part for part in parts if "[" not in part and part not in ("str", "constrained-str")) or "the body"


def _declare_key(app: FastAPI) -> None:
    """The key in the OpenAPI document."""
    made = app.openapi

    def with_key() -> dict[str, Any]:
        document = made()
        document.setdefault("components", {})["securitySchemes"] = {"HTTPBearer": {"type": "http", "scheme": "bearer"}}
        return document

    app.openapi = with_key
