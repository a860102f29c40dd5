"""Grids: blocks of a matrix product whose elements are SIMD vectors; all sums of a block stay in registers.

A grid of ``across`` x ``down`` vectors is a Lanes value of ``across * down`` rows, row ``r`` being (r % across,
r // across). One trial is one element of every vector, so that no sum of a product goes across a vector.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from sgdcore.kernels.vectors import Lanes, _everywhere, _literal, _whole, intrinsic


@intrinsic
def spread_by(context: Any, array: Any, first: Any, stride: Any, rows: Any, width: Any) -> Any:
    """array[first + r * stride] in every element of row r < ``rows``; nothing is checked."""
    if not _literal(rows, width):
        return None
    lanes = Lanes(array.dtype, rows.literal_value, width.literal_value)

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        addresses = _places(context, builder, sig, values, values[2], values[2], lanes.rows, lanes.rows)
        return _whole(builder, lanes, (_everywhere(builder, lanes, builder.load(address)) for address in addresses))

    return lanes(array, types.intp, types.intp, rows, width), codegen


@intrinsic
def load_grid(context: Any, array: Any, first: Any, by_across: Any, by_down: Any, across: Any, down: Any, width: Any) -> Any:
    """array[first + a * by_across + d * by_down : ...] as (a, d); nothing is checked."""
    if not _literal(across, down, width):
        return None
    lanes = Lanes(array.dtype, across.literal_value * down.literal_value, width.literal_value)

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        places = _places(context, builder, sig, values, values[2], values[3], across.literal_value, lanes.rows)
        pointers = (builder.bitcast(place, lanes.vector.as_pointer()) for place in places)
        return _whole(builder, lanes, (builder.load(p, align=array.dtype.bitwidth // 8) for p in pointers))

    return lanes(array, types.intp, types.intp, types.intp, across, down, width), codegen


@intrinsic
def store_grid(context: Any, array: Any, first: Any, by_across: Any, by_down: Any, across: Any, lanes: Any) -> Any:
    """Write (a, d) to array[first + a * by_across + d * by_down : ...]; nothing is checked."""
    if not _literal(across):
        return None

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        places = _places(context, builder, sig, values, values[2], values[3], across.literal_value, lanes.rows)
        for row, place in enumerate(places):
            pointer = builder.bitcast(place, lanes.vector.as_pointer())
            builder.store(builder.extract_value(values[5], row), pointer, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.none(array, types.intp, types.intp, types.intp, across, lanes), codegen


@intrinsic
def grid(context: Any, across: Any, down: Any) -> Any:
    """A grid whose every line across is ``down``: (a, d) is down[d]; ``across`` is a literal."""
    if not _literal(across):
        return None
    lanes = Lanes(down.dtype, across.literal_value * down.rows, down.width)

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        rows = (builder.extract_value(values[1], row // across.literal_value) for row in range(lanes.rows))
        return _whole(builder, lanes, rows)

    return lanes(across, down), codegen


@intrinsic
def add_products(context: Any, across: Any, down: Any, sums: Any) -> Any:
    """(a, d) becomes across[a] * down[d] + sums[a, d], rounded once."""
    name = f"llvm.fma.v{sums.width}f{sums.dtype.bitwidth}"

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        function = builder.module.globals.get(name)
        if function is None:
            function_type = ir.FunctionType(sums.vector, [sums.vector] * 3)
            function = ir.Function(builder.module, function_type, name)
        rows = (
            builder.call(
                function,
                [
                    builder.extract_value(values[0], row % across.rows),
                    builder.extract_value(values[1], row // across.rows),
                    builder.extract_value(values[2], row),
                ],
            )
            for row in range(sums.rows)
        )
        return _whole(builder, sums, rows)

    return sums(across, down, sums), codegen


def _places(context: Any, builder: Any, sig: Any, values: Any, by_across: Any, by_down: Any, across: int, rows: int) -> Any:
    """Addresses in the call's first argument, an array, counted from its second."""
    data = context.make_array(sig.args[0])(context, builder, values[0]).data
    for row in range(rows):
        a, d = (ir.Constant(values[1].type, n) for n in (row % across, row // across))
        index = builder.add(builder.add(values[1], builder.mul(by_across, a)), builder.mul(by_down, d))
        yield builder.gep(data, [index])
