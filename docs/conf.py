"""The site of the documents: ``sphinx-build -W -c docs . site`` in a checkout, with the extra `docs`.

Pages are the documents where they lie, so each text exists once. Docstrings come from the installed package.
"""

import streamrt

project = "streamrt"
version = release = streamrt.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
include_patterns = ["*.md", "docs/*.md", "docs/guides/*.md", "examples/*/README.md"]
include_patterns += ["bench/README.md", "bench/results/*.md", "bench/results/*/*.md"]
exclude_patterns = [".venv*", "build", "site"]
root_doc = "docs/index"

myst_heading_anchors = 4  # as GitHub makes them, so that a link works on both
myst_links_external_new_tab = False

default_role = "any"  # a name in single backticks is code, and a link if the reference has it
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False

html_theme = "furo"
html_title = "streamrt"
html_static_path = ["site/static"]
html_css_files = ["style.css"]
html_extra_path = ["site/index.html"]  # the root of the site leads to docs/index
html_show_copyright = False
html_show_sphinx = False
html_copy_source = False
