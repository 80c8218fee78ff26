"""Which module does a parameter's name speak of? All in front of its last dot, those within a key aside.

``torch.nn.utils.parametrize`` moves a weight into a list of its own, as one original or several:
``head.parametrizations.weight.original0`` is part of what `head` has for its weight.
"""

from __future__ import annotations

import re

_ORIGINAL = re.compile(r"(.*?)(\.?)parametrizations\.([^.]+)\.(original\d*)", re.DOTALL)


def module_in(name: str) -> str:
    """Path of the module that holds a parameter; '' for one that the root holds.

    Tensors that no module holds have the script's own names, with the keys of its dicts, and what these contain.

    >>> module_in("encoder.0.weight"), module_in("weight"), module_in("layers[0].w")
    ('encoder.0', '', 'layers[0]')
    >>> module_in("params['2.weight']"), module_in("net.params['2.weight']")
    ('', 'net')
    >>> module_in("head.parametrizations.weight.original0"), module_in("parametrizations.weight.original")
    ('head', '')
    """
    if (original := _ORIGINAL.fullmatch(name)) is not None:
        return original[1]
    end = len(name)
    while name.endswith("]") and (begin := name.rfind("[", 0, end)) >= 0:
        end = begin
        if not name[:end].endswith("]"):
            break
    return name[:end].rpartition(".")[0]


def told_name(name: str) -> str:
    """A parameter's name for a reader.

    >>> told_name("head.weight"), told_name("head.parametrizations.weight.original1")
    ('head.weight', 'head.weight (original1)')
    """
    if (original := _ORIGINAL.fullmatch(name)) is None:
        return name
    module, dot, weight, which = original.groups()
    return f"{module}{dot}{weight}" + (f" ({which})" if which != "original" else "")
