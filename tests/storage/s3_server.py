"""A moto S3 server whose writes happen one at a time; prints its address, serves until its standard input ends.

``GET /_requests`` tells how often which object was asked for, as JSON: ``GET /bucket/key`` to a number.

moto looks whether an object exists and then puts it, without a lock between: a real S3 decides ``If-None-Match`` atomically.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server


class Serialised:
    """A WSGI application with its writing requests under a lock."""

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self._app = app
        self._lock, self._counting = threading.Lock(), threading.Lock()
        self._requests: Counter[str] = Counter()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/_requests":
            start_response("200 OK", [("Content-Type", "application/json")])
            with self._counting:
                return [json.dumps(self._requests).encode()]
        with self._counting:
            self._requests[f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}"] += 1
        if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
            return self._app(environ, start_response)
        with self._lock:
            return list(self._app(environ, start_response))


class Quiet(WSGIRequestHandler):
    """No line a request; connections are kept, as S3 keeps them."""

    protocol_version = "HTTP/1.1"

    def log_request(self, *_: Any) -> None:
        return


def main() -> None:
    """Serve."""
    app = Serialised(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
