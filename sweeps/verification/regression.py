"""Check a sweep against limits and a baseline, one result per limit, for scheduled jobs and CI."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_core import PydanticCustomError

from sgdcore import Thresholds
from sgdcore.verdict import absolute
from sweeps.config.base import Model
from sweeps.config.messages import problem_lines
from sweeps.config.types import CUSTOM, Flag, Number
from sweeps.errors import ConfigError, InputError
from sweeps.results.key_metrics import KeyMetrics
from sweeps.results.results import Results, load_results
from sweeps.results.trial_matching import match
from sweeps.store.store import Store, SweepFiles
from sweeps.text.formatting import number

LATEST = "latest"
_ROUNDING = 1e-12  # tolerance when comparing shares
_BAD = ("diverging", "diverged")
_MANY = 10.0  # at or above this ratio, an increase is shown as a factor instead of a percentage


def _increase(value: Any) -> Any:
    try:
        _increase_of(value)
    except ValueError as error:
        problem = "a percentage of the baseline's loss, such as 5%, or a number >= 0 is needed"
        raise PydanticCustomError(CUSTOM, problem) from error
    return value


Increase = Annotated[str | float, BeforeValidator(_increase)]
Share = Annotated[Number, Field(ge=0, le=1)]


class Limits(Model):
    """The limits of a check; None means no limit. :meth:`of` reads them from a mapping.

    ``max_loss_increase`` is relative to the baseline's best loss (``5%``) or absolute (``0.01``).
    """

    max_loss_increase: Increase | None = "1%"
    min_stable_share: Share | None = None
    max_stable_share_drop: Share | None = 0.01
    no_new_divergence: Flag = False  # fail if a trial that converged in the baseline diverges
    allow_incomplete: Flag = False  # pass even if trials are missing

    @classmethod
    def of(cls, document: Mapping[str, Any], where: str = "limits") -> Limits:
        """Read limits from a mapping, such as the content of a YAML file.

        Raises:
            ConfigError: a key is unknown or a value is not allowed.
        """
        try:
            return cls.model_validate(dict(document))
        except ValidationError as error:
            raise ConfigError(where, problem_lines(error, cls)) from error


@dataclass(frozen=True)
class Check:
    """The result of checking one limit."""

    name: str  # the limit's key, or ``complete``
    passed: bool
    message: str  # one line: what was measured and what is allowed
    measured: float | None  # None if there is nothing to measure
    allowed: float | None
    skipped: bool = False  # whether there is no baseline yet; a skipped check counts as passed


def check(files: SweepFiles, baseline: SweepFiles | None, limits: Limits | None = None) -> list[Check]:
    """Check a sweep against limits and a baseline.

    Args:
        files: Files of the sweep.
        baseline: The sweep to compare with; None if there is none yet, then checks that need it are skipped.
        limits: The limits; by default ``Limits()``.

    Raises:
        StoreError: a file of either sweep is damaged.
        InputError: the sweeps are not comparable: they are the same sweep, or differ in loss or metric.
    """
    limits = limits or Limits()
    results = load_results(files)
    before = None if baseline is None else load_results(baseline)
    if before is not None:
        _check_comparable(results, before)
    now = KeyMetrics.of(results)
    was = None if before is None else KeyMetrics.of(before)
    checks = [] if limits.allow_incomplete else [_complete(results)]
    if limits.max_loss_increase is not None:
        checks.append(_loss(now, was, limits.max_loss_increase, before))
    if limits.min_stable_share is not None:
        checks.append(_share(now, limits.min_stable_share))
    if limits.max_stable_share_drop is not None:
        checks.append(_drop(now, was, limits.max_stable_share_drop))
    if limits.no_new_divergence:
        checks.append(_divergence(results, before))
    return checks


def baseline_of(files: SweepFiles, wanted: str = LATEST) -> SweepFiles | None:
    """Find a baseline: the sweep with a given id or, for ``latest``, the newest complete sweep of the same name.

    Returns:
        The baseline, planned no later than this sweep if ``latest``; None if ``latest`` finds none.

    Raises:
        StoreError: no sweep, or more than one, matches the id.
    """
    store = Store.of(files)
    if wanted != LATEST:
        return store.find(wanted)
    name = files.manifest()["name"]
    for other in store.sweeps():
        if other.sweep_id == files.sweep_id or not other.created or other.created > files.created:
            continue
        if other.manifest()["name"] == name and is_complete(other):
            return other
    return None


def is_complete(files: SweepFiles) -> bool:
    """Return whether every trial of a sweep is stored and no process holds it."""
    return files.is_computed() and files.holder() is None


def junit(files: SweepFiles, checks: Sequence[Check]) -> str:
    """Return the checks as JUnit XML, one test case per check."""
    name = _xml(str(files.manifest()["name"]))
    failures, skipped = sum(not c.passed for c in checks), sum(c.skipped for c in checks)
    totals = {"tests": str(len(checks)), "failures": str(failures), "errors": "0"}
    suites = ElementTree.Element("testsuites", {"name": "sweeps check", **totals})
    facts = {"name": f"{name} {files.sweep_id}", **totals, "skipped": str(skipped)}
    suite = ElementTree.SubElement(suites, "testsuite", facts)
    for entry in checks:
        case = ElementTree.SubElement(suite, "testcase", {"classname": f"sweeps.check.{name}", "name": entry.name})
        if entry.skipped:
            ElementTree.SubElement(case, "skipped", {"message": entry.message})
        elif not entry.passed:
            failure = ElementTree.SubElement(case, "failure", {"message": entry.message, "type": "CheckFailed"})
            failure.text = f"{entry.message}\nmeasured: {entry.measured}\nallowed: {entry.allowed}"
        else:
            ElementTree.SubElement(case, "system-out").text = entry.message
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _increase_of(given: str | float) -> tuple[float, bool]:
    """Parse an increase: the amount, and whether it is a share of the baseline's loss.

    Raises:
        ValueError: the value is neither a number nor a percentage, or it is negative.
    """
    text = str(given).strip()
    relative = text.endswith("%")
    amount = float(text.removesuffix("%")) / (100 if relative else 1)
    if not 0 <= amount < math.inf:
        raise ValueError(f"{given}: must be finite and at least 0")
    return amount, relative


def _check_comparable(results: Results, before: Results) -> None:
    if results.files.sweep_id == before.files.sweep_id:
        raise InputError(f"sweep {results.files.sweep_id} cannot be its own baseline")
    for what, mine, theirs in (
        ("task.loss", results.config.task.loss, before.config.task.loss),
        ("metric.name", results.metric, before.metric),
    ):
        if mine != theirs:
            values = f"its {what} is {theirs}, that of {results.files.sweep_id} is {mine}"
            raise InputError(f"baseline {before.files.sweep_id}: not comparable: {values}; choose another baseline")


def _complete(results: Results) -> Check:
    stored, planned = results.stored, results.planned
    failed = len(results.files.shards.failures())
    message = f"{stored:,} of {planned:,} trials are stored" + (f"; failed shards: {failed:,}" if failed else "")
    return Check("complete", stored == planned, message, stored, planned)


def _loss(now: KeyMetrics, was: KeyMetrics | None, limit: str | float, before: Results | None) -> Check:
    name = "max_loss_increase"
    if was is None or before is None:
        return _skipped(name)
    if was.best is None:
        return Check(name, True, "no trial of the baseline has a loss to compare with", now.best, None)
    amount, relative = _increase_of(limit)
    atol = absolute(Thresholds(**before.config.verdict.model_dump()), before.metadata["loss_scale"]).atol or 0.0
    # Losses within the verdicts' absolute tolerance count as equal: relative to 1e-15, any rounding is many percent.
    # A share of a loss below 0 is one of its size.
    allowed = was.best * (1 + (amount if was.best >= 0 else -amount)) + atol if relative else was.best + amount
    if now.best is None:
        return Check(name, False, f"every trial diverged; the baseline's best loss is {_loss_word(was)}", None, allowed)
    share = ""
    if was.best > 0:
        times = now.best / was.best
        change = f"{number(times)} times as much" if times >= _MANY else f"{100 * (times - 1):+.3g} %"
        share = f" ({change})"
    rule = f"at most {limit if relative else number(amount)} more than the baseline's {_loss_word(was)} is allowed"
    return Check(name, now.best <= allowed, f"the best loss is {_loss_word(now)}{share}; {rule}", now.best, allowed)


def _share(now: KeyMetrics, limit: float) -> Check:
    message = f"{_share_word(now)} of the trials are stable; at least {_percent(limit)} is required"
    return Check("min_stable_share", now.stable_share >= limit, message, _measured(now), limit)


def _drop(now: KeyMetrics, was: KeyMetrics | None, limit: float) -> Check:
    name = "max_stable_share_drop"
    if was is None:
        return _skipped(name)
    if not was.stored:
        return Check(name, True, "the baseline has no trials to compare with", _measured(now), None)
    # Compare with a tolerance: in floating point, 0.9 - 0.8 is more than 0.1.
    allowed = max(was.stable_share - limit, 0.0)
    shares = f"{_share_word(now)} of the trials are stable, {_share_word(was)} in the baseline"
    passed = now.stable_share >= allowed - _ROUNDING
    return Check(name, passed, f"{shares}; a drop of up to {_percent(limit)} is allowed", _measured(now), allowed)


def _divergence(results: Results, before: Results | None) -> Check:
    name = "no_new_divergence"
    if before is None:
        return _skipped(name)
    pair = match(before, results)
    common, broken = pair.common.trials, pair.common.broken
    if not common:
        return Check(name, False, "the sweeps have no trials in common, so new divergence is unknown", None, 0)
    message = f"{broken:,} of {common:,} common trials converged in the baseline and diverge now"
    if broken:
        worst = pair.common.changed.table.to_pylist()  # sorted by newly diverging trials first
        row = next((row for row in worst if row["verdict_before"] == "converged" and row["verdict"] in _BAD), None)
        message += f"; the first is trial {row['trial']}" if row else ""
    by = "" if pair.by == "trial" else f" ({pair.why})"
    return Check(name, broken == 0, f"{message}{by}", broken, 0)


def _skipped(name: str) -> Check:
    return Check(name, True, "there is no baseline yet", None, None, skipped=True)


def _measured(figures: KeyMetrics) -> float | None:
    return figures.stable_share if figures.stored else None


def _loss_word(figures: KeyMetrics) -> str:
    assert figures.best is not None
    return number(figures.best)


def _share_word(figures: KeyMetrics) -> str:
    return _percent(figures.stable_share) if figures.stored else "none"


def _percent(share: float) -> str:
    return f"{100 * share:.4g} %"


def _xml(text: str) -> str:
    """Replace characters that XML does not allow."""
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\N{REPLACEMENT CHARACTER}", text)
