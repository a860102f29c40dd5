"""Hypothesis profiles: ``ci`` with few, fixed examples, and ``nightly`` with many random ones.

The environment variable HYPOTHESIS_PROFILE selects one; ``ci`` is the default.
"""

from __future__ import annotations

import os
from typing import Any

from hypothesis import settings

PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "ci")
NIGHTLY = PROFILE == "nightly"

settings.register_profile("ci", deadline=None, max_examples=8, derandomize=True, database=None)
settings.register_profile("nightly", deadline=None, max_examples=200)


def examples(ci: int, nightly: int, **options: Any) -> settings:
    """Return the settings of a test that needs other numbers of examples than its profile has."""
    return settings(max_examples=nightly if NIGHTLY else ci, **options)
