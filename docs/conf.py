"""Configuration of Sphinx. `make docs` builds the site from the pages that _ext/stage.py gathers."""

import os

from scduet import __version__

project, author = "scduet", "The scduet developers"
copyright = author
version = release = __version__
extensions = ["myst_nb", "sphinx_design", "sphinx_copybutton"]
myst_enable_extensions = ["colon_fence", "deflist", "attrs_inline"]
myst_heading_anchors = 3
nb_execution_mode = "cache" if os.environ.get("NOTEBOOKS") else "off"
nb_execution_timeout = 600
nb_execution_raise_on_error = True
suppress_warnings = ["misc.highlighting_failure"]  # cells with %%R are not Python
add_module_names = False
toc_object_entries = False
smartquotes = False  # quotes in docstrings are code
python_maximum_signature_line_length = 80
python_display_short_literal_types = True
html_theme = "sphinx_book_theme"
html_title = "scduet"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {
    "show_toc_level": 2,
    "home_page_in_toc": True,
    "use_download_button": False,
    "navbar_persistent": [],
}
html_show_sourcelink = False
html_copy_source = False
copybutton_prompt_text = r"^(\$|>>>|>) "
copybutton_prompt_is_regexp = True
