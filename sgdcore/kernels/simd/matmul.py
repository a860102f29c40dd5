"""Grids: blocks of a matrix product whose elements are SIMD vectors; all sums of a block stay in registers.

A grid of ``across`` x ``down`` vectors is a Lanes value of ``across * down`` rows; row ``r`` is element
(r % across, r // across). One trial is one element of every vector, so that no sum of a product crosses a vector.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llvmlite import ir
from numba import types

from sgdcore.kernels.simd.lanes import Lanes, everywhere, intrinsic, literal, whole
from sgdcore.kernels.simd.math import Row


@intrinsic
def load_grid(
    context: Any, array: Any, first: Any, by_across: Any, by_down: Any, across: Any, down: Any, width: Any
) -> Any:
    """Return array[first + a * by_across + d * by_down : ...] as (a, d); bounds are not checked."""
    if not literal(across, down, width):
        return None
    lanes = Lanes(array.dtype, across.literal_value * down.literal_value, width.literal_value)

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        data, (_, first, by_across, by_down) = _array(context, builder, sig, values, 0), values[:4]
        steps = _steps(builder, (by_across, across.literal_value), (by_down, down.literal_value))
        return whole(builder, lanes, (_load(builder, data, builder.add(first, step), lanes) for step in steps))

    return lanes(array, types.intp, types.intp, types.intp, across, down, width), codegen


@intrinsic
def store_grid(context: Any, array: Any, first: Any, by_across: Any, by_down: Any, across: Any, lanes: Any) -> Any:
    """Write (a, d) to array[first + a * by_across + d * by_down : ...]; bounds are not checked."""
    if not literal(across):
        return None

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        data, (_, first, by_across, by_down) = _array(context, builder, sig, values, 0), values[:4]
        down = lanes.rows // across.literal_value
        steps = _steps(builder, (by_across, across.literal_value), (by_down, down))
        for row, step in enumerate(steps):
            pointer = builder.bitcast(builder.gep(data, [builder.add(first, step)]), lanes.vector.as_pointer())
            builder.store(builder.extract_value(values[5], row), pointer, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.none(array, types.intp, types.intp, types.intp, across, lanes), codegen


@intrinsic
def grid(context: Any, across: Any, down: Any) -> Any:
    """Return a grid whose elements (a, d) are down[d]; ``across`` is a literal."""
    if not literal(across):
        return None
    lanes = Lanes(down.dtype, across.literal_value * down.rows, down.width)

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        rows = (builder.extract_value(values[1], row // across.literal_value) for row in range(lanes.rows))
        return whole(builder, lanes, rows)

    return lanes(across, down), codegen


def _product(shared: bool) -> Any:
    @intrinsic
    def add_product(
        context: Any,
        source: Any,
        at: Any,
        across: Any,
        along: Any,
        array: Any,
        first: Any,
        by_down: Any,
        by_step: Any,
        count: Any,
        sums: Any,
        lines: Any,
    ) -> Any:
        """Return ``sums`` plus a matrix product, by successive fused multiply-adds.

        Element (a, d) is sums[a, d] + sum_k source[at + a * across + k * along] * array[first + d * by_down +
        k * by_step : ...] for k = 0 .. count - 1; ``lines``, the number of a, is a literal.
        """
        if not literal(lines):
            return None
        across_count = lines.literal_value
        down_count = sums.rows // across_count
        one = Lanes(sums.dtype, 1, sums.width)

        def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
            left, right = _array(context, builder, sig, values, 0), _array(context, builder, sig, values, 4)
            at, across, along, _, first, by_down, by_step, count, start = values[1:10]
            lefts = [builder.add(at, step) for step in _steps(builder, (across, across_count))]
            rights = [builder.add(first, step) for step in _steps(builder, (by_down, down_count))]
            before = [builder.extract_value(start, row) for row in range(sums.rows)]

            def body(k: Any, rows: list[Any]) -> list[Any]:
                places = [builder.add(place, builder.mul(k, along)) for place in lefts]
                if shared:
                    a = [everywhere(builder, one, builder.load(builder.gep(left, [place]))) for place in places]
                else:
                    a = [_load(builder, left, place, one) for place in places]
                d = [_load(builder, right, builder.add(place, builder.mul(k, by_step)), one) for place in rights]
                return [
                    Row(builder, a[r % across_count])
                    .times_plus(Row(builder, d[r // across_count]), Row(builder, row))
                    .value
                    for r, row in enumerate(rows)
                ]

            return whole(builder, sums, _repeat(builder, count, before, body))

        arguments = (source, *[types.intp] * 3, array, *[types.intp] * 4, sums, lines)
        return sums(*arguments), codegen

    return add_product


add_product_shared = _product(True)  # source holds numbers shared by all trials
add_product = _product(False)  # source holds rows, like array


def _repeat(builder: Any, count: Any, before: list[Any], body: Any) -> list[Any]:
    """Loop ``values = body(k, values)`` for k = 0 .. count - 1; the values stay in registers."""
    zero, one = ir.Constant(count.type, 0), ir.Constant(count.type, 1)
    entry, loop, done = builder.block, builder.append_basic_block("products"), builder.append_basic_block("summed")
    builder.cbranch(builder.icmp_signed(">", count, zero), loop, done)
    builder.position_at_end(loop)
    k, rows = builder.phi(count.type), [builder.phi(value.type) for value in before]
    after = body(k, rows)
    following = builder.add(k, one)
    builder.cbranch(builder.icmp_signed("<", following, count), loop, done)
    for phi, start, end in zip([k, *rows], [zero, *before], [following, *after], strict=True):
        phi.add_incoming(start, entry)
        phi.add_incoming(end, loop)
    builder.position_at_end(done)
    results = [builder.phi(value.type) for value in before]
    for result, start, end in zip(results, before, after, strict=True):
        result.add_incoming(start, entry)
        result.add_incoming(end, loop)
    return results


def _array(context: Any, builder: Any, sig: Any, values: Any, argument: int) -> Any:
    return context.make_array(sig.args[argument])(context, builder, values[argument]).data


def _load(builder: Any, data: Any, place: Any, lanes: Lanes) -> Any:
    pointer = builder.bitcast(builder.gep(data, [place]), lanes.vector.as_pointer())
    return builder.load(pointer, align=lanes.dtype.bitwidth // 8)


def _steps(builder: Any, *axes: tuple[Any, int]) -> Iterator[Any]:
    """Yield the offsets of a grid's elements from its first: ``count`` elements a ``stride`` apart, along each axis."""
    (stride, count), *rest = axes
    for outer in _steps(builder, *rest) if rest else [ir.Constant(stride.type, 0)]:
        for index in range(count):
            yield builder.add(outer, builder.mul(stride, ir.Constant(stride.type, index)))
