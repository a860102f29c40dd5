"""linear_triton compiled ahead of time for a GPU that need not be there, for tests and benchmarks."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from sgdcore.kernels.linear_triton import program, wide_program
from sgdcore.kernels.linear_triton.kernel import REGISTER_PARAMETERS, THREADS, block_of

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
ARITHMETIC = re.compile(r"\b(?:fma|add|sub|mul|mad|div|rcp|sqrt|ex2)\.\S*f(?:32|64)\b")


@dataclass(frozen=True)
class Compiled:
    """The kernel as compiled for one kind of GPU and trials."""

    parameters: int
    per_thread: int  # trials
    clips_norm: bool
    ptx: str
    usage: str  # of registers, stack, shared and local memory, as cuobjdump prints it

    @classmethod
    def of(cls, capability: int, dtype: str, features: int, bias: bool, single: bool, **more: int) -> Compiled:
        """Compile for a compute capability such as 90; ``more`` are other constants of program.advance."""
        parameters = features + bias
        block = block_of(parameters, {"fp32": 4, "fp64": 8}[dtype])
        step = (wide_program if parameters > REGISTER_PARAMETERS else program).advance
        pointers = ("table_at", "after_at", "gradients_at", "path_at", "inputs_at", "scales_at", "rates_at")
        floats = dict.fromkeys(pointers, f"*{dtype}")
        longs = dict.fromkeys(("dates_at", "stops_at", "orders_at", "clipped_at", "columns_at"), "*i64")
        constants = {"FEATURES": features, "BIAS": bias, "SINGLE": single, "BLOCK": block, "NEVER": -1}
        constants |= {"GROUPS": 1, "SCHEDULED": 0, "CLIPS_NORM": False, "CLIPS_VALUE": False} | more
        types = {**floats, **longs, "order_at": "*i32", "cuts_at": "*i32", **dict.fromkeys(constants, "constexpr")}
        signature = {name: types.get(name, "i32") for name in step.arg_names}
        compiled = triton.compile(
            ASTSource(step, signature, constexprs=constants),
            target=GPUTarget("cuda", capability, 32),
            options=program.OPTIONS,
        )
        clips_norm = bool(constants["CLIPS_NORM"])
        return cls(parameters, block // THREADS, clips_norm, compiled.asm["ptx"], _usage(compiled.asm["cubin"]))

    @property
    def memory(self) -> dict[str, int]:
        """The registers of a thread, and its bytes of stack, shared and local memory."""
        [used] = re.findall(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", self.usage)
        return dict(zip(("registers", "stack", "shared", "local"), map(int, used), strict=True))

    @property
    def arithmetic(self) -> list[str]:
        """The floating-point operations in the code, those of a step once for each trial of a thread."""
        return ARITHMETIC.findall(self.ptx)


def _usage(cubin: bytes) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        done = subprocess.run(
            [TOOLS / "cuobjdump", "-res-usage", file.name], capture_output=True, text=True, check=True
        )
        return done.stdout
