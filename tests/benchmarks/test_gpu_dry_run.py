"""benchmarks.gpu without a GPU: its contenders agree on the CPU, its kernels compile, and it states no figures."""

import sys

import pytest

from benchmarks import gpu
from benchmarks.contenders import BenchmarkError, Contender


@pytest.mark.slow
def test_a_dry_run_checks_everything_and_measures_nothing():
    rows = {part: measure(gpu.DRY, True) for part, measure in (("line", gpu.on_line), ("networks", gpu.on_networks))}
    limits = gpu.limits(rows["line"], True)
    assert (limits["stack"], limits["local"]) == (0, 0)
    assert limits["instructions_per_trial_step"] > 0
    assert {value for part in rows.values() for row in part for value in (row["rate"], row["deviation"])} == {None}
    assert {limits[name] for name in limits if name.endswith(("_rate", "_share"))} == {None}
    whole = {"machine": {"gpu": "none"}, "tests": {"tests": 3, "passed": None}, "limits": limits, "seconds": 1}
    text = gpu.markdown(whole | rows | {"sweep": {"trials": 1000, "device": "cpu", "seconds": None}})
    assert text.count("| - | - |") == sum(map(len, rows.values()))
    assert "| cuda tests passed | - of 3 |" in text


def test_a_contender_that_disagrees_ends_the_run():
    wrong = Contender("wrong", 1, lambda: 0.1)
    with pytest.raises(BenchmarkError, match=r"wrong is 0\.1 off the CPU's parameters"):
        gpu._measured([wrong], float, 0.01, dry=True)


@pytest.mark.no_cuda
def test_without_a_gpu_only_a_dry_run_is_possible(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(sys, "argv", ["gpu"])
    with pytest.raises(SystemExit, match="2"):
        gpu.main()
    assert "torch finds no CUDA GPU; without one, use --dry-run" in capsys.readouterr().err
