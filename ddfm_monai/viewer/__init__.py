"""One HTML file in which a fusion and its sources can be looked at: no server, no network, nothing to install.

:mod:`~ddfm_monai.viewer.layers` brings the volumes to the size and the types of a page, :mod:`~ddfm_monai.viewer.page`
puts them together with the viewer of ``assets/``: NiiVue (BSD-2-Clause) and what this package adds to it.
"""

from __future__ import annotations

from ddfm_monai.viewer.page import part_of, viewer_page

__all__ = ["part_of", "viewer_page"]
