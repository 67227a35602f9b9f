"""How the API answers: JSON, Kubernetes `Status` objects for errors, and lists."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from beemesh.errors import BeemeshError, InvalidInput, Untrusted

REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    409: "Conflict",
    413: "RequestEntityTooLarge",
    422: "Invalid",
    500: "InternalError",
    502: "BadGateway",
    503: "ServiceUnavailable",
    504: "Timeout",
}


def json_answer(content: Any, status: int = 200) -> Response:
    """JSON, encoded by msgspec."""
    return Response(msgspec.json.encode(content), status_code=status, media_type="application/json")


def failure(status: int, message: str, *, hint: str = "", causes: tuple[str, ...] = ()) -> Response:
    """A Kubernetes `Status` object: what kubectl and beemeshctl show."""
    details: dict[str, Any] = {"hint": hint} if hint else {}
    if causes:
        details["causes"] = [{"message": cause} for cause in causes]
    content = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": REASONS.get(status, "Unknown"),
        "details": details,
        "code": status,
    }
    return json_answer(content, status)


def error_answer(error: BeemeshError) -> Response:
    """An error of ours as a `Status`; what is not trusted at the door is 401, as HTTP wants it."""
    causes = tuple(str(problem) for problem in error.problems) if isinstance(error, InvalidInput) else ()
    status = 401 if isinstance(error, Untrusted) else error.http_status
    return failure(status, error.message, hint=error.hint, causes=causes)


async def on_error(_request: Request, error: Exception) -> Response:
    """Starlette's handler for errors of ours."""
    assert isinstance(error, BeemeshError)
    return error_answer(error)


def listing(kind: str, api_version: str, items: list[dict[str, Any]], resource_version: int) -> dict[str, Any]:
    """A Kubernetes list, such as a `PodList`."""
    return {
        "kind": f"{kind}List",
        "apiVersion": api_version,
        "metadata": {"resourceVersion": str(resource_version)},
        "items": items,
    }
