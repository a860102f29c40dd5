"""Lanes: rows of neighbouring numbers as one numba value, so that scalar code compiles to SIMD code.

A Lanes value is ``rows`` LLVM vectors of ``width`` elements, which every CPU takes in as many parts as it needs.
``+``, ``-``, ``*``, ``>``, ``!=``, :func:`fma` and :func:`select` work row by row; a value of one row meets every row
of the other. Each is IEEE's operation, once for every element: nothing is contracted or reordered, so that an element's
bits do not depend on its neighbours or on the CPU's vectors.

Why this is not left to LLVM's loop vectoriser: around the update rule's selects it makes loads conditional, as
gathers, and it does not keep values in registers from one step to the next. That costs a factor of two to three.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any

from llvmlite import ir
from numba import extending, njit, types
from numba.core import cgutils
from numba.core.datamodel.models import PrimitiveModel
from numba.core.datamodel.registry import register_default
from numba.core.typing.templates import AbstractTemplate, infer_global, signature


def intrinsic(function: Callable[..., Any]) -> Any:
    """numba's decorator, which is not typed."""
    return extending.intrinsic(function)


def compiled(function: Callable[..., Any]) -> Any:
    """numba's decorator as kernels use it."""
    return njit(nogil=True, error_model="numpy")(function)


class Lanes(types.Type):  # type: ignore[misc, unused-ignore]
    """``rows`` vectors of ``width`` elements of ``dtype``: floats, integers, or booleans, as comparisons give."""

    def __init__(self, dtype: Any, rows: int, width: int) -> None:
        self.dtype, self.rows, self.width = dtype, rows, width
        super().__init__(name=f"Lanes({dtype}, {rows}, {width})")  # type: ignore[no-untyped-call, unused-ignore]

    @property
    def vector(self) -> Any:
        """The LLVM type of a row."""
        bits = 1 if self.dtype == types.boolean else self.dtype.bitwidth
        if not isinstance(self.dtype, types.Float):
            return ir.VectorType(ir.IntType(bits), self.width)
        return ir.VectorType(ir.FloatType() if bits == 32 else ir.DoubleType(), self.width)


@register_default(Lanes)
class _Model(PrimitiveModel):  # type: ignore[misc, unused-ignore]
    def __init__(self, manager: Any, lanes: Lanes) -> None:
        super().__init__(manager, lanes, ir.ArrayType(lanes.vector, lanes.rows))  # type: ignore[no-untyped-call, unused-ignore]


@intrinsic
def load(context: Any, array: Any, first: Any, stride: Any, rows: Any, width: Any) -> Any:
    """array[first + r * stride : ...] as row r < ``rows``; nothing is checked. ``rows`` and ``width`` are literals."""
    if not _literal(rows, width):
        return None
    lanes = Lanes(array.dtype, rows.literal_value, width.literal_value)

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        return _whole(
            builder,
            lanes,
            (
                builder.load(builder.bitcast(address, lanes.vector.as_pointer()), align=array.dtype.bitwidth // 8)
                for address in _addresses(context, builder, sig, values, lanes.rows, values[2])
            ),
        )

    return lanes(array, types.intp, types.intp, rows, width), codegen


@intrinsic
def load_double(context: Any, array: Any, first: Any, width: Any) -> Any:
    """One row of array[first : ...] in float64; nothing is checked."""
    if not _literal(width):
        return None
    lanes = Lanes(types.float64, 1, width.literal_value)
    source = Lanes(array.dtype, 1, lanes.width).vector

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        [address] = _addresses(context, builder, sig, values, 1, values[1])
        row = builder.load(builder.bitcast(address, source.as_pointer()), align=array.dtype.bitwidth // 8)
        return _whole(builder, lanes, [row if array.dtype == types.float64 else builder.fpext(row, lanes.vector)])

    return lanes(array, types.intp, width), codegen


@intrinsic
def store(context: Any, array: Any, first: Any, stride: Any, lanes: Any) -> Any:
    """Write row r to array[first + r * stride : ...]; nothing is checked."""

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        for row, address in enumerate(_addresses(context, builder, sig, values, lanes.rows, values[2])):
            pointer = builder.bitcast(address, lanes.vector.as_pointer())
            builder.store(builder.extract_value(values[3], row), pointer, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.none(array, types.intp, types.intp, lanes), codegen


@intrinsic
def spread(context: Any, array: Any, first: Any, rows: Any, width: Any) -> Any:
    """array[first + r] in every element of row r < ``rows``; nothing is checked."""
    if not _literal(rows, width):
        return None
    lanes = Lanes(array.dtype, rows.literal_value, width.literal_value)

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        addresses = _addresses(context, builder, sig, values, lanes.rows, ir.Constant(values[1].type, 1))
        return _whole(builder, lanes, (_everywhere(builder, lanes, builder.load(address)) for address in addresses))

    return lanes(array, types.intp, rows, width), codegen


@intrinsic
def splat(context: Any, number: Any, width: Any) -> Any:
    """One row with the number in every element."""
    if not _literal(width):
        return None
    lanes = Lanes(number, 1, width.literal_value)

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        return _whole(builder, lanes, [_everywhere(builder, lanes, values[0])])

    return lanes(number, width), codegen


@intrinsic
def total(context: Any, lanes: Any) -> Any:
    """One row: the sum of all rows, from the first on."""
    one = Lanes(lanes.dtype, 1, lanes.width)

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        result = builder.extract_value(values[0], 0)
        for row in range(1, lanes.rows):
            result = builder.fadd(result, builder.extract_value(values[0], row))
        return _whole(builder, one, [result])

    return one(lanes), codegen


@intrinsic
def fma(context: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c, rounded once."""
    lanes = _joined(a, b, c)
    if lanes is None:
        return None
    name = f"llvm.fma.v{lanes.width}f{lanes.dtype.bitwidth}"

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        function_type = ir.FunctionType(lanes.vector, [lanes.vector] * 3)
        function = cgutils.get_or_insert_function(builder.module, function_type, name)  # type: ignore[no-untyped-call, unused-ignore]
        return _by_row(builder, sig, values, lambda *rows: builder.call(function, rows))

    return lanes(a, b, c), codegen


@intrinsic
def select(context: Any, condition: Any, yes: Any, no: Any) -> Any:
    """``yes`` where the condition, one boolean or Lanes of them, holds, else ``no``."""
    lanes = _joined(yes, no)
    if lanes is None:
        return None

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        return _by_row(builder, sig, values, builder.select)

    return lanes(condition, yes, no), codegen


@intrinsic
def aligned_stack(context: Any) -> Any:
    """Say at a function's head that its stack begins at a cache line: what is spilt then never lies across two."""

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        builder.function.attributes.alignstack = 64
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.none(), codegen


def _operator(function: Callable[..., Any], emit: Callable[..., Any], compares: bool = False) -> None:
    """Give an operator of Python a meaning for two Lanes."""

    class Template(AbstractTemplate):  # type: ignore[misc, unused-ignore]
        def generic(self, args: Any, kws: Any) -> Any:
            lanes = _joined(*args)
            if lanes is None:
                return None
            return signature(Lanes(types.boolean, lanes.rows, lanes.width) if compares else lanes, *args)  # type: ignore[no-untyped-call, unused-ignore]

    def lower(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        return _by_row(builder, sig, values, lambda a, b: emit(builder, a, b))

    infer_global(function)(Template)  # type: ignore[no-untyped-call, unused-ignore]
    extending.lower_builtin(function, Lanes, Lanes)(lower)  # type: ignore[no-untyped-call, unused-ignore]


_operator(operator.add, lambda builder, a, b: builder.fadd(a, b))
_operator(operator.sub, lambda builder, a, b: builder.fsub(a, b))
_operator(operator.mul, lambda builder, a, b: builder.fmul(a, b))
_operator(operator.gt, lambda builder, a, b: builder.fcmp_ordered(">", a, b), compares=True)
_operator(operator.ne, lambda builder, a, b: builder.fcmp_unordered("!=", a, b), compares=True)


def _literal(*numbers: Any) -> bool:
    """Whether these are compile-time constants; numba asks first without, then with them."""
    return all(isinstance(number, types.IntegerLiteral) for number in numbers)


def _joined(*operands: Any) -> Lanes | None:
    """What an operation on these gives, None where they are not Lanes that fit."""
    if not all(isinstance(operand, Lanes) for operand in operands):
        return None
    lanes: Lanes = max(operands, key=lambda operand: int(operand.rows))
    fits = all(
        operand.dtype == lanes.dtype and operand.width == lanes.width and operand.rows in (1, lanes.rows)
        for operand in operands
    )
    return lanes if fits else None


def _by_row(builder: Any, sig: Any, values: Any, emit: Callable[..., Any]) -> Any:
    """``emit`` for every row of the operands; a plain number goes to all."""
    rows = (
        [
            builder.extract_value(value, min(row, operand.rows - 1)) if isinstance(operand, Lanes) else value
            for operand, value in zip(sig.args, values, strict=True)
        ]
        for row in range(sig.return_type.rows)
    )
    return _whole(builder, sig.return_type, (emit(*operands) for operands in rows))


def _whole(builder: Any, lanes: Lanes, rows: Iterable[Any]) -> Any:
    whole = ir.Constant(ir.ArrayType(lanes.vector, lanes.rows), ir.Undefined)
    for row, vector in enumerate(rows):
        whole = builder.insert_value(whole, vector, row)
    return whole


def _everywhere(builder: Any, lanes: Lanes, number: Any) -> Any:
    undefined = ir.Constant(lanes.vector, ir.Undefined)
    first = builder.insert_element(undefined, number, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), lanes.width), [0] * lanes.width)
    return builder.shuffle_vector(first, undefined, zeros)


def _addresses(context: Any, builder: Any, sig: Any, values: Any, rows: int, stride: Any) -> list[Any]:
    """Of elements first, first + stride, ... of the array: the call's first two arguments are (array, first)."""
    data = context.make_array(sig.args[0])(context, builder, values[0]).data
    indices = (builder.add(values[1], builder.mul(stride, ir.Constant(stride.type, row))) for row in range(rows))
    return [builder.gep(data, [index]) for index in indices]
