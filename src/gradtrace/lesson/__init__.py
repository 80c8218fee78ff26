"""The lesson: the lecture on back propagation as one HTML page that computes.

    presets -> measured (torch, gradtrace.trace) -> figures and facts -> lesson.html.j2 -> one file

Beside every number that gradtrace measured when the page was written, the page's own scripts compute the recursion as
the controls move. `static/network.js` is `theory/backprop.py` once more; the tests hold the two together.
"""

from gradtrace.lesson.page import render, write_lesson

__all__ = ["render", "write_lesson"]
