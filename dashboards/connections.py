"""Limits for the dashboard's connections, so that a client that opens many does not stop the others.

Each connection queues at most one request, so the limits bound the queue, too.
"""

from __future__ import annotations

import socket
import time
from typing import Any

from waitress.channel import HTTPChannel
from waitress.server import BaseWSGIServer

LIMITS = {
    "connection_limit": 500,  # of all addresses; further clients wait to be accepted
    "asyncore_use_poll": True,  # select() fails for that many files
    "channel_timeout": 20,  # seconds for a whole request, and between two requests
    "cleanup_interval": 2,
}
PER_ADDRESS = 100


def limit(server: Any) -> None:
    """Apply the limits per address and per request to a server of waitress."""
    for part in (getattr(server, "map", None) or server._map).values():
        if isinstance(part, BaseWSGIServer):
            part.channel_class = _Connection


class _Connection(HTTPChannel):  # type: ignore[misc]
    """A connection that closes an idle one of its address if there are too many, or itself if none is idle."""

    last_activity: float

    def __init__(self, server: Any, sock: socket.socket, address: Any, *arguments: Any, **options: Any) -> None:
        super().__init__(server, sock, address, *arguments, **options)
        others = [
            channel
            for channel in server.active_channels.values()
            if channel is not self and channel.addr[0] == self.addr[0] and not channel.will_close
        ]
        if len(others) >= PER_ADDRESS:
            idle = [channel for channel in others if not (channel.requests or channel.total_outbufs_len)]
            min(idle, key=lambda channel: channel.last_activity, default=self).will_close = True

    def handle_read(self) -> None:
        """Read a part of a request, which does not extend the time for all of it."""
        before = self.last_activity
        super().handle_read()
        self.last_activity = before

    def service(self) -> None:
        """Answer a request; the time for the next one starts at the end."""
        super().service()
        self.last_activity = time.time()
