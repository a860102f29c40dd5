"""Probe: whether a Ray is there and lets us in, told in a line within seconds; Ray itself would wait for minutes."""

from __future__ import annotations

import socket

from sweeps.errors import ExecutorError

_PROBE_SECONDS = 10.0
_CONNECT_SECONDS = 1.0
# Any Ray refuses strangers before it looks at what they ask for; a client's server does not know this call.
_CALL = "/ray.rpc.NodeInfoGcsService/GetClusterId"


def probe(address: str) -> None:
    """Try the head of a cluster.

    Args:
        address: ``auto``, which Ray knows best, ``HOST:PORT`` or ``ray://HOST:PORT``.

    Raises:
        ExecutorError: it is no address, nobody answers there, or not as Ray does, or the token is not the right one.
    """
    if address == "auto":
        return
    host, port = _host_and_port(address)
    try:
        socket.create_connection((host, port), timeout=_PROBE_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ExecutorError(f"Ray at {address} cannot be joined: {error}") from error
    if (objection := _objection(f"{host}:{port}")) is not None:
        raise ExecutorError(f"Ray at {address} cannot be joined: {objection}")


def answers(address: str) -> bool:
    """Whether somebody takes connections at ``HOST:PORT`` or ``ray://HOST:PORT``."""
    try:
        socket.create_connection(_host_and_port(address), timeout=_CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


def _host_and_port(address: str) -> tuple[str, int]:
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        raise ExecutorError(f"Ray address {address!r}: auto, HOST:PORT or ray://HOST:PORT is needed")
    return host, int(port)


def _objection(head: str) -> str | None:
    """Why a head would not let us in; None if it would."""
    import grpc
    from ray._private.grpc_utils import init_grpc_channel  # with the token and certificates that Ray is to use

    channel = init_grpc_channel(head)
    try:
        channel.unary_unary(_CALL, bytes, bytes)(b"", timeout=_PROBE_SECONDS, wait_for_ready=True)
    except grpc.RpcError as error:
        match error.code():
            case grpc.StatusCode.UNAUTHENTICATED | grpc.StatusCode.PERMISSION_DENIED:
                return "it asks for another token (RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH)"
            case grpc.StatusCode.DEADLINE_EXCEEDED | grpc.StatusCode.UNAVAILABLE:
                return f"it takes connections, but has not answered as Ray does within {_PROBE_SECONDS:.0f} s"
    finally:
        channel.close()
    return None
