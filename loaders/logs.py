"""Logarithms that are equal on every machine.

NumPy's are as good, but their last bit depends on the processor (a vector unit's routine here, the C library's
there), and an order of rows must not. Here are only operations whose result IEEE 754 fixes: shifts, sums,
products, quotients. The method is the classical one: x = m * 2**e with m between sqrt(1/2) and sqrt(2), and

    log m = 2 artanh(s) = 2 s (1 + s**2 / 3 + s**4 / 5 + ...)      with s = (m - 1) / (m + 1), |s| < 0.172,

of which ten terms leave out less than 2.3e-17 of the value. Within 2 units of the last place (measured). It
costs as much as NumPy's when the arrays stay in a core's cache: ask for some ten thousand at a time.
"""

from __future__ import annotations

import math

import numpy as np

from lakefmt.loaders.guide import Floats

_TERMS = [1 / (2 * k + 1) for k in range(10)]
_FRACTION = (1 << 52) - 1
_HALF = 1022 << 52  # the exponent of [0.5, 1)
_LEAST_NORMAL = 2.0**-1022


def log(values: Floats) -> Floats:
    """Natural logarithm of numbers above zero, finite; of zero, minus infinity."""
    tiny = values < _LEAST_NORMAL  # numbers with a shorter fraction
    if tiny.any():
        logs = log(np.where(tiny, np.where(values > 0, values * 2.0**64, 1.0), values))
        logs[tiny] -= 64 * math.log(2)
        logs[values == 0] = -np.inf
        return logs
    words = values.view(np.int64)
    exponents = words >> 52
    words = words & _FRACTION
    words |= _HALF
    m = words.view(np.float64)
    small = m < math.sqrt(0.5)
    exponents -= 1022
    exponents -= small
    words += small.astype(np.int64) << 52  # twice as large
    s = (m - 1.0) / (m + 1.0)
    squared = s * s
    logs = squared * _TERMS[-1]
    for term in _TERMS[-2:0:-1]:
        logs += term
        logs *= squared
    logs += 1.0
    logs *= s
    logs *= 2.0
    logs += exponents * math.log(2)
    return logs
