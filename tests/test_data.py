from __future__ import annotations

import hashlib

import numpy as np

from gradtrace.data import digits


def test_digits_have_the_promised_shapes_types_and_range():
    pixels, labels = digits()
    assert (pixels.shape, pixels.dtype) == ((1797, 64), np.dtype(np.float32))
    assert (labels.shape, labels.dtype) == ((1797,), np.dtype(np.int64))
    assert (pixels.min(), pixels.max()) == (0.0, 1.0)


def test_digits_are_the_published_ones():
    """Counts as in the data set's description; bytes as extracted from scikit-learn's copy."""
    pixels, labels = digits()
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    counts = pixels * 16
    assert np.array_equal(counts, np.round(counts))
    stored = counts.astype(np.uint8).tobytes() + labels.astype(np.uint8).tobytes()
    assert hashlib.sha256(stored).hexdigest() == "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"


def test_digits_are_fresh_each_time():
    pixels, labels = digits()
    pixels[:], labels[:] = -1.0, -1
    again, labels_again = digits()
    assert again.min() == 0.0
    assert labels_again.min() == 0


def test_a_nearest_mean_tells_the_digits_apart():
    """The labels belong to the images: the nearest class mean is right far more often than one in ten."""
    pixels, labels = digits()
    means = np.stack([pixels[labels == digit].mean(axis=0) for digit in range(10)])
    nearest = ((pixels[:, None] - means) ** 2).sum(axis=-1).argmin(axis=1)
    assert (nearest == labels).mean() > 0.85
