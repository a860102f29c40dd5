"""A check that a Ray cluster is reachable and accepts the token, within seconds; Ray itself would wait for minutes."""

from __future__ import annotations

import socket

from sweeps.errors import ExecutorError

_PROBE_SECONDS = 10.0
_CONNECT_SECONDS = 1.0
# Ray checks the token before it looks at the call, which Ray client servers do not implement.
_CALL = "/ray.rpc.NodeInfoGcsService/GetClusterId"


def probe(address: str) -> None:
    """Check that the head of a cluster accepts this process.

    Args:
        address: ``HOST:PORT`` or ``ray://HOST:PORT``; ``auto`` is not checked.

    Raises:
        ExecutorError: the address is invalid, no Ray answers there, or the token is wrong.
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
    """Return whether ``HOST:PORT`` or ``ray://HOST:PORT`` accepts connections."""
    try:
        socket.create_connection(_host_and_port(address), timeout=_CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


def _host_and_port(address: str) -> tuple[str, int]:
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit() or "/" in host:
        raise ExecutorError(
            f"Ray address {address!r} (--address or RAY_ADDRESS): must be auto, HOST:PORT or ray://HOST:PORT"
        )
    return host, int(port)


def _objection(head: str) -> str | None:
    """Return the reason why a head rejects this process; None if it accepts it."""
    import grpc
    from ray._private.grpc_utils import init_grpc_channel  # uses Ray's token and certificates

    channel = init_grpc_channel(head)
    try:
        channel.unary_unary(_CALL, bytes, bytes)(b"", timeout=_PROBE_SECONDS, wait_for_ready=True)
    except grpc.RpcError as error:
        match error.code():
            case grpc.StatusCode.UNAUTHENTICATED | grpc.StatusCode.PERMISSION_DENIED:
                return "wrong or missing token (set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH)"
            case grpc.StatusCode.DEADLINE_EXCEEDED | grpc.StatusCode.UNAVAILABLE:
                return f"it accepts connections, but did not answer like Ray within {_PROBE_SECONDS:.0f} s"
    finally:
        channel.close()
    return None
