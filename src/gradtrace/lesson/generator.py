"""Which random numbers does the lesson draw? A generator so small that Python and the page draw the same ones.

Number i of a stream is a hash of (seed, stream, i) in 32 bits: the finaliser "lowbias32" of C. Wellons (2018,
hash-prospector), with the constants 0x21f0aaad and 0x735a2d97, over steps of the golden ratio. `static/generator.js` is
the same in JavaScript; a test draws with both. Nobody else's generator is touched.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gradtrace.theory.gaussian import Array

_GOLDEN = 0x9E3779B9
_MASK = 0xFFFFFFFF


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = x ^ (x >> np.uint64(16))
    x = (x * np.uint64(0x21F0AAAD)) & np.uint64(_MASK)
    x = x ^ (x >> np.uint64(15))
    x = (x * np.uint64(0x735A2D97)) & np.uint64(_MASK)
    mixed: NDArray[np.uint64] = x ^ (x >> np.uint64(15))
    return mixed


def uniforms(seed: int, stream: int, count: int) -> Array:
    """`count` numbers in (0, 1), never 0 or 1.

    >>> uniforms(0, 0, 3).round(6), uniforms(0, 1, 1).round(6)
    (array([0.935801, 0.446593, 0.624186]), array([0.606434]))
    """
    key = _mix(_mix(np.array([seed + _GOLDEN], np.uint64) & np.uint64(_MASK)) ^ np.uint64(stream))
    steps = np.arange(count, dtype=np.uint64) * np.uint64(_GOLDEN)
    return (_mix(_mix((key + steps) & np.uint64(_MASK))).astype(np.float64) + 0.5) / 2.0**32


def gaussians(seed: int, stream: int, *shape: int) -> Array:
    """Standard normal numbers of this shape (G. Box and M. Muller, 1958).

    >>> draw = gaussians(0, 0, 1000, 100)
    >>> bool(abs(draw.mean()) < 0.01), bool(abs(draw.var() - 1) < 0.01)
    (True, True)
    """
    count = int(np.prod(shape))
    u = uniforms(seed, stream, 2 * ((count + 1) // 2))
    radius, angle = np.sqrt(-2 * np.log(u[0::2])), 2 * np.pi * u[1::2]
    return np.stack((radius * np.cos(angle), radius * np.sin(angle)), axis=1).ravel()[:count].reshape(shape)
