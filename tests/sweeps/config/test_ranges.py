"""The points of ranges are the numbers that a list of the same decimals holds."""

import os
import subprocess
import sys
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

from sweeps.config.axis import Axis
from tests.support.hypothesis_profiles import examples


def points(low: float, high: float, count: int, scale: str = "linear") -> list[float]:
    return Axis.model_validate({"min": low, "max": high, "count": count, "scale": scale}).points().tolist()


@pytest.mark.parametrize(
    ("low", "high", "count", "values"),
    [
        (0, 1, 11, [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1]),
        (0, 0.9, 10, [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]),
        (-0.3, 0.3, 7, [-0.3, -0.2, -0.1, 0, 0.1, 0.2, 0.3]),
        (1e-6, 7e-6, 7, [1e-6, 2e-6, 3e-6, 4e-6, 5e-6, 6e-6, 7e-6]),
        (1e300, 3e300, 3, [1e300, 2e300, 3e300]),
        (-1e308, 7e307, 3, [-1e308, -1.5e307, 7e307]),
        (0, 1, 4, [0, 1 / 3, 2 / 3, 1]),
        (2, 3, 1, [2]),
        (0.1, 0.1, 3, [0.1, 0.1, 0.1]),
    ],
)
def test_a_linear_range_is_a_list_of_decimals(low: float, high: float, count: int, values: list[float]) -> None:
    assert points(low, high, count) == values


@examples(100, 5_000)
@given(
    start=st.integers(-(10**6), 10**6), step=st.integers(1, 10**4), count=st.integers(2, 50), places=st.integers(0, 12)
)
def test_steps_of_a_decimal_are_decimals(start: int, step: int, count: int, places: int) -> None:
    written = [float(Decimal(start + i * step).scaleb(-places)) for i in range(count)]
    found = points(written[0], written[-1], count)
    assert found == written
    np.testing.assert_allclose(
        found, np.linspace(written[0], written[-1], count), rtol=0, atol=4e-16 * max(map(abs, written))
    )


@examples(100, 5_000)
@given(
    first=st.integers(-300, 300), digit=st.integers(1, 9), decades=st.integers(1, 40), each=st.sampled_from([1, 2, 5])
)
def test_a_log_range_meets_the_decades(first: int, digit: int, decades: int, each: int) -> None:
    decades = min(decades, 300 - first) or 1
    found = points(float(f"{digit}e{first}"), float(f"{digit}e{first + decades}"), decades * each + 1, "log")
    assert found[::each] == [float(f"{digit}e{exponent}") for exponent in range(first, first + decades + 1)]
    np.testing.assert_allclose(found, np.geomspace(found[0], found[-1], len(found)), rtol=1e-12)


SCRIPT = """
import hashlib
import numpy as np
from sweeps.config.axis import Axis

rng, kinds = np.random.default_rng(0), {kind: hashlib.sha256() for kind in ("decimal", "libm", "processor")}
drawn = rng.integers([100, 101, -12, 1, 1], [200, 1000, 1, 9, 50], (500, 5))
for low, high, exponent, decades, count in drawn.tolist():
    for scale in ("linear", "log"):
        ends = {"min": float(f"{low}e{exponent}"), "max": float(f"{high}e{exponent + decades}")}
        axis = Axis.model_validate({**ends, "count": count, "scale": scale})
        for kind, digest in kinds.items():
            digest.update((axis if kind == "decimal" else axis.as_numpy(kind)).points())
for kind, digest in kinds.items():
    print(kind, digest.hexdigest())
"""


def digests(**environment: str) -> dict[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return dict(line.split() for line in done.stdout.splitlines())


@pytest.mark.slow
def test_points_do_not_depend_on_the_processor() -> None:
    """Ranges of new sweeps, and numpy's as it computes them without the code for newer instruction sets."""
    optional = [name for name in __cpu_dispatch__ if __cpu_features__.get(name)]
    baseline = digests(NPY_DISABLE_CPU_FEATURES=" ".join(optional))
    assert baseline.keys() == {"decimal", "libm", "processor"}
    assert baseline["libm"] == baseline["processor"]
    here = digests()
    assert (here["decimal"], here["libm"]) == (baseline["decimal"], baseline["libm"])


@pytest.mark.parametrize("count", [1, 2, 25])
def test_the_points_of_earlier_versions_are_numpys(count: int) -> None:
    linear = Axis.model_validate({"min": 0, "max": 1, "count": count}).as_numpy()
    assert linear.points().tolist() == np.linspace(0, 1, count).tolist()
    log = Axis.model_validate({"min": 1e-7, "max": 1e-1, "count": count, "scale": "log"})
    expected = np.geomspace(1e-7, 1e-1, count)
    assert log.as_numpy("processor").points().tolist() == expected.tolist()
    np.testing.assert_allclose(log.as_numpy("libm").points(), expected, rtol=1e-14)
