"""Waits until the agent on this host says that it is ready. The argument is JSON: socket, patience_s."""

import json
import socket
import sys
import time


def ask(path, request):
    """(status, body) of one HTTP request over a unix socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(5)
        connection.connect(path)
        connection.sendall(("GET %s HTTP/1.0\r\nHost: localhost\r\n\r\n" % request).encode())
        answer = b""
        while True:
            chunk = connection.recv(65536)
            if not chunk or len(answer) > 1 << 20:
                break
            answer += chunk
    head, _, body = answer.partition(b"\r\n\r\n")
    words = head.split(None, 2)
    return (int(words[1]) if len(words) > 1 else 0), body.decode("utf-8", "replace").strip()


def main(asked):
    deadline = time.monotonic() + asked["patience_s"]
    said = "its socket %s does not exist" % asked["socket"]
    while True:
        try:
            status, body = ask(asked["socket"], "/readyz")
            if status == 200:
                return {"ready": True, "said": body[:2000]}
            said = "%d %s" % (status, body[:2000])
        except (OSError, ValueError) as error:
            said = "%s: %s" % (asked["socket"], error)
        if time.monotonic() > deadline:
            return {"ready": False, "said": said}
        time.sleep(0.1)


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
