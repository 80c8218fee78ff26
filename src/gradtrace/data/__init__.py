"""Which real data does the demo learn? The UCI handwritten digits, shipped in the package.

E. Alpaydin and C. Kaynak (1998), Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, CC BY 4.0
(README.md beside this file).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

_MAX_PIXEL = 16
"""A pixel counts the inked ones among 4 x 4 of the scanned image."""


def digits() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """The 1797 images and what they show.

    Returns:
        Pixels in [0, 1], float32 of shape [1797, 64], row by row of 8 x 8; and labels 0 to 9, int64 of shape [1797].
        Both are fresh arrays, free to change.

    Examples:
        >>> pixels, labels = digits()
        >>> pixels.shape, labels.shape
        ((1797, 64), (1797,))
        >>> float(pixels.min()), float(pixels.max())
        (0.0, 1.0)
        >>> labels[:10].tolist()
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """
    with np.load(Path(__file__).with_name("digits.npz"), allow_pickle=False) as stored:
        pixels, labels = stored["pixels"], stored["labels"]
    return (pixels.reshape(len(pixels), -1) / np.float32(_MAX_PIXEL)).astype(np.float32), labels.astype(np.int64)
