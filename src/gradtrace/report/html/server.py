"""How is a run looked at while it goes on? A server for one reader, on this machine alone.

It listens on 127.0.0.1, answers only requests that carry its random token in the path and its own name as the host (a
page of another origin knows neither: DNS rebinding), and reads: there is nothing that a request could change.
"""

from __future__ import annotations

import json
import secrets
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from gradtrace.errors import GradtraceError, InputError
from gradtrace.report.html.assets import policy
from gradtrace.report.html.comparison import read_runs, render_runs
from gradtrace.report.html.page import render_opened
from gradtrace.report.opened import open_file
from gradtrace.runs.reader import list_runs

HOST = "127.0.0.1"
TOKEN_BYTES = 24
"""192 random bits."""
IDLE_S = 20.0
"""[seconds] A connection that says nothing for so long is closed."""
MOST_CONNECTIONS = 32
"""At a time; a browser opens six."""


class ReportServer(ThreadingHTTPServer):
    """Serves the report of one file, or of all runs in a folder, rendered anew when something has changed.

    Raises:
        TraceFileError: there is no such file, or it cannot be read as a report.
        InputError: a folder without a run.
    """

    daemon_threads = True

    def __init__(self, path: str | Path, port: int = 0) -> None:
        self.path = Path(path)
        self._token = secrets.token_urlsafe(TOKEN_BYTES)
        self._lock = threading.Lock()
        self._page = (self.stamp(), self._render())  # a wrong file is told at once, not in the browser
        self._places = threading.BoundedSemaphore(MOST_CONNECTIONS)
        super().__init__((HOST, port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """In a thread of its own, while there are not too many."""
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """And leave room for the next."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that hangs up is nothing to speak of; what is ours to answer for is answered with 500."""

    @property
    def url(self) -> str:
        """The address to open, token included."""
        return f"http://{HOST}:{self.server_port}/{self._token}/"

    @property
    def hosts(self) -> tuple[str, str]:
        """What a browser that was given `url` sends as the host."""
        return f"{HOST}:{self.server_port}", f"localhost:{self.server_port}"

    def is_for_us(self, path: str, host: str) -> str | None:
        """What is asked for behind the token, or None where the token or the host is not ours."""
        _, _, rest = path.partition("/")
        token, slash, wanted = rest.partition("/")
        if host not in self.hosts or not slash or not secrets.compare_digest(token.encode(), self._token.encode()):
            return None
        return wanted

    def stamp(self) -> str:
        """Changes whenever the file, or the log that SQLite keeps beside it, is written."""
        files = list_runs(self.path) if self.path.is_dir() else [self.path]
        both = [each for file in files for each in (file, file.with_name(f"{file.name}-wal"))]
        found = [file.stat() for file in both if file.exists()]
        return "-".join(f"{stat.st_mtime_ns:x}.{stat.st_size:x}" for stat in found)

    def page(self) -> str:
        """The report as it is now."""
        with self._lock:
            stamp = self.stamp()
            if stamp != self._page[0]:
                self._page = (stamp, self._render())
            return self._page[1]

    def _render(self) -> str:
        files = list_runs(self.path) if self.path.is_dir() else [self.path]
        if not files:
            raise InputError(f"{self.path} holds no run")
        if len(files) > 1:
            return render_runs(read_runs(files), live=True)
        return render_opened(open_file(files[0]), live=True)


class _Handler(BaseHTTPRequestHandler):
    server: ReportServer
    timeout = IDLE_S

    def do_GET(self) -> None:
        """The page, or whether there is news."""
        wanted = self.server.is_for_us(self.path, self.headers.get("Host", ""))
        if wanted == "":
            try:
                self._send(HTTPStatus.OK, "text/html", self.server.page())
            except GradtraceError as error:
                self._send(HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", f"{error}\n")
            except OSError:
                raise
            except Exception as error:
                told = f"this is a fault of gradtrace, please report it: {type(error).__name__}: {error}\n"
                self._send(HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain", told)
        elif wanted == "news":
            self._send(HTTPStatus.OK, "application/json", json.dumps({"stamp": self.server.stamp()}))
        else:
            self._send(HTTPStatus.NOT_FOUND, "text/plain", "not found\n")

    def _send(self, status: HTTPStatus, kind: str, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        for name, value in (
            ("Content-Type", f"{kind}; charset=utf-8"),
            ("Content-Length", str(len(body))),
            ("Content-Security-Policy", f"{policy(live=True)}; frame-ancestors 'none'"),
            ("Cache-Control", "no-store"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
            ("Referrer-Policy", "no-referrer"),
            ("X-Content-Type-Options", "nosniff"),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the token must not end up in a log."""
