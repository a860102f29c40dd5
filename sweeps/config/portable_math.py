"""exp, log and the normal quantile with the same bits on every machine.

numpy and the C library choose their code by the processor, and results differ in the last bit. These functions only
add, multiply, divide and take square roots, which IEEE 754 defines to the last bit. Their errors are below 1e-15 of
the result (2e-15 for the quantile).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float64]

_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10  # the sum is ln 2; k * high is exact
_INVERSE_FACTORIALS = tuple(1 / math.factorial(n) for n in range(14))
_ODD_INVERSES = tuple(1 / n for n in range(1, 24, 2))
_SQRT_HALF = 0.7071067811865476

# Coefficients of the numerators and denominators of the routine PPND16 of Wichura (1988), Algorithm AS 241, Applied
# Statistics 37(3), 477-484.
_CENTRAL = """
    3.3871328727963666080e0 1.3314166789178437745e2 1.9715909503065514427e3 1.3731693765509461125e4
    4.5921953931549871457e4 6.7265770927008700853e4 3.3430575583588128105e4 2.5090809287301226727e3
    1.0 4.2313330701600911252e1 6.8718700749205790830e2 5.3941960214247511077e3
    2.1213794301586595867e4 3.9307895800092710610e4 2.8729085735721942674e4 5.2264952788528545610e3
"""
_MIDDLE = """
    1.42343711074968357734e0 4.63033784615654529590e0 5.76949722146069140550e0 3.64784832476320460504e0
    1.27045825245236838258e0 2.41780725177450611770e-1 2.27238449892691845833e-2 7.74545014278341407640e-4
    1.0 2.05319162663775882187e0 1.67638483018380384940e0 6.89767334985100004550e-1
    1.48103976427480074590e-1 1.51986665636164571966e-2 5.47593808499534494600e-4 1.05075007164441684324e-9
"""
_TAIL = """
    6.65790464350110377720e0 5.46378491116411436990e0 1.78482653991729133580e0 2.96560571828504891230e-1
    2.65321895265761230930e-2 1.24266094738807843860e-3 2.71155556874348757815e-5 2.01033439929228813265e-7
    1.0 5.99832206555887937690e-1 1.36929880922735805310e-1 1.48753612908506148525e-2
    7.86869131145613259100e-4 1.84631831751005468180e-5 1.42151175831644588870e-7 2.04426310338993978564e-15
"""


def exp(x: FloatArray) -> FloatArray:
    """Return e^x, for x in [-700, 700]."""
    import numpy as np

    k = np.rint(x * (1 / (_LN2_HIGH + _LN2_LOW)))
    r = (x - k * _LN2_HIGH) - k * _LN2_LOW
    return np.asarray(np.ldexp(_polynomial(_INVERSE_FACTORIALS, r), k.astype(np.int32)), dtype=np.float64)


def log(x: FloatArray) -> FloatArray:
    """Return the natural logarithm of x > 0, by ln m = 2 artanh((m - 1) / (m + 1)) for m near 1."""
    import numpy as np

    mantissa, exponent = np.frexp(x)
    low = mantissa < _SQRT_HALF
    mantissa, k = np.where(low, 2 * mantissa, mantissa), exponent - low.astype(np.int32)
    s = (mantissa - 1) / (mantissa + 1)
    return np.asarray(k * _LN2_HIGH + (2 * s * _polynomial(_ODD_INVERSES, s * s) + k * _LN2_LOW), dtype=np.float64)


def normal_quantile(p: FloatArray) -> FloatArray:
    """Return the standard normal distribution's quantiles, for p in (0, 1)."""
    import numpy as np

    q = p - 0.5
    central = np.abs(q) <= 0.425
    near = 0.180625 - np.where(central, q, 0.0) ** 2
    result = q * _ratio(_CENTRAL, near)
    if not central.all():
        far = ~central
        r = np.sqrt(-log(np.minimum(p[far], 1 - p[far])))
        size = np.where(r <= 5, _ratio(_MIDDLE, r - 1.6), _ratio(_TAIL, r - 5))
        result[far] = np.where(q[far] < 0, -size, size)
    return result


def _ratio(coefficients: str, x: FloatArray) -> FloatArray:
    """Return the ratio of two polynomials of degree 7."""
    numbers = [float(each) for each in coefficients.split()]
    return _polynomial(numbers[:8], x) / _polynomial(numbers[8:], x)


def _polynomial(coefficients: Sequence[float], x: FloatArray) -> FloatArray:
    """Return c0 + c1 x + c2 x^2 + ... by Horner's rule."""
    result = x * coefficients[-1]
    for coefficient in coefficients[-2:0:-1]:
        result = (result + coefficient) * x
    return result + coefficients[0]
