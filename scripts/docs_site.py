"""What mkdocs does not do by itself: pages whose text lies elsewhere in the repository, and links between all pages.

`mkdocs.yml` names this file as a hook. README.md is the site's first page, the READMEs of the bundles and of the
3D Slicer extension are pages, the tutorial is the notebook, and the page of the command is what ``ddfm --help`` says.
Links are written as they work in the repository; one to a file that is no page becomes plain text.
"""

from __future__ import annotations

import json
import posixpath
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
PAGES = {  # page of the site: file of the repository
    "index.md": "README.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "slicer_extension.md": "slicer_extension/README.md",
    "bundles/ddfm_fusion.md": "bundles/ddfm_fusion/docs/README.md",
    "bundles/ddfm_prior.md": "bundles/ddfm_prior/docs/README.md",
}
FOLDERS = {"examples": "tutorial.md", "slicer_extension": "slicer_extension.md"}  # a link to the folder
PICTURES = ("slicer_extension/Screenshots/*.png",)
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages and pictures that do not lie in docs/."""
    texts = {page: (ROOT / source).read_text(encoding="utf-8") for page, source in PAGES.items()}
    texts["tutorial.md"] = notebook_text(ROOT / "examples" / "tutorial.ipynb")
    texts["command.md"] = command_text()
    for page, text in texts.items():
        files.append(File.generated(config, page, content=text))
    for pattern in PICTURES:
        for path in sorted(ROOT.glob(pattern)):
            files.append(File.generated(config, str(path.relative_to(ROOT)), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Turn links between files of the repository into links between pages."""
    here = page.file.src_uri
    folder = posixpath.dirname(PAGES.get(here, f"docs/{here}"))
    pages = {source: site for site, source in PAGES.items()} | FOLDERS

    def moved(link: re.Match[str]) -> str:
        mark, text, target = link.groups()
        path, _, anchor = target.partition("#")
        if "://" in target or not path:
            return link.group()
        source = posixpath.normpath(posixpath.join(folder, path))
        site = pages.get(source, source.removeprefix("docs/"))
        if files.get_file_from_path(site) is None:
            return f"{text}"
        relative = posixpath.relpath(site, posixpath.dirname(here) or ".")
        return f"{mark}[{text}]({relative}{'#' + anchor if anchor else ''})"

    fenced = re.split(r"(^```.*?^```$)", markdown, flags=re.M | re.S)
    return "".join(part if part.startswith("```") else _LINK.sub(moved, part) for part in fenced)


def notebook_text(path: Path) -> str:
    """A notebook without its outputs, as Markdown."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    return "\n\n".join(parts) + "\n"


def command_text() -> str:
    """What the command and all its sub-commands say for ``--help``."""
    ask = [sys.executable, "-m", "typer", "ddfm_monai.cli.main", "utils", "docs", "--name", "ddfm"]
    done = subprocess.run([*ask, "--title", "The command ddfm"], cwd=ROOT, capture_output=True, text=True, check=True)
    return re.sub("\x08\\n((?: +.+\\n)+)", r"```console\n\1```\n", done.stdout)  # the examples, which keep their lines
