"""Batches as triangles: of more than two samples, at most P, in new coordinates, have the same gradient.

With X the batch's design and y its targets, sqrt(2/B) [X y] = Q [R t; 0 s] (Householder) gives the gradient
2/B X^T(X p - y) = R^T(R p - t), whatever s is. R is upper triangular with min(B, P) rows, so that a step costs P^2
multiply-adds at most, instead of 2 B P. It is computed in float64 and rounded once. Its rounding errors are like those
of samples: unlike those of the matrix X^T X, they grow with the condition of X, not with its square.

A triangle lies in memory by blocks of rows: column after column, within a column the rows of the block; the targets
are the last column. What lies below the diagonal is zero, is stored, and is skipped.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numpy.typing import NDArray

from sgdcore.kernels.vectors import Lanes, fused, intrinsic, parts_of, repeated, whole


def triangles(design: NDArray[Any], targets: NDArray[Any], batches: NDArray[Any], block: int) -> NDArray[Any]:
    """One row a batch: its triangle in the design's dtype. ``batches`` are rows of sample indices, -1 where short."""
    parameters = design.shape[1]
    rows = min(batches.shape[1], parameters)
    blocks = -(-rows // block)
    result = np.zeros((len(batches), blocks, parameters + 1, block), design.dtype)
    _factorise(design, targets, batches, result)
    return result.reshape(len(batches), blocks * (parameters + 1) * block)


@njit(nogil=True, error_model="numpy", cache=True)
def _factorise(design, targets, batches, result):  # type: ignore[no-untyped-def]
    block, parameters = result.shape[3], design.shape[1]
    columns = np.empty((parameters + 1, batches.shape[1]))  # the batch, one row a feature; the targets last
    for batch in range(len(batches)):
        size = np.sum(batches[batch] >= 0)
        scale = np.sqrt(2.0 / size)
        for i in range(size):
            sample = batches[batch, i]
            for k in range(parameters):
                columns[k, i] = scale * design[sample, k]
            columns[parameters, i] = scale * targets[sample]
        for pivot in range(min(size - 1, parameters)):
            _reflect(columns[:, :size], pivot)
        for i in range(min(size, parameters)):
            for k in range(i, parameters + 1):
                result[batch, i // block, k, i % block] = columns[k, i]


@njit(nogil=True, error_model="numpy")
def _reflect(columns, pivot):  # type: ignore[no-untyped-def]
    """Householder: turn what lies behind the pivot of its column into the pivot."""
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
    reflector[0] = length


# Compiled code for one block that holds the whole triangle, unrolled.


@intrinsic
def residuals(context: Any, array: Any, first: Any, params: Any, rows: Any) -> Any:
    """R p - t of the triangle at array[first], ``rows`` (a literal) of them."""
    if not isinstance(rows, types.IntegerLiteral):
        return None
    lanes, size = Lanes(params.dtype, rows.literal_value, params.width), rows.literal_value

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        function, parts = fused(builder, params), parts_of(builder, params, values[2])
        results = []
        for i in range(size):
            [target] = _everywhere(context, builder, sig, values, params, [params.rows * size + i])
            sums = [builder.fneg(target)] * params.groups
            factors = _everywhere(context, builder, sig, values, params, [k * size + i for k in range(i, params.rows)])
            for k, factor in enumerate(factors, start=i):
                group = parts[k * params.groups : (k + 1) * params.groups]
                sums = [builder.call(function, [factor, p, s]) for p, s in zip(group, sums, strict=True)]
            results += sums
        return whole(builder, lanes, results)

    return lanes(array, types.intp, params, rows), codegen


@intrinsic
def slopes(context: Any, array: Any, first: Any, values_of_rows: Any, parameters: Any) -> Any:
    """R^T e of the triangle at array[first]: the gradients of ``parameters`` (a literal) from its residuals e."""
    if not isinstance(parameters, types.IntegerLiteral):
        return None
    e = values_of_rows
    lanes = Lanes(e.dtype, parameters.literal_value, e.width)

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        function, parts = fused(builder, e), parts_of(builder, e, values[2])
        results = []
        for k in range(lanes.rows):
            above = range(min(k + 1, e.rows))
            factors = _everywhere(context, builder, sig, values, e, [k * e.rows + i for i in above])
            sums = [builder.fmul(factors[0], part) for part in parts[: e.groups]]
            for i in above[1:]:
                group = parts[i * e.groups : (i + 1) * e.groups]
                sums = [builder.call(function, [factors[i], p, s]) for p, s in zip(group, sums, strict=True)]
            results += sums
        return whole(builder, lanes, results)

    return lanes(array, types.intp, e, parameters), codegen


def _everywhere(context: Any, builder: Any, sig: Any, values: Any, lanes: Any, offsets: list[int]) -> list[Any]:
    """array[first + offset] in every element of a vector, for every offset."""
    vectors = []
    for offset in offsets:
        place = builder.gep(values[0], [builder.add(values[1], ir.Constant(values[1].type, offset))])
        one = Lanes(lanes.dtype, 1, lanes.width)
        vectors.append(parts_of(builder, one, repeated(builder, one, [builder.load(place)]))[0])
    return vectors
