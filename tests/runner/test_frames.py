"""Which frames are taken out of a traceback, and which stay?"""

from __future__ import annotations

import builtins
import sys
import traceback

import pytest
import torch

import gradtrace
from gradtrace.errors import InputError, NonfiniteError
from gradtrace.runner import frames
from gradtrace.runner.frames import clean


def raised_in(error, *files):
    """`error`, raised through functions that pretend to be of these files, the outermost first."""

    def throw():
        raise error

    call = throw
    for file in reversed(files):
        scope = {"call": call}
        exec(compile("def through():\n    call()", file, "exec"), scope)
        call = scope["through"]
    with pytest.raises(type(error)) as caught:
        call()
    return caught.value


def files_of(error):
    return [frame.filename for frame in traceback.extract_tb(error.__traceback__)]


OURS, WATCH = f"{frames._RUNNER}program.py", f"{frames._WATCH[0]}monitor.py"


def test_frames_between_are_taken_out():
    error = raised_in(ValueError("bad"), OURS, "/home/train.py", WATCH, "/site-packages/torch/x.py")
    clean(error)
    assert files_of(error)[1:] == ["/home/train.py", "/site-packages/torch/x.py", __file__]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 has no groups of exceptions")
def test_causes_contexts_and_groups_are_cleaned_too():
    exception_group = vars(builtins)["ExceptionGroup"]
    inner, other = (raised_in(KeyError("x"), "/home/train.py", OURS) for _ in range(2))
    error = raised_in(exception_group("several", [other]), "/home/train.py", OURS)
    error.__cause__ = inner
    inner.__context__ = error  # a circle
    clean(error)
    assert OURS not in files_of(error) + files_of(inner) + files_of(other)


def test_an_error_of_gradtrace_that_a_script_called_stays_whole():
    with pytest.raises(InputError) as caught:
        gradtrace.trace(torch.nn.Linear(2, 2), lambda model, batch: "no tensor", torch.ones(1, 2))  # type: ignore[return-value]
    before = files_of(caught.value)
    clean(caught.value)
    assert files_of(caught.value) == before
    assert any("/gradtrace/measure/" in file for file in before)


@pytest.mark.parametrize("kind", [NonfiniteError, KeyboardInterrupt])
def test_where_the_script_was_when_the_watch_ended_it_or_ctrl_c_came(kind):
    scope: dict[str, object] = {"error": kind()}
    exec(compile("def stop():\n    raise error", WATCH, "exec"), scope)
    with pytest.raises(kind) as caught:
        scope["stop"]()
    clean(caught.value)
    assert files_of(caught.value)[-1] == __file__
