"""Losses, several targets and sample weights: what a plain torch loop with torch's loss objects does."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression, Ridge
from torch import nn

from sgdcore import Dataset, Hyperparams, InvalidTask, LinearModel, MlpModel, ModuleModel, Task, judge, train
from sgdcore.kernels.dispatch import choose
from sgdcore.stability import predict
from sgdcore.tasks.task import goals
from tests.support.kernel_cases import COUNTS, TWO_TARGETS, TWO_WEIGHTED, WAVES, WEIGHTED

ONE_COUNT = Dataset(COUNTS.inputs, COUNTS.targets[:, 0])
TWO_COUNTS = Dataset(COUNTS.inputs, COUNTS.targets)


def gaussian(outputs, targets):
    """torch.nn.GaussianNLLLoss over the first outputs as means and softplus of the others as variances."""
    half = outputs.shape[1] // 2
    return nn.GaussianNLLLoss()(outputs[:, :half], targets, nn.functional.softplus(outputs[:, half:]))


def overflowing_log_cosh(outputs, targets):
    return torch.log(torch.cosh(outputs - targets)).mean()


def pinball(outputs, targets):
    errors = targets - outputs
    return torch.where(errors > 0, 0.8 * errors, -0.2 * errors).mean()


LOSSES = {
    "mse": nn.MSELoss(),
    "mae": nn.L1Loss(),
    "huber": nn.HuberLoss(delta=0.7),
    "log_cosh": overflowing_log_cosh,
    "quantile": pinball,
    "poisson_nll": nn.PoissonNLLLoss(),
    "gaussian_nll": gaussian,
}


def script(model, loss, dataset, epochs=9, batch_size=5, weights=None):
    """What a user of torch writes; nothing of sgdcore in it."""
    x = torch.tensor(dataset.inputs, dtype=torch.float32)
    y = torch.tensor(dataset.targets, dtype=torch.float32).reshape(len(x), -1)
    w = None if weights is None else torch.tensor(weights, dtype=torch.float32)[:, None]
    torch.manual_seed(3)
    outputs = y.shape[1] * (2 if loss is gaussian else 1)
    if model == LinearModel():
        net = nn.Linear(3, outputs)
    else:
        net = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, outputs))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9, weight_decay=0.01)
    for _ in range(epochs):
        for first in range(0, len(y), batch_size):
            batch = slice(first, first + batch_size)
            optimizer.zero_grad()
            if w is None:
                loss(net(x[batch]), y[batch]).backward()
            else:
                (w[batch] * (net(x[batch]) - y[batch]) ** 2).mean().backward()
            optimizer.step()
    return torch.cat([p.detach().flatten() for p in net.parameters()]).numpy(), net


def trained(task, kernel, **options):
    settings = Hyperparams(lr=[0.02], momentum=0.9, weight_decay=0.01)
    return train(task, settings, **({"epochs": 9, "batch_size": 5, "seeds": 3, "kernel": kernel} | options))


@pytest.mark.parametrize("model", [LinearModel(), MlpModel((5,))], ids=["linear", "mlp"])
@pytest.mark.parametrize("two", [False, True], ids=["one target", "two targets"])
@pytest.mark.parametrize("loss", LOSSES)
def test_equals_a_script_with_torchs_loss(loss, two, model):
    dataset = (TWO_COUNTS if two else ONE_COUNT) if loss == "poisson_nll" else TWO_TARGETS if two else WAVES
    task = Task(dataset, model, loss, 0.7, 0.8)
    expected, net = script(model, LOSSES[loss], dataset)
    for kernel in ("auto", "torch", "reference"):
        result = trained(task, kernel)
        np.testing.assert_allclose(result.params[0], expected, rtol=2e-5, atol=2e-6, err_msg=kernel)
        x, y = torch.tensor(dataset.inputs), torch.tensor(dataset.targets).reshape(len(dataset), -1)
        final = LOSSES[loss](net.double()(x), y).item()
        assert result.loss[0, -1] == pytest.approx(final, rel=2e-5, abs=1e-6), kernel


@pytest.mark.parametrize("model", [LinearModel(), MlpModel((5,))], ids=["linear", "mlp"])
@pytest.mark.parametrize("dataset", [WEIGHTED, TWO_WEIGHTED], ids=["one target", "two targets"])
def test_weights_multiply_the_losses_of_their_samples(dataset, model):
    expected, net = script(model, None, dataset, weights=dataset.weights)
    y = torch.tensor(dataset.targets).reshape(len(dataset), -1)
    errors = (net.double()(torch.tensor(dataset.inputs)) - y) ** 2
    final = (torch.tensor(dataset.weights)[:, None] * errors).mean().item()
    for kernel in ("auto", "torch", "reference"):
        result = trained(Task(dataset, model), kernel)
        np.testing.assert_allclose(result.params[0], expected, rtol=2e-5, atol=2e-6, err_msg=kernel)
        assert result.loss[0, -1] == pytest.approx(final, rel=1e-5), kernel


@pytest.mark.parametrize("loss", LOSSES)
def test_weights_of_one_change_nothing_and_whole_weights_repeat_samples(loss):
    targets = COUNTS.targets[:, 0]
    ones = Dataset(COUNTS.inputs, targets, weights=np.ones(22))
    plain, weighted = (trained(Task(d, MlpModel((5,)), loss), "auto") for d in (ONE_COUNT, ones))
    np.testing.assert_allclose(weighted.params, plain.params, rtol=1e-5, atol=1e-6)
    repeats = np.arange(22) % 3
    often = Dataset(np.repeat(COUNTS.inputs, repeats, axis=0), np.repeat(targets, repeats))
    whole = Dataset(COUNTS.inputs, targets, weights=repeats * 22 / repeats.sum())
    options = {"batch_size": 22, "dtype": "float64", "epochs": 20}
    many, few = (trained(Task(d, MlpModel((5,)), loss), "torch", **options) for d in (often, whole))
    np.testing.assert_allclose(few.params, many.params, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(few.loss, many.loss, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dataset", [TWO_TARGETS, WEIGHTED, TWO_WEIGHTED], ids=["two targets", "weights", "both"])
@pytest.mark.parametrize("bias", [True, False])
def test_the_minimum_is_that_of_scikit_learn(dataset, bias):
    task = Task(dataset, LinearModel(bias))
    form, k = task.quadratic(), task.model.outputs
    fitted = LinearRegression(fit_intercept=bias).fit(dataset.inputs, dataset.targets, dataset.weights)
    biases = np.atleast_1d(fitted.intercept_) if bias else []
    expected = np.concatenate([np.ravel(fitted.coef_), biases])
    np.testing.assert_allclose(form.ridge_minimiser(np.zeros(1))[0], expected, atol=1e-12)
    weights = np.ones(22) if dataset.weights is None else dataset.weights
    for params in (expected, np.linspace(-1, 1, len(expected))):
        slopes, intercepts = params[: 3 * k].reshape(k, 3), params[3 * k :] if bias else 0
        errors = dataset.inputs @ slopes.T + intercepts - dataset.targets.reshape(22, k)
        assert form.value(params) == pytest.approx((weights[:, None] * errors**2).mean(), rel=1e-12)
    if not bias:  # scikit-learn's sum of squares + alpha |w|^2 is ours times the samples and targets
        ridge = Ridge(alpha=0.3 / 2 * 22 * k, fit_intercept=False).fit(dataset.inputs, dataset.targets, dataset.weights)
        np.testing.assert_allclose(form.ridge_minimiser(np.array([0.3]))[0], np.ravel(ridge.coef_), atol=1e-12)
        decayed = form.with_decay(np.full(3 * k, 0.3))
        np.testing.assert_allclose(decayed.ridge_minimiser(np.zeros(1))[0], np.ravel(ridge.coef_), atol=1e-12)


@pytest.mark.parametrize("dataset", [TWO_TARGETS, WEIGHTED, TWO_WEIGHTED], ids=["two targets", "weights", "both"])
def test_growth_is_that_of_the_distances(dataset):
    task, settings = Task(dataset), Hyperparams(lr=[0.05, 0.3, 4.0], momentum=[0.5, 0, 0])
    options = {"batch_size": 22, "dtype": "float64"}
    predicted = predict(task, settings, epochs=1, batch_size=22).per_epoch
    target = task.quadratic().ridge_minimiser(np.zeros(1))[0]
    after = [train(task, settings, epochs=e, **options).params for e in (30, 50)]
    sizes = [np.linalg.norm(params - target, axis=1) for params in after]
    np.testing.assert_allclose((sizes[1] / sizes[0]) ** (1 / 20), predicted, rtol=0.05)
    assert (predicted < 1).any()
    assert (predicted > 1).any()


def test_names_of_several_outputs_are_torchs():
    assert Task(TWO_TARGETS).parameter_names == (
        *("weight.0.0", "weight.0.1", "weight.0.2", "weight.1.0", "weight.1.1", "weight.1.2"),
        *("bias.0", "bias.1"),
    )
    assert Task(WAVES).parameter_names == ("weight.0", "weight.1", "weight.2", "bias")
    assert Task(WAVES, MlpModel((2,)), "gaussian_nll").parameter_names[-2:] == ("2.bias.0", "2.bias.1")


def test_kernels_that_do_not_support_a_loss_are_not_chosen():
    def chosen(dataset, model, loss="mse"):
        return choose(Task(dataset, model, loss), device="cpu").name

    assert chosen(WAVES, LinearModel()) == "numba"
    for dataset in (TWO_TARGETS, WEIGHTED):
        assert (chosen(dataset, LinearModel()), chosen(dataset, MlpModel((5,)))) == ("torch", "numba")
    for loss in ("log_cosh", "quantile", "poisson_nll"):
        assert (chosen(ONE_COUNT, LinearModel(), loss), chosen(ONE_COUNT, MlpModel(), loss)) == ("torch", "numba")
    assert chosen(WAVES, MlpModel(), "gaussian_nll") == "torch"


@pytest.mark.parametrize(
    ("dataset", "loss", "outputs", "message"),
    [
        (TWO_TARGETS, "mse", 1, r"its output for a batch of 2 must be \(2, 2\), not \(2, 1\): there are 2 targets"),
        (WAVES, "gaussian_nll", 1, r"must be \(2, 2\), not \(2, 1\): gaussian_nll needs a mean per target, then"),
        (WAVES, "mse", 2, r"must be \(2, 1\) or \(2,\), not \(2, 2\)$"),
    ],
)
def test_a_module_with_other_outputs_is_rejected(dataset, loss, outputs, message):
    task = Task(dataset, ModuleModel(lambda: nn.Linear(3, outputs)), loss)
    with pytest.raises(InvalidTask, match=message):
        train(task, Hyperparams(0.1), epochs=1, batch_size=5)


def test_losses_below_zero_are_judged_above_their_least_value():
    counts = Dataset(np.linspace(-1, 1, 20), np.rint(50 * np.exp(np.linspace(-1, 1, 20))))
    task = Task(counts, loss="poisson_nll")
    settings = Hyperparams(lr=[0.01, 0.001, 1e-7])
    result = train(task, settings, epochs=500, batch_size=20, dtype="float64", start=[0.0, 3.0])
    assert (result.loss < 0).all()
    assert (result.loss > task.loss_floor).all()
    best = -np.mean([50 * 1.0])  # far above: a saturated model predicts each count
    y = torch.tensor(goals(counts, "float64"))
    saturated = nn.PoissonNLLLoss(eps=0)(torch.log(y), y).item()
    assert task.loss_floor == pytest.approx(saturated)
    assert saturated < best
    assert judge(result).verdict.tolist() == ["converged", "converged", "stalled"]


def test_other_targets_and_weights_are_other_data():
    digests = {d.digest for d in (WAVES, TWO_TARGETS, WEIGHTED, TWO_WEIGHTED)}
    assert len(digests) == 4
    assert TWO_WEIGHTED.standardized(targets=True).targets.std(axis=0) == pytest.approx([1, 1])
    part = TWO_WEIGHTED.fold(0, 5)
    assert (len(part.weights), len(part.validation.weights), part.validation.target_count) == (17, 5, 2)
