"""Access control before any page is built: host names, origins, logins, and headers on every response."""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlencode, urlsplit

from flask import Flask, Response, jsonify, redirect, render_template, request, session
from werkzeug.wrappers import Response as AnyResponse

from dashboards.users import Users
from sweeps.errors import InputError
from sweeps.text.sanitize import visible

LOOPBACK = ("localhost", "127.0.0.1", "::1")
OPEN = ("/healthz",)  # for machines: any Host, no login
SCRAPED = ("/metrics",)  # any Host, but a login if there is a users file
_SESSION_HOURS = 12
_LEAST_KEY = 32  # bytes
_POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self' 'unsafe-inline'",  # plotly sets inline styles
    "img-src": "'self' data: blob:",
    "connect-src": "'self'",
    "font-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'self'",
    "frame-ancestors": "'none'",
}
_HEADERS = {
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


def is_loopback(host: str) -> bool:
    """Return whether the host can be reached from this machine only."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def secret_key(path: Path | None) -> bytes:
    """Return the key that signs sessions: a file's content, or a random key, which lasts as long as the process.

    Raises:
        InputError: the file cannot be read, or is too short.
    """
    if path is None:
        return secrets.token_bytes(_LEAST_KEY)
    try:
        key = path.read_bytes().strip()
    except OSError as error:
        raise InputError(f"{visible(str(path))}: cannot read the secret key: {error.strerror}") from error
    if len(key) < _LEAST_KEY:
        raise InputError(f"{visible(str(path))}: the secret key has {len(key)} bytes; it needs at least {_LEAST_KEY}")
    return key


def protect(server: Flask, users: Users | None, hosts: Sequence[str], key: bytes, scripts: Sequence[str]) -> None:
    """Guard every request of a Flask server.

    Args:
        server: the server to guard.
        users: the users who can log in; None disables the login.
        hosts: names that a Host header can have; "*" allows all.
        key: the key that signs sessions.
        scripts: hashes of the inline scripts that the pages can run.
    """
    server.config.update(
        SECRET_KEY=key,
        SESSION_COOKIE_NAME="sweeps",
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Strict",
        PERMANENT_SESSION_LIFETIME=timedelta(hours=_SESSION_HOURS),
        MAX_CONTENT_LENGTH=4 * 1024 * 1024,
    )
    policy = "; ".join(f"{name} {source}" for name, source in _POLICY.items())
    policy = policy.replace("script-src 'self'", " ".join(["script-src 'self'", *scripts]))
    allowed = {host.lower() for host in hosts}

    @server.before_request
    def _guard() -> AnyResponse | None:
        if request.path in OPEN:
            return None
        if "*" not in allowed and request.path not in SCRAPED and _name(request.host) not in allowed:
            return _plain(400, "this host name is not allowed; add it with --allowed-hosts")
        origin = request.headers.get("Origin")
        if request.method not in ("GET", "HEAD") and origin is not None and urlsplit(origin).netloc != request.host:
            return _plain(403, "requests from other sites are not allowed")
        if users is None or request.path in ("/login", "/login/session") or request.path.startswith("/assets/"):
            return None
        return None if visitor(users) is not None else _refused()

    @server.after_request
    def _head(response: Response) -> Response:
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        response.headers.setdefault("Content-Security-Policy", policy)
        if not request.path.startswith(("/assets/", "/_dash-component-suites/")):
            response.headers["Cache-Control"] = "no-store"
        return response

    if users is not None:
        _add_login(server, users)


def visitor(users: Users) -> str | None:
    """Return the user's name, from the session or HTTP Basic; None if the visitor is not logged in."""
    name = session.get("user")
    if isinstance(name, str):
        mark = users.mark(name)
        if mark is not None and secrets.compare_digest(mark, str(session.get("mark"))):
            return name
    given = request.authorization
    if given is None or given.type != "basic" or _waits(users):
        return None
    if users.check(given.username or "", given.password or ""):
        return given.username
    users.throttle.failed(request.remote_addr or "")
    return None


def _add_login(server: Flask, users: Users) -> None:
    @server.get("/login")
    def _login() -> str | AnyResponse:
        if visitor(users) is not None:
            return redirect(_local(request.args.get("next")))
        return render_template("login.html.j2", problem="", next=_local(request.args.get("next")))

    @server.post("/login")
    def _enter() -> tuple[str, int, dict[str, str]] | AnyResponse:
        next_, name = _local(request.form.get("next")), request.form.get("name", "")
        if seconds := _waits(users):
            problem = f"Too many failed logins. Try again in {seconds} s."
            return render_template("login.html.j2", problem=problem, next=next_), 429, {"Retry-After": str(seconds)}
        if not users.check(name, request.form.get("password", "")):
            users.throttle.failed(request.remote_addr or "")
            return render_template("login.html.j2", problem="Wrong name or password.", next=next_), 401, {}
        session.clear()
        session.permanent = True
        session.update(user=name, mark=users.mark(name))
        return redirect(next_, 303)

    @server.get("/login/session")
    def _session() -> Response:
        """Return the session's user to the login page: links from other sites send no cookie, even with a session."""
        return jsonify({"user": visitor(users)})

    @server.post("/logout")
    def _leave() -> AnyResponse:
        session.clear()
        return redirect("/login", 303)


def _waits(users: Users) -> int:
    return users.throttle.seconds(request.remote_addr or "")


def _refused() -> AnyResponse:
    if (
        request.method == "GET"
        and request.accept_mimetypes.best_match(["application/json", "text/html"]) == "text/html"
    ):
        return redirect(f"/login?{urlencode({'next': request.full_path.rstrip('?')})}")
    response = _plain(401, "log in first")
    if request.headers.get("Sec-Fetch-Mode") is None:  # for scripts; a browser would open its own login dialog
        response.headers["WWW-Authenticate"] = 'Basic realm="sweeps", charset="UTF-8"'
    return response


def _local(target: str | None) -> str:
    """Return the target if it is a path on this server, else /."""
    parts = urlsplit((target or "/").replace("\\", "/"))
    if parts.scheme or parts.netloc or not parts.path.startswith("/") or parts.path.startswith("//"):
        return "/"
    return parts.path + (f"?{parts.query}" if parts.query else "")


def _name(host: str) -> str:
    """Return a Host header's name without the port."""
    return (urlsplit(f"//{host}").hostname or "").lower()


def _plain(status: int, text: str) -> Response:
    return Response(f"{text}\n", status, mimetype="text/plain")
