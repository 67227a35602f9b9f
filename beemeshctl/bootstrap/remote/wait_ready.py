"""Waits until the agent on this host says that it is ready. The argument is JSON: socket, patience_s."""

from __future__ import annotations

import json
import socket
import sys
import time
from typing import Any


def ask(path: str, request: str) -> tuple[int, str]:
    """(status, body) of one HTTP request over a unix socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(5)
        connection.connect(path)
        connection.sendall(f"GET {request} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        answer = b""
        while True:
            chunk = connection.recv(65536)
            if not chunk or len(answer) > 1 << 20:
                break
            answer += chunk
    head, _, body = answer.partition(b"\r\n\r\n")
    words = head.split(None, 2)
    return (int(words[1]) if len(words) > 1 else 0), body.decode("utf-8", "replace").strip()


def main(asked: dict[str, Any]) -> dict[str, Any]:
    """Ask until the answer is yes or patience is over."""
    deadline = time.monotonic() + asked["patience_s"]
    said = f"its socket {asked['socket']} does not exist"
    while True:
        try:
            status, body = ask(asked["socket"], "/readyz")
            if status == 200:
                return {"ready": True, "said": body[:2000]}
            said = f"{status} {body[:2000]}"
        except (OSError, ValueError) as error:
            said = f"{asked['socket']}: {error}"
        if time.monotonic() > deadline:
            return {"ready": False, "said": said}
        time.sleep(0.1)


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
