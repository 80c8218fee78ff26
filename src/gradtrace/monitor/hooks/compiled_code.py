"""When is compiled code entered? Dynamo's own entrance looks up a function of its module at every call, just before.

What would make it compile again (a function mode of ours) can be taken away there in time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gradtrace.monitor.hooks.patches import Interposition, interpose
from gradtrace.tape.private import compiled_entrance

if TYPE_CHECKING:
    from collections.abc import Callable


def before_compiled_code(tell: Callable[[], None]) -> Interposition | None:
    """Have `tell` called whenever compiled code is about to run, until the interposition is removed.

    None: this torch does not show its entrance.
    """
    entrance = compiled_entrance()
    if entrance is None:
        return None

    def enter(own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        tell()
        return own(*args, **kwargs)

    return interpose(*entrance, enter)
