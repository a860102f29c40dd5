"""Batches of more than two samples as blocks of rows: the samples themselves, or fewer rows with the same gradient.

With X the batch's design and y its targets, [X y] = Q [R t; 0 s] (Householder) gives the gradient 2/B X^T(X p - y) =
2/B R^T(R p - t), for any s. R is upper triangular with P rows, so that a step costs P^2 multiply-adds instead of 2 B P
if B > P. It is computed in float64 and rounded once. Its rounding errors are like those of samples: unlike those of
the matrix X^T X, they grow with the condition of X, not with its square.

A diverging trial overflows first where numbers are largest, often in a sample's residual. To make it stop at the same
step as with samples, R and t are scaled: in the steepest direction, the one in which trials diverge, the largest
residual of the rows equals that of the samples.

Rows are stored by blocks: column after column, and within a column the rows of the block. After the parameters' columns
come a column of targets and one of the factors of the residuals, 2/B. Below the diagonal a triangle is zero; these
zeros are stored, and skipped.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numpy.typing import NDArray

from sgdcore.compile_cache import CACHED
from sgdcore.kernels.simd.lanes import Lanes, fused, intrinsic, parts_of, repeated, whole

EXTRA = 2  # columns after the parameters' columns


def blocks_of_rows(
    design: NDArray[Any],
    targets: NDArray[Any],
    batches: NDArray[Any],
    block: int,
    steepest: NDArray[np.float64] | None,
) -> NDArray[Any]:
    """Return one row per batch, in the design's dtype. ``batches`` are rows of sample indices, -1 for none.

    With ``steepest``, the loss's steepest direction, the blocks are triangles; with None, the samples themselves.
    """
    parameters, size = design.shape[1], batches.shape[1]
    rows = size if steepest is None else min(size, parameters)
    blocks = -(-rows // block)
    result = np.zeros((len(batches), blocks, parameters + EXTRA, block), design.dtype)
    _factorise(design, targets, batches, result, np.zeros(0) if steepest is None else steepest)
    return result.reshape(len(batches), blocks * (parameters + EXTRA) * block)


@njit(nogil=True, error_model="numpy", cache=CACHED)
def _factorise(design, targets, batches, result, steepest):  # type: ignore[no-untyped-def]
    block, parameters = result.shape[3], design.shape[1]
    columns = np.empty((parameters + 1, batches.shape[1]))  # the batch, one row per feature; the targets last
    for batch in range(len(batches)):
        size = np.sum(batches[batch] >= 0)
        for i in range(size):
            sample = batches[batch, i]
            for k in range(parameters):
                columns[k, i] = design[sample, k]
            columns[parameters, i] = targets[sample]
        rows, factor = size, 1.0
        if len(steepest) > 0:
            before = _largest_along(columns, size, steepest)
            for pivot in range(min(size - 1, parameters)):
                _reflect(columns[:, :size], pivot)
            rows = min(size, parameters)
            after = _largest_along(columns, rows, steepest)
            if before > 0 and after > 0:
                factor = before / after
        for i in range(rows):
            for k in range(i if len(steepest) > 0 else 0, parameters + 1):
                result[batch, i // block, k, i % block] = factor * columns[k, i]
            result[batch, i // block, parameters + 1, i % block] = 2.0 / size / (factor * factor)


@njit(nogil=True, error_model="numpy")
def _largest_along(columns, rows, direction):  # type: ignore[no-untyped-def]
    """Return the largest absolute prediction of these rows for parameters in this direction."""
    largest = 0.0
    for i in range(rows):
        prediction = 0.0
        for k in range(len(direction)):
            prediction += columns[k, i] * direction[k]
        largest = max(largest, abs(prediction))
    return largest


@njit(nogil=True, error_model="numpy")
def _reflect(columns, pivot):  # type: ignore[no-untyped-def]
    """Apply a Householder reflection that moves the column's entries after the pivot into the pivot."""
    reflector, largest, length = columns[pivot, pivot:], 0.0, 0.0
    for value in reflector:
        largest = max(largest, abs(value))
    if largest == 0:
        return
    for value in reflector:  # scaled, so that no square overflows or vanishes
        length += (value / largest) ** 2
    length = largest * np.sqrt(length)
    if reflector[0] > 0:
        length = -length
    first = reflector[0] - length
    for k in range(pivot + 1, len(columns)):
        other = columns[k, pivot:]
        share = other[0]
        for i in range(1, len(other)):
            share += reflector[i] / first * other[i]
        share *= -first / length
        other[0] -= share
        for i in range(1, len(other)):
            other[i] -= share * (reflector[i] / first)
    reflector[0], reflector[1:] = length, 0.0


# Compiled code for one block that holds the whole batch, unrolled. ``rows`` and ``parameters`` are literals;
# ``triangular`` is 1 for a triangle, else 0.


@intrinsic
def residuals(context: Any, array: Any, first: Any, params: Any, rows: Any, triangular: Any) -> Any:
    """Return 2/B (R p - t) for the rows at array[first]."""
    if not isinstance(rows, types.IntegerLiteral):
        return None
    lanes, size = Lanes(params.dtype, rows.literal_value, params.width), rows.literal_value

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        function, parts = fused(builder, params), parts_of(builder, params, values[2])
        results = []
        for i in range(size):
            begin = i if triangular.literal_value else 0
            offsets = [k * size + i for k in range(begin, params.rows + EXTRA)]
            *factors, target, scale = _everywhere(context, builder, sig, values, params, offsets)
            groups = [parts[k * params.groups : (k + 1) * params.groups] for k in range(begin, params.rows)]
            sums = [builder.fmul(factors[0], p) for p in groups[0]]
            for factor, group in zip(factors[1:], groups[1:], strict=True):
                sums = [builder.call(function, [factor, p, s]) for p, s in zip(group, sums, strict=True)]
            sums = [builder.fsub(s, target) for s in sums]  # last, because the two cancel: earlier sums stay smaller
            results += [builder.fmul(scale, s) for s in sums]
        return whole(builder, lanes, results)

    return lanes(array, types.intp, params, rows, triangular), codegen


@intrinsic
def slopes(context: Any, array: Any, first: Any, values_of_rows: Any, parameters: Any, triangular: Any) -> Any:
    """Return R^T e for the rows at array[first]: the gradients, from the result of :func:`residuals`."""
    if not isinstance(parameters, types.IntegerLiteral):
        return None
    e = values_of_rows
    lanes = Lanes(e.dtype, parameters.literal_value, e.width)

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        function, parts = fused(builder, e), parts_of(builder, e, values[2])
        results = []
        for k in range(lanes.rows):
            above = range(min(k + 1, e.rows) if triangular.literal_value else e.rows)
            factors = _everywhere(context, builder, sig, values, e, [k * e.rows + i for i in above])
            sums = [builder.fmul(factors[0], part) for part in parts[: e.groups]]
            for i in above[1:]:
                group = parts[i * e.groups : (i + 1) * e.groups]
                sums = [builder.call(function, [factors[i], p, s]) for p, s in zip(group, sums, strict=True)]
            results += sums
        return whole(builder, lanes, results)

    return lanes(array, types.intp, e, parameters, triangular), codegen


def _everywhere(context: Any, builder: Any, sig: Any, values: Any, lanes: Any, offsets: list[int]) -> list[Any]:
    """Return array[first + offset] in every element of a vector, for every offset."""
    vectors = []
    for offset in offsets:
        place = builder.gep(values[0], [builder.add(values[1], ir.Constant(values[1].type, offset))])
        one = Lanes(lanes.dtype, 1, lanes.width)
        vectors.append(parts_of(builder, one, repeated(builder, one, [builder.load(place)]))[0])
    return vectors
