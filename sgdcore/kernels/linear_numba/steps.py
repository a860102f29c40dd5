"""The step functions of the linear CPU kernel: they take steps of one tile, compiled for its kind of trials and model.

Parts of ``width`` lanes are stepped several steps in a row. A model of up to FEW parameters is unrolled; for a larger
one, parameters are loaded from the cache and stored back. Everything that decides between ways of stepping is a
constant and costs nothing: the flags of the trials in the tile, the form of its batches. New peaks are rare, so a step
only checks whether there is one, by the signs of the distances to the peaks.

A step function takes ``count`` steps with ``used`` lanes, from ``tile`` to ``after``; see forms for these arrays. Each
is compiled as a whole: called from another function it would be optimised twice and lose its registers.
"""

from __future__ import annotations

import zlib
from dataclasses import astuple
from functools import cache as cached
from pathlib import Path
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types

from sgdcore import rule
from sgdcore.compile_cache import CACHED, compiling
from sgdcore.kernels.linear_numba import forms, looped, qr_blocks, stepping, unrolled
from sgdcore.kernels.linear_numba.forms import Form
from sgdcore.kernels.simd import clipping, lanes
from sgdcore.kernels.simd.lanes import intrinsic

ARRAYS = 9  # of a step function

# numba's on-disk cache checks the date of one file only, but a step is compiled from several: their checksum is a
# constant of the compiled function and so part of its key.
_MODULES = rule, lanes, clipping, qr_blocks, forms, stepping, unrolled, looped
_FILES = [*(str(module.__file__) for module in _MODULES), __file__]
SOURCE = zlib.crc32(b"".join(Path(file).read_bytes() for file in _FILES))


@cached
def compile_steps(form: Form, kind: int, cache: bool = True) -> Any:
    """Return the step function for trials of one kind, as a numba CFunc; ``cache`` enables the disk cache."""
    number = types.CPointer(numba.from_dtype(np.dtype(form.dtype)))  # type: ignore[no-untyped-call, unused-ignore]
    tick = types.CPointer(types.int32 if form.dtype == "float32" else types.int64)  # type: ignore[no-untyped-call, unused-ignore]
    place = types.CPointer(types.int64)  # type: ignore[no-untyped-call, unused-ignore]
    arguments = (number, number, tick, number, number, number, place, tick, place, types.intp, types.intp)
    many = looped.by_samples if form.batch in (1, 2) else looped.by_rows
    steps = (unrolled.few if form.unrolled else many)(form, kind, SOURCE)
    # numba numbers the functions of a process to name them. Functions from the disk cache were named by other
    # processes, so only the constants distinguish this one from them.
    steps.__qualname__ = f"steps_{'_'.join(map(str, (*astuple(form), kind)))}"
    compile_function = numba.cfunc(types.intp(*arguments), cache=cache and CACHED, error_model="numpy")  # type: ignore[no-untyped-call, unused-ignore]
    with compiling(f"linear models with {form.parameters} parameters, {form.dtype}"):
        return compile_function(steps)


@intrinsic
def call_steps(context: Any, address: Any, arrays: Any, numbers: Any) -> Any:
    """Call a step function by its address, with the addresses of ARRAYS arrays and 2 numbers."""

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        word = values[0].type
        function = ir.FunctionType(word, [word] * (ARRAYS + 2)).as_pointer()
        arguments = [builder.extract_value(values[1], i) for i in range(ARRAYS)]
        arguments += [builder.extract_value(values[2], i) for i in range(2)]
        builder.call(builder.inttoptr(values[0], function), arguments)
        return context.get_dummy_value()

    return types.none(types.intp, types.UniTuple(types.intp, ARRAYS), types.UniTuple(types.intp, 2)), codegen  # type: ignore[no-untyped-call, unused-ignore]
