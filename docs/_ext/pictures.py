"""Pictures of the pages: a separate file for each plot, and a link from each picture to its full size."""

from docutils import nodes
from matplotlib.sphinxext.plot_directive import PlotDirective
from sphinx.application import Sphinx

_COUNT = "pictures_of_plots"


class Plot(PlotDirective):
    """`.. plot::` with files numbered over the whole page.

    Matplotlib numbers the plots of a document. MyST parses each ``{eval-rst}`` block as a separate document,
    so every block would write, and show, ``PAGE-1.svg``.
    """

    def run(self):
        """Continue the numbering of the previous block."""
        of_page, of_block = self.env.temp_data, self.state_machine.document.attributes
        of_block["_plot_counter"] = of_page.get(_COUNT, 0)
        found = super().run()
        of_page[_COUNT] = of_block["_plot_counter"]
        return found

    @property
    def env(self):
        """The build environment."""
        return self.state_machine.document.settings.env


def _link(app, doctree):
    """Set a width on pictures, because Sphinx then links them to the file, so that a click opens it."""
    for image in doctree.findall(nodes.image):
        if not isinstance(image.parent, nodes.reference):
            image.setdefault("width", "100%")


def setup(app: Sphinx):
    """Replace the directive, and connect the handler that makes links."""
    app.setup_extension("matplotlib.sphinxext.plot_directive")
    app.add_directive("plot", Plot, override=True)
    app.connect("doctree-read", _link)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
