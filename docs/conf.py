"""How `make docs` builds the site: Markdown pages where they lie, and the docstrings.

The source folder is the repository itself, so a link between two files is the same on the site as
it is in a checkout. Nothing is downloaded.
"""

import re
import sys
from pathlib import Path
from pkgutil import walk_packages
from typing import TypeVar

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import make_refnode
from sphinx.writers.html5 import HTML5Translator

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import mmkd  # noqa: E402  the checkout's own

logger = logging.getLogger(__name__)
project = 'mmkd'
author = 'the contributors of mmkd'
copyright = author
version = release = mmkd.__version__

extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon', 'sphinx_copybutton']
root_doc = 'docs/index'
include_patterns = [
    'C*.md',
    'SECURITY.md',
    'docs/**',
    'configs/*/README.md',
    'benchmarks/README.md',
]
exclude_patterns = ['.*', 'build', 'data', 'dist', 'mmkd', 'tests', 'work_dirs', '**/__pycache__']
html_math_renderer = 'mathml'
html_theme = 'furo'
html_title = f'mmkd {release}'
html_extra_path = ['index.html']  # leads from the site's top to docs/index.html
html_copy_source = False

myst_enable_extensions = ['dollarmath']
myst_heading_anchors = 3
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = [('Shape', 'notes_style')]
napoleon_use_ivar = True
autodoc_default_options = {'members': True}
autodoc_member_order = 'bysource'
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100
# Nothing is fetched, so what other packages document is not linked.
nitpick_ignore_regex = [('py:.*', r'(?!mmkd\.).*|.*\._\w+')]
copybutton_exclude = '.linenos, .gp, .go'


class Room(SphinxDirective):
    """``room`` shows the docstrings of modules and packages, module by module."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """Return a section for each module."""
        pages = []
        for name in self.arguments[0].split():
            for module in modules_of(name):
                pages.append(f'## {module}\n\n```{{eval-rst}}\n.. automodule:: {module}\n```\n')
        return self.parse_text_to_nodes('\n'.join(pages), allow_section_headings=True)


def modules_of(name: str) -> list[str]:
    """Return a module, or a package and all modules in it."""
    __import__(name)
    path = getattr(sys.modules[name], '__path__', None)
    found = walk_packages(path, f'{name}.') if path else []
    return [name, *(module.name for module in found if '._' not in module.name)]


def escape_star(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Keep the star of shapes such as (N, C, *S) from opening an emphasis."""
    lines[:] = [re.sub(r'(?<![\\*\w])\*(?=S\b)', r'\\*', line) for line in lines]


def find_moved(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, text: nodes.Element
) -> nodes.Element | None:
    """Resolve a name by which mmkd exports or registers what is documented in another module."""
    package, _, last = node.get('reftarget', '').rpartition('.')
    if node.get('refdomain') != 'py' or package.partition('.')[0] not in ('', 'mmkd'):
        return None
    if isinstance(getattr(sys.modules.get(package), last, None), TypeVar):
        return text  # of an annotation; it has no docstring that could be shown
    objects = env.domains['py'].objects.items()
    found = [entry for name, entry in objects if name.rpartition('.')[2] == last]
    if len(found) != 1:
        return None
    page, anchor = found[0].docname, found[0].node_id
    return make_refnode(app.builder, node['refdoc'], page, anchor, text)


def show_math(self: HTML5Translator, node: nodes.Element) -> None:
    """Write an equation as MathML, which browsers show without a script from another site."""
    # tex2mathml knows no \\big; brackets of MathML stretch by themselves
    tex = re.sub(r'\\[bB]ig+(?![a-zA-Z])', '', node.astext())
    try:
        self.body.append(tex2mathml(tex, as_block=isinstance(node, nodes.math_block)))
    except MathError as error:
        logger.warning('%s in the equation %s', error, tex, location=node)
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Register the directive, the way of equations and the two repairs."""
    app.add_html_math_renderer('mathml', (show_math, None), (show_math, None))
    app.add_directive('room', Room)
    app.connect('autodoc-process-docstring', escape_star)
    app.connect('missing-reference', find_moved)
