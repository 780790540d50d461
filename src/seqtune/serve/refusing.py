"""Errors as OpenAI's clients expect them: ``{"error": {"message", "type", "param", "code"}}``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from seqtune.errors import did_you_mean
from seqtune.serve import wire

#: What can be asked for, and how much of a client's own words is said again.
KNOWN = (*wire.ChatRequest.model_fields, *wire.CompletionRequest.model_fields)
SAID = 50

TYPES = {401: "authentication_error", 403: "permission_error", 500: "server_error", 503: "server_error"}


class Refused(Exception):  # noqa: N818
    """A request that is not answered.

    Args:
        status: of the response.
        message: what was found, what was expected.
        param: the field that is wrong.
        code: a word for programs.
        retry_after: seconds after which another try may do.
        close: whether the connection ends with it, as part of the request was not read.
        headers: further headers.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
        close: bool = False,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["retry-after"] = str(retry_after)
        if close:
            self.headers["connection"] = "close"
        if status == 401:
            self.headers["www-authenticate"] = "Bearer"

    def body(self) -> dict[str, Any]:
        """What the response holds."""
        kind = TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def content(self) -> bytes:
        """The same as bytes; whatever a client sent is escaped."""
        return json.dumps(self.body()).encode("ascii")

    def response(self) -> Response:
        """The whole response."""
        return Response(self.content(), self.status, self.headers, "application/json")


def said(problem: Mapping[str, Any]) -> str:
    """What is wrong with a field, of pydantic's description: what was expected, what was found."""
    if problem["type"] == "extra_forbidden":
        return f"not known here; {did_you_mean(str(problem['loc'][-1])[:SAID], KNOWN)}".rstrip("; ")
    found = problem.get("input")
    if problem["type"] == "missing" or not isinstance(found, (bool, int, float, str)):
        return str(problem["msg"])
    return f"{problem['msg']}; found {(found[:SAID] if isinstance(found, str) else found)!r}"
