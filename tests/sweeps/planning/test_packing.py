"""packing: shards of about a second, whole packs of networks, and smaller shards where those would take long."""

import dataclasses

import pytest

from sgdcore.kernels.mlp_numba.kernel import VECTOR_BYTES
from sgdcore.kernels.module_torch.kernel import CPU_TRIALS
from sweeps.config.loader import parse
from sweeps.planning.packing import Workers, shard_size
from sweeps.planning.planner import make_plan
from sweeps.planning.task_loader import load_task
from sweeps.planning.work import seconds_of
from tests.support.documents import document

DATA = {"kind": "linear", "n": 100, "d": 2}
PERCEPTRON = {"kind": "mlp", "hidden": [64, 64]}
TWO_WORKERS = Workers(cores=2)
TRIALS = 10_000


def network(model, epochs, dtype="float32", **changes):
    training = {"epochs": epochs, "batch_size": 100, "dtype": dtype}
    given = {"task": {"dataset": DATA, "model": model}, "training": training, "execution": {}}
    return parse(document(parameters={"lr": {"min": 0.001, "max": 0.1, "count": 100}}, **(given | changes)), "c.yaml")


def module(hidden, activation="GELU"):
    """Return a module of the torch kernel, or with another activation one of the perceptrons' kernel."""
    arguments = {"hidden": hidden, "activation": activation}
    return {"kind": "module", "module": "tests.support.network_modules:small", "arguments": arguments}


def size_of(config, workers=TWO_WORKERS, trials=TRIALS):
    return shard_size(config, load_task(config.task), trials, config.training.epochs, workers)


def seconds(config, trials):
    return seconds_of(config, load_task(config.task), trials, config.training.epochs)


@pytest.mark.parametrize(
    ("epochs", "dtype", "size"),
    [
        (4, "float32", 262),  # a second
        (400, "float32", 64),
        (600, "float32", 48),  # 49 trials take 20 s
        (1_000, "float32", 16),  # 29 do
        (1_000, "float64", 24),
        (100_000, "float32", 16),
        (100_000, "float64", 8),
    ],
)
def test_shards_of_perceptrons_take_20_seconds_or_are_full_vectors(epochs, dtype, size):
    config = network(PERCEPTRON, epochs, dtype)
    assert size_of(config) == size
    assert seconds(config, size) < 20 or size == 64 // (4 if dtype == "float32" else 8)


@pytest.mark.parametrize(
    ("hidden", "epochs", "size"),
    [
        (3, 30_000, 64),
        (3, 1_000_000, 64),  # a pack of the torch kernel
        (20_000, 400, 4),  # 80,001 parameters: as many as fit in the caches
        (20_000, 100_000, 4),
    ],
)
def test_shards_of_modules_are_packs_of_their_kernel(hidden, epochs, size):
    assert size_of(network(module(hidden), epochs)) == size


def test_packs_are_those_of_the_kernels():
    assert size_of(network(PERCEPTRON, 100_000)) % (VECTOR_BYTES // 4) == 0
    assert size_of(network(module(3), 1_000_000)) == CPU_TRIALS


def test_a_recognised_module_is_packed_as_a_perceptron():
    ours, mlp = network(module(64, "ReLU"), 100_000), network({"kind": "mlp", "hidden": [64]}, 100_000)
    assert size_of(ours) == size_of(mlp) == VECTOR_BYTES // 4
    assert seconds(ours, 100) == seconds(mlp, 100) < seconds(network(module(64), 100_000), 100)


@pytest.mark.parametrize(("threads", "size"), [(1, 16), (2, 32), (4, 64), (16, 64)])
def test_threads_that_share_a_shard_have_a_pack_each(threads, size):
    assert size_of(network(PERCEPTRON, 100_000), Workers(cores=threads, threads=threads)) == size


def test_gpus_have_packs_however_long_they_take_on_a_core():
    assert size_of(network(PERCEPTRON, 100_000), dataclasses.replace(TWO_WORKERS, on_cpu=False)) == 64


@pytest.mark.parametrize(("trials", "size"), [(20, 10), (160_000, 16), (300_000, 30), (10_000_000, 64)])
def test_shards_are_enough_for_the_cores_and_not_too_many(trials, size):
    assert size_of(network(PERCEPTRON, 100_000), trials=trials) == size


def test_linear_models_have_no_packs():
    config = network({"kind": "linear"}, 1_000_000)
    assert size_of(config) < 8
    assert size_of(config) == int(1 / seconds(config, 1))


def test_given_and_stored_sizes_are_kept_for_slow_networks():
    config = network(PERCEPTRON, 100_000)
    task = load_task(config.task)
    assert make_plan(config, task, trials_per_shard=64).trials_per_shard == 64
    given = network(PERCEPTRON, 100_000, execution={"trials_per_shard": 50})
    assert make_plan(given, task).summary()["shards"] == 2


def test_plan_has_more_shards_of_slow_networks():
    slow, fast = (network(PERCEPTRON, epochs) for epochs in (100_000, 400))
    shards = [make_plan(config, load_task(config.task)).summary()["shards"] for config in (slow, fast)]
    assert shards[0] == 7
    assert shards[1] < 7
