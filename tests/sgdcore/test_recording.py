"""recording: which steps are kept."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgdcore import Recording

spacings = st.sampled_from(["log", "linear", "all"])


@given(points=st.integers(0, 100), spacing=spacings, first=st.integers(0, 10**6), length=st.integers(0, 5000))
def test_both_ends_and_at_most_points_between(points, spacing, first, length):
    steps = Recording(points, spacing).steps(first, first + length)
    assert steps.dtype == np.int64
    assert (np.diff(steps) > 0).all()
    assert steps[0] == first
    assert steps[-1] == first + length
    assert len(steps) <= (length + 1 if spacing == "all" else points + 2)


@given(spacing=st.sampled_from(["linear", "all"]), first=st.integers(0, 100), length=st.integers(0, 200))
def test_every_step_where_there_are_points_enough(spacing, first, length):
    steps = Recording(length, spacing).steps(first, first + length)
    assert steps.tolist() == list(range(first, first + length + 1))


def test_linear_is_even():
    assert Recording(3, "linear").steps(0, 100).tolist() == [0, 25, 50, 75, 100]


def test_log_is_dense_at_the_start():
    assert Recording(4, "log").steps(0, 10_000).tolist() == [0, 1, 10, 100, 1000, 10_000]


def test_steps_are_rounded_to_the_nearest():
    assert Recording(2, "linear").steps(0, 10).tolist() == [0, 3, 7, 10]
    assert Recording(4, "log").steps(0, 1000).tolist() == [0, 1, 6, 32, 178, 1000]


def test_log_of_a_continued_run_is_dense_at_its_own_start():
    assert Recording(4, "log").steps(500, 10_500).tolist() == [500, 501, 510, 600, 1500, 10_500]


@pytest.mark.parametrize("spacing", ["log", "linear"])
def test_no_points_are_both_ends(spacing):
    assert Recording(0, spacing).steps(0, 100).tolist() == [0, 100]


@pytest.mark.parametrize("spacing", ["log", "linear", "all"])
def test_no_steps_are_one_point(spacing):
    assert Recording(5, spacing).steps(7, 7).tolist() == [7]


def test_default_is_64_on_a_log_scale():
    assert Recording() == Recording(points=64, spacing="log")
    assert len(Recording().steps(0, 10**6)) > 50
