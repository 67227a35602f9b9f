"""How the API answers: JSON, and Kubernetes `Status` objects for errors."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from beemesh.errors import BeemeshError, InvalidInput, Untrusted
from beemesh.workloads import kubeshape


def json_answer(content: Any, status: int = 200) -> Response:
    """JSON, encoded by msgspec."""
    return Response(msgspec.json.encode(content), status_code=status, media_type="application/json")


def failure(
    status: int, message: str, *, hint: str = "", causes: tuple[str, ...] = (), keepers: tuple[str, ...] = ()
) -> Response:
    """A Kubernetes `Status` object: what kubectl and beemeshctl show."""
    listed = [{"message": cause} for cause in causes]
    return json_answer(kubeshape.status(status, message, hint=hint, causes=listed, keepers=keepers), status)


def error_answer(error: BeemeshError) -> Response:
    """An error of ours as a `Status`; what is not trusted at the door is 401, as HTTP wants it."""
    causes = tuple(str(problem) for problem in error.problems) if isinstance(error, InvalidInput) else ()
    status = 401 if isinstance(error, Untrusted) else error.http_status
    return failure(status, error.message, hint=error.hint, causes=causes)


async def on_error(_request: Request, error: Exception) -> Response:
    """Starlette's handler for errors of ours."""
    assert isinstance(error, BeemeshError)
    return error_answer(error)
