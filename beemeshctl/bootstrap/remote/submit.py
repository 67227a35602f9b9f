"""Hands one signed record to the agent of this host. The argument is JSON: socket, target, headers, body (base64)."""

from __future__ import annotations

import base64
import json
import socket
import sys
from typing import Any

ANSWER_BYTES_MAX = 65536


def main(asked: dict[str, Any]) -> dict[str, Any]:
    """Status and text of the agent's answer; status 0 when there was none."""
    body = base64.b64decode(asked["body"])
    lines = [f"POST {asked['target']} HTTP/1.0", "Host: localhost", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in asked["headers"].items()]
    answer = b""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(20)
            connection.connect(asked["socket"])
            connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)
            while len(answer) < ANSWER_BYTES_MAX:
                chunk = connection.recv(ANSWER_BYTES_MAX)
                if not chunk:
                    break
                answer += chunk
    except OSError as error:
        return {"status": 0, "said": str(error)}
    head, _, text = answer.partition(b"\r\n\r\n")
    words = head.split(None, 2)
    return {"status": int(words[1]) if len(words) > 1 else 0, "said": text.decode("utf-8", "replace")[:2000]}


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
