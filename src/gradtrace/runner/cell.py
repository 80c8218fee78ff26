"""How does a notebook's cell run under watch? In the user's own namespace, and as IPython would run it.

    picture      of the run so far, drawn anew in its own place while the cell runs
    diagnosis    below it, at the end

What the cell returns, raises and leaves behind is what it would without us. A frontend that cannot draw anew (IPython
on a terminal) gets what `gradtrace run` shows there.
"""

from __future__ import annotations

import ast
import random
import sys
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from gradtrace.runner.ending import why_not_judged, write_report
from gradtrace.runner.frames import clean
from gradtrace.runner.watching import Watching

if TYPE_CHECKING:
    from collections.abc import Callable

    from gradtrace.monitor.watch import Watch
    from gradtrace.runner.watching import WatchOptions


@dataclass(frozen=True, slots=True)
class Cell:
    """As it is spoken of."""

    name: str = "the cell"
    title: str = "cell"
    command: tuple[str, ...] = ()
    """It cannot be run again by itself."""


def run_cell(shell: Any, cell: str, options: WatchOptions) -> tuple[Any, Watch | None]:
    """The value of the cell's last expression, and the watch over what it trained (None: nothing).

    Raises:
        BaseException: Whatever the cell raises; its watch is closed and told before that.
    """
    __tracebackhide__ = True  # IPython shows the cell's own frames
    work = compiled(shell, cell)
    watching = InNotebook(shell, options) if _draws_anew(shell) else Watching(Cell(), options, _say)
    state = random.getstate()  # what draws takes from it while it is imported
    watching.begin()
    random.setstate(state)
    try:
        value = work()
    except BaseException as error:
        clean(error)
        _finish(watching, error)
        raise
    _finish(watching, None)
    return value, watching.watch


def compiled(shell: Any, cell: str) -> Callable[[], Any]:
    """What runs it, as the magics of IPython do: its transformations, its names, the value of a last expression."""
    stripped = len([*takewhile(lambda line: not line.strip(), cell.splitlines())])
    source = "\n" * (1 + stripped) + shell.transform_cell(cell)  # lines count as the user sees them, ours the first
    number = len(shell.history_manager.input_hist_parsed) - 1  # of the cell; IPythons count on at different moments
    file = shell.compile.cache(source, number, raw_code=cell)  # for tracebacks
    tree = shell.transform_ast(shell.compile.ast_parse(source, file))
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    body = shell.compile(tree, file, "exec")
    value = shell.compile(ast.Expression(last.value), file, "eval") if last is not None else None

    def work() -> Any:
        __tracebackhide__ = True
        exec(body, shell.user_global_ns, shell.user_ns)
        return eval(value, shell.user_global_ns, shell.user_ns) if value is not None else None

    return work


def _finish(watching: Watching, error: BaseException | None) -> None:
    state = random.getstate()
    watching.finish(error)
    random.setstate(state)


def _draws_anew(shell: Any) -> bool:
    """Not on a terminal, where IPython's own publisher prints whatever it gets as text."""
    from IPython.core.displaypub import DisplayPublisher

    return type(shell.display_pub) is not DisplayPublisher


def _say(sentence: str) -> None:
    """Among the cell's output: a kernel's own stderr is the server's log."""
    print(f"gradtrace: {sentence}", file=sys.stderr)  # noqa: T201


class InNotebook(Watching):
    """Watching that draws where the cell's output is."""

    def __init__(self, shell: Any, options: WatchOptions) -> None:
        super().__init__(Cell(), options, _say)
        self._shell = shell

    def _show(self, watch: Watch) -> None:
        from gradtrace.runner.cell_picture import CellPicture, CellView

        self._picture = CellPicture(self._shell.display_pub.publish)
        if self._options.live is not False:
            self._view = CellView(lambda: watch.run, self._picture)

    def _tell(self, watch: Watch) -> None:
        if not len(watch.run.steps.first):
            _say(why_not_judged(self._script, watch.num_waiting))
            return
        self._picture.draw(watch.run, findings=False)
        data, metadata = self._shell.display_formatter.format(watch.diagnosis)
        self._shell.display_pub.publish(data, metadata)
        if self._options.report is not None:
            _say(write_report(watch, self._options.report))
