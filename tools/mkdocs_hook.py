"""Hook of MkDocs: files have the same places in the site as here, so that links work in both.

The front page is the README. The site has what is in docs/, the pages outside it, and the other
files that a page links to.
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

_ROOT = Path(__file__).resolve().parents[1]
_PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "weights/README.md")
_LINK = re.compile(r"\]\(([^)#:\s]+)")


@event_priority(50)  # Before the plugin that makes pages of notebooks.
def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The theme's files, and those of the site by their paths from the root."""
    from_docs = [file for file in files if file.src_dir == config.docs_dir]
    for file in from_docs:
        files.remove(file)
    names = {*_PAGES, *(f"docs/{file.src_uri}" for file in from_docs)}
    for name in names | _linked(names):
        files.append(File(name, str(_ROOT), config.site_dir, config.use_directory_urls))
    return files


def _linked(names: set[str]) -> set[str]:
    """The files of the project that pages link to."""
    found = set()
    for page in (_ROOT / name for name in names if name.endswith(".md")):
        for target in _LINK.findall(page.read_text(encoding="utf-8")):
            path = (page.parent / target).resolve()
            if path.is_file():
                found.add(path.relative_to(_ROOT).as_posix())
    return found - names
