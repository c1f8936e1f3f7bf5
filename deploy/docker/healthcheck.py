"""The image's HEALTHCHECK: asks the worker of this container whether it lives. Exit code 0, or 1 with a word why.

A plain socket: it runs every few seconds, and takes no longer than Python itself.
"""

import os
import socket
import sys

LIMIT_S = 4.0
EVERY = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - asked, not listened on


def main() -> int:
    """Print what /livez of [metrics] listen answers, and return the exit code."""
    host, _, port = os.environ.get("COATCHECK_METRICS__LISTEN", "").rpartition(":")
    host = host.strip("[]")
    try:
        with socket.create_connection((EVERY.get(host, host), int(port)), timeout=LIMIT_S) as worker:
            worker.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
            head, _, body = worker.makefile("rb").read().partition(b"\r\n\r\n")
    except (OSError, ValueError) as error:
        print(f"no answer: {error}")
        return 1
    print(body.decode(errors="replace").strip())
    return 0 if b" 200 " in head.partition(b"\r\n")[0] else 1


if __name__ == "__main__":
    sys.exit(main())
