"""The client of a tracking server: MLflow's own, with the calls that log a trial sent and repeated with care.

MLflow's client repeats any call whose connection breaks, also one that has made a run: then there are two. It takes no
refusal from MLflow's connection pool for one, which comes as HTTP 400, and waits for up to four minutes in each thread.
Here create_run, log_batch and set_terminated go to the same REST API with the same credentials, but all threads share
one pace, and a run is looked for before it is created again. The other two may be repeated: a point that is there is
not written again.
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

from sweeps.tracking.mlflow.server.throttle import Throttle
from sweeps.tracking.mlflow.writer import now_ms
from sweeps.tracking.names import SWEEP_ID, TRIAL_ID

_API = "/api/2.0/mlflow/"
_REFUSED = (408, 429, 500, 502, 503, 504)
_POOL_IS_EMPTY = "QueuePool limit"  # SQLAlchemy's words, which MLflow sends as HTTP 400
_FIRST_WAIT = 0.5  # seconds; doubled with every try, give or take half of it
_LONGEST_WAIT = 30.0
_NAMED_BY = ("mlflow.parentRunId", SWEEP_ID, "sweeps.kind", TRIAL_ID)  # tags that no two runs share


class ServerClient(MlflowClient):
    """MLflow's client of an HTTP server, for any number of threads.

    Calls are repeated as often as MLFLOW_HTTP_REQUEST_MAX_RETRIES allows, and as many are sent at once as MLflow's
    client keeps connections (MLFLOW_HTTP_POOL_MAXSIZE).

    Args:
        uri: the server's.
        first_wait: seconds before a call is repeated for the first time.
    """

    def __init__(self, uri: str, first_wait: float = _FIRST_WAIT) -> None:
        """Nothing is sent yet."""
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
        """As MLflow's; a run with the same naming tags that is there after a call without an answer is that call's."""
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
        """As MLflow's, always synchronous."""
        body = {
            "run_id": run_id,
            "metrics": [{"key": m.key, "value": m.value, "timestamp": m.timestamp, "step": m.step} for m in metrics],
            "params": [{"key": p.key, "value": p.value} for p in params],
            "tags": [{"key": t.key, "value": t.value} for t in tags],
        }
        self._call("runs/log-batch", body)

    def set_terminated(self, run_id: str, status: str | None = None, end_time: int | None = None) -> None:
        """As MLflow's."""
        self._call("runs/update", {"run_id": run_id, "status": status or "FINISHED", "end_time": end_time or now_ms()})

    def hurry(self) -> None:
        """Somebody is waiting for the end: no call is repeated any more."""
        self._pace.hurry()

    def _named(self, experiment_id: str, tags: dict[str, Any]) -> dict[str, Any] | None:
        """The run that has these naming tags, as runs/create answers."""
        named = " and ".join(f"tags.`{key}` = '{tags[key]}'" for key in _NAMED_BY if key in tags)
        body = {"experiment_ids": [experiment_id], "filter": named, "max_results": 1}
        runs = self._call("runs/search", body).get("runs") if named else None
        return {"run": runs[0]} if runs else None

    def _call(
        self, endpoint: str, body: dict[str, Any], done: Callable[[], dict[str, Any] | None] = lambda: None
    ) -> dict[str, Any]:
        """Send until there is an answer; before each repetition ``done`` may say what an earlier try has come to.

        Raises:
            MlflowException: the server does not want this call, or refuses it to the end.
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
        """The answer, or a failure that may pass and how long the server wants to be left alone."""
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
    """The seconds for which the server wants to be left alone, or 0."""
    try:
        return min(_LONGEST_WAIT, urllib3.Retry(0).get_retry_after(response.raw) or 0.0)
    except urllib3.exceptions.InvalidHeader:
        return 0.0
