"""A client of tracking servers with safe retries for the calls that log a trial.

MLflow's client retries every call whose connection breaks, including calls that have created a run, which creates a
second one. It does not retry when the server's connection pool is exhausted, which is reported as HTTP 400, and it
waits for up to four minutes in each thread. This client sends create_run, log_batch and set_terminated to the same REST
API with the same credentials, but all threads share one throttle, and a run is searched for before it is created again.
The other two calls can be repeated, because a point that already exists is not written again.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import requests
import urllib3
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.environment_variables import MLFLOW_HTTP_POOL_MAXSIZE, MLFLOW_HTTP_REQUEST_MAX_RETRIES
from mlflow.exceptions import InvalidUrlException, MlflowException
from mlflow.protos.service_pb2 import CreateRun
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.proto_json_utils import parse_dict
from mlflow.utils.rest_utils import http_request, verify_rest_response

from sweeps.store.shard_times import now_ms
from sweeps.tracking.mlflow.server.throttle import Throttle
from sweeps.tracking.names import SWEEP_ID, TRIAL_ID

_API = "/api/2.0/mlflow/"
_REFUSED = (408, 429, 500, 502, 503, 504)
_POOL_IS_EMPTY = "QueuePool limit"  # SQLAlchemy's message, which MLflow sends as HTTP 400
_FIRST_WAIT = 0.5  # seconds; doubled with every retry, plus a jitter of 50 %
_LONGEST_WAIT = 30.0  # seconds
_NAMED_BY = ("mlflow.parentRunId", SWEEP_ID, "sweeps.kind", TRIAL_ID)  # tags that together identify a run


class ServerClient(MlflowClient):
    """An MLflow client for an HTTP server, for use by any number of threads.

    Calls are retried up to MLFLOW_HTTP_REQUEST_MAX_RETRIES times. At most MLFLOW_HTTP_POOL_MAXSIZE calls, the size of
    MLflow's connection pool, are sent at once.

    Args:
        uri: URI of the server.
        first_wait: Seconds before the first retry.
    """

    def __init__(self, uri: str, first_wait: float = _FIRST_WAIT) -> None:
        """Create the client; nothing is sent yet."""
        super().__init__(tracking_uri=uri)
        self.threads = max(1, int(MLFLOW_HTTP_POOL_MAXSIZE.get()))  # type: ignore[no-untyped-call]
        self._uri, self._first_wait = uri, first_wait
        self._pace = Throttle(self.threads)

    def create_run(
        self,
        experiment_id: str,
        start_time: int | None = None,
        tags: dict[str, Any] | None = None,
        run_name: str | None = None,
    ) -> Run:
        """Create a run as MLflow does; before a retry, return the run that an unanswered call has created."""
        tags = tags or {}
        body = {
            "experiment_id": experiment_id,
            "user_id": tags.get("mlflow.user", "unknown"),
            "start_time": start_time or now_ms(),
            "tags": [{"key": key, "value": str(value)} for key, value in tags.items()],
            "run_name": run_name,
        }
        reply = CreateRun.Response()
        parse_dict(self._call("runs/create", body, lambda: self._named(experiment_id, tags)), reply)  # type: ignore[no-untyped-call]
        return Run.from_proto(reply.run)

    def log_batch(
        self,
        run_id: str,
        metrics: Sequence[Metric] = (),
        params: Sequence[Param] = (),
        tags: Sequence[RunTag] = (),
        synchronous: bool | None = None,
    ) -> None:
        """Log metrics, params and tags as MLflow does, always synchronously."""
        body = {
            "run_id": run_id,
            "metrics": [{"key": m.key, "value": m.value, "timestamp": m.timestamp, "step": m.step} for m in metrics],
            "params": [{"key": p.key, "value": p.value} for p in params],
            "tags": [{"key": t.key, "value": t.value} for t in tags],
        }
        self._call("runs/log-batch", body)

    def set_terminated(self, run_id: str, status: str | None = None, end_time: int | None = None) -> None:
        """End a run as MLflow does."""
        self._call("runs/update", {"run_id": run_id, "status": status or "FINISHED", "end_time": end_time or now_ms()})

    def hurry(self) -> None:
        """Stop retrying calls."""
        self._pace.hurry()

    def _named(self, experiment_id: str, tags: dict[str, Any]) -> dict[str, Any] | None:
        """Find the run with these identifying tags, in the format of the response of runs/create."""
        named = " and ".join(f"tags.`{key}` = '{tags[key]}'" for key in _NAMED_BY if key in tags)
        body = {"experiment_ids": [experiment_id], "filter": named, "max_results": 1}
        runs = self._call("runs/search", body).get("runs") if named else None
        return {"run": runs[0]} if runs else None

    def _call(
        self, endpoint: str, body: dict[str, Any], done: Callable[[], dict[str, Any] | None] = lambda: None
    ) -> dict[str, Any]:
        """Send a call until it is answered; before each retry, ``done`` can return the result of an earlier attempt.

        Raises:
            MlflowException: the server rejects the call, or all retries failed.
        """
        for tried in range(1 + int(MLFLOW_HTTP_REQUEST_MAX_RETRIES.get())):  # type: ignore[no-untyped-call]
            if tried:
                seconds = min(_LONGEST_WAIT, self._first_wait * 2 ** (tried - 1)) * random.uniform(0.5, 1.5)
                if not self._pace.rest(seconds):
                    break
                if (earlier := done()) is not None:
                    return earlier
            with self._pace.place() as began:
                answer = self._send(endpoint, body)
                if isinstance(answer, dict):
                    self._pace.answered()
                    return answer
                failure, wait = answer
                self._pace.refused(began, wait)
        raise failure

    def _send(self, endpoint: str, body: dict[str, Any]) -> dict[str, Any] | tuple[MlflowException, float]:
        """Return the answer, or a temporary failure and the seconds to wait that the server asks for."""
        try:
            response = http_request(  # type: ignore[no-untyped-call]
                get_default_host_creds(self._uri),  # type: ignore[no-untyped-call]
                _API + endpoint,
                "POST",
                json=body,
                max_retries=0,
                retry_codes=frozenset(),
                raise_on_status=False,
            )
        except InvalidUrlException:
            raise
        except MlflowException as error:
            if isinstance(error.__context__, requests.exceptions.RequestException):
                return error, 0.0
            raise
        try:
            answer: dict[str, Any] = verify_rest_response(response, _API + endpoint).json()
        except MlflowException as error:
            pool = response.status_code == 400 and _POOL_IS_EMPTY in response.text
            if pool or response.status_code in _REFUSED:
                return error, _retry_after(response)
            raise
        return answer


def _retry_after(response: requests.Response) -> float:
    """Return the seconds to wait that the server asks for, or 0."""
    try:
        return min(_LONGEST_WAIT, urllib3.Retry(0).get_retry_after(response.raw) or 0.0)
    except urllib3.exceptions.InvalidHeader:
        return 0.0
