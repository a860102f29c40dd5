"""A GPU's limits, measured: independent fused multiply-adds in float32, and copies in its memory."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

CHAINS, SWEEPS, BLOCK = 16, 4096, 256
_SIGNATURE = {"values_at": "*fp32", "sweeps": "i32"}
_CONSTANTS = {"CHAINS": CHAINS, "BLOCK": BLOCK}
_OPTIONS = {"num_warps": 8, "enable_fp_fusion": False}


@triton.jit
def fused(values_at, sweeps, CHAINS: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Step CHAINS independent values of each thread."""
    lanes = values_at + tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(lanes)
    chains = ()
    for j in tl.static_range(CHAINS):
        chains += (value + j,)
    for _ in range(sweeps):
        stepped = ()
        for j in tl.static_range(CHAINS):
            stepped += (tl.fma(chains[j], value, value),)
        chains = stepped
    total = value
    for j in tl.static_range(CHAINS):
        total += chains[j]
    tl.store(lanes, total)


def compile_fused(capability: int) -> None:
    """Compile the multiply-adds for a GPU that need not be there."""
    signature = {**_SIGNATURE, **dict.fromkeys(_CONSTANTS, "constexpr")}
    target = GPUTarget("cuda", capability, 32)
    triton.compile(ASTSource(fused, signature, constexprs=_CONSTANTS), target=target, options=_OPTIONS)


def issue_rate() -> float:
    """Return the float32 multiply-adds per second of the GPU, which are its instructions per second in float32."""
    blocks = 16 * torch.cuda.get_device_properties(0).multi_processor_count
    values = torch.full((blocks * BLOCK,), 0.5, device="cuda")
    seconds = _best(lambda: fused[(blocks,)](values, SWEEPS, **_CONSTANTS, **_OPTIONS))
    return blocks * BLOCK * CHAINS * SWEEPS / seconds


def copy_rate(megabytes: int = 1024) -> float:
    """Return the bytes read and written per second by a copy."""
    source = torch.zeros(megabytes << 18, device="cuda")
    target = torch.empty_like(source)
    return 2 * 4 * len(source) / _best(lambda: target.copy_(source))


def _best(run: Callable[[], object], repeats: int = 5) -> float:
    """Return the least seconds of several runs after the first, which compiles."""
    seconds = []
    for _ in range(repeats + 1):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        run()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    return min(seconds[1:])
