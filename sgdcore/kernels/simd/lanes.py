"""Lanes: rows of adjacent numbers as one numba value, so that scalar code compiles to SIMD code.

A Lanes value is ``rows`` rows of ``width`` elements. LLVM sees a row as vectors of GROUP elements, the size of this
CPU's registers (float64 takes two). ``+``, ``-``, ``*``, ``^`` and ``|`` (bitwise), ``>``, ``!=``, :func:`fma` and
:func:`select` work row by row; a value of one row is combined with every row of the other. Each is the IEEE operation,
once per element: nothing is contracted or reordered, so an element's bits do not depend on its neighbours or on the
CPU's vector size.

In :func:`load`, :func:`store` and :func:`spread`, ``array`` is an array or a pointer; bounds are not checked.

LLVM's loop vectoriser is no substitute: around the update rule's selects it makes loads conditional, as gathers, and
it does not keep values in registers from one step to the next. That costs a factor of two to three.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator
from functools import reduce
from typing import Any

from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import extending, njit, types
from numba.core import cgutils
from numba.core.datamodel.models import PrimitiveModel
from numba.core.datamodel.registry import register_default
from numba.core.typing.templates import AbstractTemplate, infer_global, signature

AVX512 = get_host_cpu_features().get("avx512f", False)
REGISTERS = 32 if AVX512 else 16  # vector registers of the CPU
GROUP = 16 if AVX512 else 8  # elements of an LLVM vector: a register of float32; a narrower row is one vector


def intrinsic(function: Callable[..., Any]) -> Any:
    """Apply numba's decorator, which is not typed."""
    return extending.intrinsic(function)


def compiled(function: Callable[..., Any]) -> Any:
    """Apply numba's decorator with the kernels' options."""
    return njit(nogil=True, error_model="numpy")(function)


class Lanes(types.Type):  # type: ignore[misc, unused-ignore]
    """The type of ``rows`` rows of ``width`` elements of ``dtype``: floats, integers, or booleans from comparisons."""

    def __init__(self, dtype: Any, rows: int, width: int) -> None:
        self.dtype, self.rows, self.width = dtype, rows, width
        super().__init__(name=f"Lanes({dtype}, {rows}, {width})")  # type: ignore[no-untyped-call, unused-ignore]

    @property
    def groups(self) -> int:
        """The number of LLVM vectors in a row."""
        return self.width // self.group

    @property
    def group(self) -> int:
        """The number of elements of each vector."""
        return min(self.width, GROUP)

    @property
    def vector(self) -> Any:
        """The LLVM type of the vectors."""
        bits = 1 if self.dtype == types.boolean else self.dtype.bitwidth
        if not isinstance(self.dtype, types.Float):
            return ir.VectorType(ir.IntType(bits), self.group)
        return ir.VectorType(ir.FloatType() if bits == 32 else ir.DoubleType(), self.group)

    @property
    def alignment(self) -> int:
        """The alignment in bytes that every array has at least."""
        return int(self.dtype.bitwidth) // 8

    @property
    def layout(self) -> Any:
        """The LLVM type of all rows, one after the other."""
        return ir.ArrayType(self.vector, self.rows * self.groups)


@register_default(Lanes)
class _Model(PrimitiveModel):  # type: ignore[misc, unused-ignore]
    def __init__(self, manager: Any, lanes: Lanes) -> None:
        super().__init__(manager, lanes, lanes.layout)  # type: ignore[no-untyped-call, unused-ignore]


@intrinsic
def load(context: Any, array: Any, first: Any, stride: Any, rows: Any, width: Any) -> Any:
    """Return array[first + r * stride : ...] as row r < ``rows``. ``rows`` and ``width`` are literals."""
    if not literal(rows, width):
        return None
    lanes = Lanes(array.dtype, rows.literal_value, width.literal_value)

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        places = vectors_at(context, builder, sig, values, lanes)
        return whole(builder, lanes, (builder.load(place, align=lanes.alignment) for place in places))

    return lanes(array, types.intp, types.intp, rows, width), codegen


@intrinsic
def load_double(context: Any, array: Any, first: Any, width: Any) -> Any:
    """Return one row from array[first : ...] in float64."""
    if not literal(width):
        return None
    lanes, source = (Lanes(dtype, 1, width.literal_value) for dtype in (types.float64, array.dtype))

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        places = vectors_at(context, builder, sig, values, source)
        loaded = (builder.load(place, align=source.alignment) for place in places)
        if array.dtype == types.float64:
            return whole(builder, lanes, loaded)
        return whole(builder, lanes, (builder.fpext(vector, lanes.vector) for vector in loaded))

    return lanes(array, types.intp, width), codegen


@intrinsic
def store(context: Any, array: Any, first: Any, stride: Any, lanes: Any) -> Any:
    """Write row r to array[first + r * stride : ...]."""

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        for i, place in enumerate(vectors_at(context, builder, sig, values, lanes)):
            builder.store(builder.extract_value(values[3], i), place, align=lanes.alignment)
        return context.get_dummy_value()

    return types.none(array, types.intp, types.intp, lanes), codegen


@intrinsic
def store_where(context: Any, array: Any, first: Any, stride: Any, lanes: Any, condition: Any) -> Any:
    """Write like :func:`store`, but only elements where the condition holds; a single row is written to every row."""
    if not (isinstance(lanes, Lanes) and isinstance(condition, Lanes)):
        return None
    written = Lanes(lanes.dtype, condition.rows, condition.width)

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        kind = "f" if isinstance(lanes.dtype, types.Float) else "i"
        name = f"llvm.masked.store.v{lanes.group}{kind}{lanes.dtype.bitwidth}.p0"
        pointer, alignment = lanes.vector.as_pointer(), ir.Constant(ir.IntType(32), lanes.alignment)
        signature = ir.FunctionType(ir.VoidType(), [lanes.vector, pointer, alignment.type, condition.vector])
        function = cgutils.get_or_insert_function(builder.module, signature, name)  # type: ignore[no-untyped-call, unused-ignore]
        parts = parts_of(builder, lanes, values[3]) * (written.rows // lanes.rows)
        masks = parts_of(builder, condition, values[4])
        for part, place, mask in zip(parts, vectors_at(context, builder, sig, values, written), masks, strict=True):
            builder.call(function, [part, place, alignment, mask])
        return context.get_dummy_value()

    return types.none(array, types.intp, types.intp, lanes, condition), codegen


@intrinsic
def spread(context: Any, array: Any, first: Any, stride: Any, rows: Any, width: Any) -> Any:
    """Return array[first + r * stride] in every element of row r < ``rows``. ``rows`` and ``width`` are literals."""
    if not literal(rows, width):
        return None
    lanes = Lanes(array.dtype, rows.literal_value, width.literal_value)

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        data = _data(context, builder, sig, values)
        places = (builder.gep(data, [_row(builder, values, row)]) for row in range(lanes.rows))
        return repeated(builder, lanes, [builder.load(place) for place in places])

    return lanes(array, types.intp, types.intp, rows, width), codegen


@intrinsic
def splat(context: Any, number: Any, width: Any) -> Any:
    """Return one row with the number in every element."""
    if not literal(width):
        return None
    lanes = Lanes(number, 1, width.literal_value)

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        return repeated(builder, lanes, [values[0]])

    return lanes(number, width), codegen


@intrinsic
def splat_like(context: Any, array: Any, number: Any, width: Any) -> Any:
    """Return one row with the number, cast to the array's dtype, in every element."""
    if not literal(width):
        return None
    lanes = Lanes(array.dtype, 1, width.literal_value)

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        return repeated(builder, lanes, [context.cast(builder, values[1], sig.args[1], lanes.dtype)])

    return lanes(array, types.intp, width), codegen


@intrinsic
def like(context: Any, array: Any, lanes: Any) -> Any:
    """Return rows of float64 cast to the array's dtype."""
    cast = Lanes(array.dtype, lanes.rows, lanes.width)

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        if array.dtype == lanes.dtype:
            return values[1]
        parts = parts_of(builder, lanes, values[1])
        return whole(builder, cast, (builder.fptrunc(part, cast.vector) for part in parts))

    return cast(array, lanes), codegen


@intrinsic
def with_one(context: Any, lanes: Any) -> Any:
    """Return the rows followed by a row of the constant 1; multiplying by it costs nothing."""
    more = Lanes(lanes.dtype, lanes.rows + 1, lanes.width)

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        ones = [ir.Constant(lanes.vector, [1.0] * lanes.group)] * lanes.groups
        return whole(builder, more, [*parts_of(builder, lanes, values[0]), *ones])

    return more(lanes), codegen


@intrinsic
def some_rows(context: Any, lanes: Any, first: Any, rows: Any) -> Any:
    """Return rows first ... first + rows - 1; both are literals."""
    if not literal(first, rows):
        return None
    some = Lanes(lanes.dtype, rows.literal_value, lanes.width)

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        begin = first.literal_value * lanes.groups
        return whole(builder, some, parts_of(builder, lanes, values[0])[begin : begin + some.rows * some.groups])

    return some(lanes, first, rows), codegen


@intrinsic
def joined(context: Any, one: Any, other: Any) -> Any:
    """Return the rows of one value followed by those of another."""
    both = Lanes(one.dtype, one.rows + other.rows, one.width)

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        return whole(builder, both, [*parts_of(builder, one, values[0]), *parts_of(builder, other, values[1])])

    return both(one, other), codegen


@intrinsic
def total(context: Any, lanes: Any) -> Any:
    """Return one row: the sum of all rows, starting with the first."""
    one = Lanes(lanes.dtype, 1, lanes.width)

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        parts, groups = parts_of(builder, lanes, values[0]), lanes.groups
        return whole(builder, one, (reduce(builder.fadd, parts[group::groups]) for group in range(groups)))

    return one(lanes), codegen


@intrinsic
def transposed(context: Any, lanes: Any) -> Any:
    """Return columns as rows; there must be as many rows as an LLVM vector has elements, a power of two."""
    count = lanes.rows
    if lanes.width != count or lanes.groups != 1 or count & (count - 1):
        return None

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        # Interleaving row i with row i + n/2, log2(n) times, is a perfect shuffle of all elements: the transposition.
        pairs = [[j // 2 + j % 2 * count + half for j in range(count)] for half in (0, count // 2)]
        masks = [ir.Constant(ir.VectorType(ir.IntType(32), count), pair) for pair in pairs]
        parts = parts_of(builder, lanes, values[0])
        for _ in range(count.bit_length() - 1):
            halves = zip(parts[: count // 2], parts[count // 2 :], strict=True)
            parts = [builder.shuffle_vector(a, b, mask) for a, b in halves for mask in masks]
        return whole(builder, lanes, parts)

    return lanes(lanes), codegen


@intrinsic
def fma(context: Any, a: Any, b: Any, c: Any) -> Any:
    """Return a * b + c, rounded once."""
    lanes = _joined(a, b, c)
    if lanes is None:
        return None

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        function = fused(builder, lanes)
        return by_vector(builder, sig, values, lambda *vectors: builder.call(function, vectors))

    return lanes(a, b, c), codegen


@intrinsic
def select(context: Any, condition: Any, yes: Any, no: Any) -> Any:
    """Return ``yes`` where the condition, one boolean or Lanes of them, holds, else ``no``."""
    lanes = _joined(yes, no)
    if lanes is None:
        return None

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        return by_vector(builder, sig, values, builder.select)

    return lanes(condition, yes, no), codegen


@intrinsic
def merged(context: Any, lanes: Any) -> Any:
    """Return one vector with every bit that any vector of the rows has set."""
    one = Lanes(lanes.dtype, 1, lanes.group)

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        parts = parts_of(builder, lanes, values[0])
        return whole(builder, one, [reduce(lambda a, b: _bitwise(builder.or_, builder, a, b), parts)])

    return one(lanes), codegen


@intrinsic
def any_negative(context: Any, lanes: Any) -> Any:
    """Return whether any element of one vector has a negative sign; compiled as a rare case."""
    if not isinstance(lanes, Lanes):
        return None

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        words, bits, truth = _words(lanes.vector), ir.IntType(lanes.group), ir.IntType(1)
        (vector,) = parts_of(builder, lanes, values[0])
        negative = builder.icmp_signed("<", builder.bitcast(vector, words), ir.Constant(words, [0] * lanes.group))
        found = builder.icmp_unsigned("!=", builder.bitcast(negative, bits), ir.Constant(bits, 0))
        expect = _function(builder, "llvm.expect.i1", truth, 2)
        return builder.call(expect, [found, ir.Constant(truth, 0)])

    return types.boolean(lanes), codegen


@intrinsic
def aligned_stack(context: Any) -> Any:
    """Align the stack of the calling function to a cache line, so that no spilled vector crosses two lines."""

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        builder.function.attributes.alignstack = 64
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.none(), codegen


def _operator(function: Callable[..., Any], emit: Callable[..., Any], compares: bool = False) -> None:
    """Define a Python operator for two Lanes."""

    class Template(AbstractTemplate):  # type: ignore[misc, unused-ignore]
        def generic(self, args: Any, kws: Any) -> Any:
            lanes = _joined(*args)
            if lanes is None:
                return None
            return signature(Lanes(types.boolean, lanes.rows, lanes.width) if compares else lanes, *args)  # type: ignore[no-untyped-call, unused-ignore]

    def lower(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        return by_vector(builder, sig, values, lambda a, b: emit(builder, a, b))

    infer_global(function)(Template)  # type: ignore[no-untyped-call, unused-ignore]
    extending.lower_builtin(function, Lanes, Lanes)(lower)  # type: ignore[no-untyped-call, unused-ignore]


_operator(operator.add, lambda builder, a, b: builder.fadd(a, b))
_operator(operator.sub, lambda builder, a, b: builder.fsub(a, b))
_operator(operator.mul, lambda builder, a, b: builder.fmul(a, b))
_operator(operator.gt, lambda builder, a, b: builder.fcmp_ordered(">", a, b), compares=True)
_operator(operator.ne, lambda builder, a, b: builder.fcmp_unordered("!=", a, b), compares=True)
_operator(operator.xor, lambda builder, a, b: _bitwise(builder.xor, builder, a, b))
_operator(operator.or_, lambda builder, a, b: _bitwise(builder.or_, builder, a, b))


def literal(*numbers: Any) -> bool:
    """Return whether these are compile-time constants; numba first calls without them, then with them."""
    return all(isinstance(number, types.IntegerLiteral) for number in numbers)


def _joined(*operands: Any) -> Lanes | None:
    """Return the type of the result for these operands, or None if they are not compatible Lanes."""
    if not all(isinstance(operand, Lanes) for operand in operands):
        return None
    lanes: Lanes = max(operands, key=lambda operand: int(operand.rows))
    fits = all(
        operand.dtype == lanes.dtype and operand.width == lanes.width and operand.rows in (1, lanes.rows)
        for operand in operands
    )
    return lanes if fits else None


def by_vector(builder: Any, sig: Any, values: Any, emit: Callable[..., Any]) -> Any:
    """Apply ``emit`` to every vector of the operands; a single row is combined with every row, a number with all."""
    lanes, operands = sig.return_type, []
    for operand, value in zip(sig.args, values, strict=True):
        parts = parts_of(builder, operand, value) if isinstance(operand, Lanes) else [value]
        operands.append(parts * (lanes.rows * lanes.groups // len(parts)))
    return whole(builder, lanes, (emit(*vectors) for vectors in zip(*operands, strict=True)))


def parts_of(builder: Any, lanes: Lanes, value: Any) -> list[Any]:
    """Return the LLVM vectors of a value, row after row."""
    return [builder.extract_value(value, i) for i in range(lanes.rows * lanes.groups)]


def whole(builder: Any, lanes: Lanes, parts: Iterable[Any]) -> Any:
    """Return the value that consists of these LLVM vectors."""
    all_parts = ir.Constant(lanes.layout, ir.Undefined)
    for i, vector in enumerate(parts):
        all_parts = builder.insert_value(all_parts, vector, i)
    return all_parts


def repeated(builder: Any, lanes: Lanes, numbers: list[Any]) -> Any:
    """Return a value whose row r has number r in every element."""
    vectors = [everywhere(builder, lanes, number) for number in numbers for _ in range(lanes.groups)]
    return whole(builder, lanes, vectors)


def everywhere(builder: Any, lanes: Lanes, number: Any) -> Any:
    """Return an LLVM vector with the number in every element."""
    undefined = ir.Constant(lanes.vector, ir.Undefined)
    first = builder.insert_element(undefined, number, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), lanes.group), [0] * lanes.group)
    return builder.shuffle_vector(first, undefined, zeros)


def fused(builder: Any, lanes: Lanes) -> Any:
    """Return LLVM's fused multiply-add function for three such vectors."""
    return _function(builder, f"llvm.fma.v{lanes.group}f{lanes.dtype.bitwidth}", lanes.vector, 3)


def _function(builder: Any, name: str, value: Any, arguments: int) -> Any:
    """Return an LLVM function with this many arguments of the value's type and a result of the same type."""
    function_type = ir.FunctionType(value, [value] * arguments)
    return cgutils.get_or_insert_function(builder.module, function_type, name)  # type: ignore[no-untyped-call, unused-ignore]


def _bitwise(operation: Callable[..., Any], builder: Any, a: Any, b: Any) -> Any:
    """Apply an operation to the bits of two LLVM vectors."""
    words = _words(a.type)
    return builder.bitcast(operation(builder.bitcast(a, words), builder.bitcast(b, words)), a.type)


def _words(vector: Any) -> Any:
    """Return the type of integers as wide as the floats of an LLVM vector."""
    return ir.VectorType(ir.IntType(32 if isinstance(vector.element, ir.FloatType) else 64), vector.count)


def _data(context: Any, builder: Any, sig: Any, values: Any) -> Any:
    """Return the address of the call's first argument, an array or a pointer."""
    if isinstance(sig.args[0], types.CPointer):
        return values[0]
    return context.make_array(sig.args[0])(context, builder, values[0]).data


def vectors_at(context: Any, builder: Any, sig: Any, values: Any, lanes: Lanes) -> Iterator[Any]:
    """Yield pointers to the vectors of these Lanes, for a call that begins (array, first, stride) or has one row."""
    data = _data(context, builder, sig, values)
    for row in range(lanes.rows):
        at = _row(builder, values, row)
        for group in range(lanes.groups):
            place = builder.gep(data, [_plus(builder, at, group * lanes.group)])
            yield builder.bitcast(place, lanes.vector.as_pointer())


def _row(builder: Any, values: Any, row: int) -> Any:
    """Return the start of a row, for a call that begins (array, first, stride)."""
    return builder.add(values[1], builder.mul(values[2], ir.Constant(values[2].type, row))) if row else values[1]


def _plus(builder: Any, index: Any, number: int) -> Any:
    return builder.add(index, ir.Constant(index.type, number))
