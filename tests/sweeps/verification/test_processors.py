"""A sweep can be computed on several processors: the last bits of losses differ, parameters and verdicts do not."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from sweeps.config import strict_yaml
from sweeps.store.store import Store
from tests.support.command_line import Cli
from tests.support.documents import document

OTHER = {"OPENBLAS_CORETYPE": "Nehalem"}  # every x86 processor has its instructions


@pytest.mark.slow
def test_a_sweep_that_two_processors_computed(tmp_path: Path) -> None:
    cli = Cli(tmp_path, forked=False)  # OpenBLAS chooses its code when it is loaded
    path, inline = tmp_path / "sweep.yaml", ("--executor", "inline")
    dataset = {"kind": "polynomial", "n": 24, "noise": 0.1, "validation": 0.25}
    task = {"dataset": dataset, "model": {"kind": "polynomial", "degree": 4}}
    axes = {"lr": {"min": 0.001, "max": 1, "count": 6, "scale": "log"}, "momentum": [0, 0.9]}
    training = {"epochs": 40, "order": "shuffled", "batch_size": 3}
    path.write_text(strict_yaml.write(document(task=task, training=training, parameters=axes)))
    cli("run", path, "--id", "a1a1", *inline, **OTHER)
    files = Store(tmp_path / "store").find("a1a1")
    shard = files.shards.folder / "00001.parquet"
    there = pq.read_table(shard)
    shard.unlink()
    cli("resume", "a1a1", *inline)
    here = pq.read_table(shard)
    for name in ("trial_id", "final", "verdict", "steps_to_tolerance"):
        assert here[name].equals(there[name]), name
    for name in ("final_loss", "final_validation_loss"):
        np.testing.assert_allclose(here[name].to_numpy(), there[name].to_numpy(), rtol=1e-12)
    cli("run", path, "--id", "b2b2", *inline)  # with the trials of the first
    cli("run", path, "--id", "c3c3", *inline, "--fresh")
    for sweep_id in ("a1a1", "b2b2"):
        assert json.loads(cli("verify", sweep_id, "--json").stdout)["clean"]
    compared = json.loads(cli("compare", "a1a1", "c3c3", "--json").stdout)
    [common] = compared["tables"]["common"]
    assert (common["common"], common["other_verdict"]) == (12, 0)
    for row in compared["tables"].get("losses-B", []):
        assert row["final_loss"] == pytest.approx(row["final_loss_before"], rel=1e-12, abs=0)
