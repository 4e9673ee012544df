"""Formulas as MathML, which browsers render without scripts, fonts or a network.

The conversion is docutils'. A formula that it cannot convert gives a warning.
"""

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)


def _convert(translator, node, as_block):
    text = node.astext()
    try:
        return tex2mathml(text, as_block=as_block)
    except MathError as error:
        logger.warning("formula %r: %s", text, error, location=node)
        return translator.encode(text)


def _inline(translator, node):
    translator.body.append(_convert(translator, node, as_block=False))
    raise nodes.SkipNode


def _block(translator, node):
    translator.body.append(f'<div class="formula">{_convert(translator, node, as_block=True)}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx):
    """Register the renderer "mathml"."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
