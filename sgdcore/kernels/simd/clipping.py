"""Clipping of gradients as in torch.nn.utils, for SIMD vectors: norms, coefficients, limits and counts."""

from __future__ import annotations

from functools import reduce
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from sgdcore.kernels.simd.lanes import Lanes, by_vector, everywhere, fused, intrinsic, parts_of, vectors_at, whole

EPSILON = 1e-6  # torch adds it to the norm


@intrinsic
def squared_norm(context: Any, lanes: Any) -> Any:
    """Return one row: the sum of all rows' squares, starting with the first, by fused multiply-adds."""
    one = Lanes(lanes.dtype, 1, lanes.width)

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        parts, groups, function = parts_of(builder, lanes, values[0]), lanes.groups, fused(builder, lanes)
        sums = [builder.fmul(part, part) for part in parts[:groups]]
        for row in range(1, lanes.rows):
            of_row = parts[row * groups : (row + 1) * groups]
            sums = [builder.call(function, [part, part, s]) for part, s in zip(of_row, sums, strict=True)]
        return whole(builder, one, sums)

    return one(lanes), codegen


@intrinsic
def coefficient(context: Any, limit: Any, squares: Any) -> Any:
    """Return limit / (norm + 1e-6), one row, for the squared norm; to be multiplied with where it is below 1."""

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        name = f"llvm.sqrt.v{squares.group}f{squares.dtype.bitwidth}"
        signature = ir.FunctionType(squares.vector, [squares.vector])
        function = cgutils.get_or_insert_function(builder.module, signature, name)  # type: ignore[no-untyped-call, unused-ignore]
        epsilon = ir.Constant(squares.vector, [EPSILON] * squares.group)

        def emit(largest: Any, square: Any) -> Any:
            return builder.fdiv(largest, builder.fadd(builder.call(function, [square]), epsilon))

        return by_vector(builder, sig, values, emit)

    return squares(limit, squares), codegen


@intrinsic
def largest(context: Any, lanes: Any) -> Any:
    """Return one row: the largest absolute value of all rows; NaN is ignored."""
    one = Lanes(lanes.dtype, 1, lanes.width)

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        name = f"llvm.fabs.v{lanes.group}f{lanes.dtype.bitwidth}"
        signature = ir.FunctionType(lanes.vector, [lanes.vector])
        function = cgutils.get_or_insert_function(builder.module, signature, name)  # type: ignore[no-untyped-call, unused-ignore]
        sizes = [builder.call(function, [part]) for part in parts_of(builder, lanes, values[0])]
        zero = ir.Constant(lanes.vector, [0.0] * lanes.group)

        def larger(most: Any, size: Any) -> Any:
            return builder.select(builder.fcmp_ordered(">", size, most), size, most)

        return whole(builder, one, (reduce(larger, sizes[g :: lanes.groups], zero) for g in range(lanes.groups)))

    return one(lanes), codegen


@intrinsic
def limited(context: Any, lanes: Any, limit: Any) -> Any:
    """Return the rows clamped to [-limit, limit], one row; NaN stays NaN."""

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        def emit(value: Any, most: Any) -> Any:
            least = builder.fneg(most)
            value = builder.select(builder.fcmp_ordered(">", value, most), most, value)
            return builder.select(builder.fcmp_ordered("<", value, least), least, value)

        return by_vector(builder, sig, values, emit)

    return lanes(lanes, limit), codegen


@intrinsic
def any_beyond(context: Any, lanes: Any, limit: Any) -> Any:
    """Return whether any element of one row is above its limit or NaN; compiled as a rare case."""
    if not (isinstance(lanes, Lanes) and lanes == limit):
        return None

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        pairs = zip(*(parts_of(builder, lanes, value) for value in values), strict=True)
        beyond = reduce(builder.or_, [builder.fcmp_unordered(">", value, most) for value, most in pairs])
        bits, truth = ir.IntType(lanes.group), ir.IntType(1)
        found = builder.icmp_unsigned("!=", builder.bitcast(beyond, bits), ir.Constant(bits, 0))
        signature = ir.FunctionType(truth, [truth, truth])
        expect = cgutils.get_or_insert_function(builder.module, signature, "llvm.expect.i1")  # type: ignore[no-untyped-call, unused-ignore]
        return builder.call(expect, [found, ir.Constant(truth, 0)])

    return types.boolean(lanes, limit), codegen


@intrinsic
def count_where(context: Any, array: Any, first: Any, condition: Any) -> Any:
    """Add 1 to the integers array[first : ...] where the condition, one row, holds."""
    counts = Lanes(array.dtype, 1, condition.width)

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        one = everywhere(builder, counts, ir.Constant(counts.vector.element, 1))
        masks = parts_of(builder, condition, values[2])
        for place, mask in zip(vectors_at(context, builder, sig, values, counts), masks, strict=True):
            before = builder.load(place, align=counts.alignment)
            after = builder.select(mask, builder.add(before, one), before)
            builder.store(after, place, align=counts.alignment)
        return context.get_dummy_value()

    return types.none(array, types.intp, condition), codegen
