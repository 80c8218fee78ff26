"""Sphinx builds the documentation with this: `make docs`. Pages are MyST; what the code knows is read from the code."""

from __future__ import annotations

import os
import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent))
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])  # `!gradtrace`

# kernels of the tutorials have a profile of their own: not the reader's, and without a word about sockets
PROFILE = DOCS / "_build" / "ipython" / "profile_default"
PROFILE.mkdir(parents=True, exist_ok=True)
(PROFILE / "ipython_kernel_config.py").write_text('c.IPKernelApp.log_level = "ERROR"\n', encoding="utf-8")
os.environ["IPYTHONDIR"] = str(PROFILE.parent)
os.environ["JUPYTER_COLUMNS"] = "92"  # what fits beside the navigation

import gradtrace  # noqa: E402

project = "gradtrace"
author = "The gradtrace authors"
copyright = "The gradtrace authors, Apache-2.0"
version = release = gradtrace.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx_click",
    "sphinx_copybutton",
    "sphinx_design",
    *(f"docs.extensions.{name}" for name in ("from_code", "mathml", "plain_docstrings", "written_reports")),
]
exclude_patterns = ["_build", "extensions"]
default_role = "code"
smartquotes = False  # `--fail-on` has two dashes, and a' a prime
nitpicky = True
nitpick_ignore_regex = [  # types of other libraries: no network at build, so no inventories of theirs
    ("py:.*", r"(torch|nn|np|numpy|rich|collections|pathlib|types)\..*"),
    (
        "py:.*",
        r"(Any|Axes|Callable|Columns|Console|Figure|Iterable|NDArray|Optimizer|Path|Sequence|Tensor|Generator|Self|TracebackType|Record|Moved)",
    ),
    ("py:.*", r"(StrEnum|enum\..*|optional)"),
]
suppress_warnings = ["config.cache"]

myst_enable_extensions = ["attrs_block", "attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
myst_links_external_new_tab = False

# tutorials are executed at every build, and an exception in one fails it
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 180
nb_execution_show_tb = True
nb_merge_streams = True

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"exclude-members": "__init__, __new__"}
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = f"gradtrace {release}"
html_static_path = ["_static"]
html_css_files = ["gradtrace.css"]
html_show_sourcelink = False
html_copy_source = False
html_math_renderer = "mathml"
html_theme_options = {"navigation_with_keys": True, "top_of_page_buttons": []}
pygments_style = "tango"
pygments_dark_style = "one-dark"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
copybutton_exclude = ".linenos, .gp, .go"
