"""Renew the copy of NiiVue that the viewer's pages carry: its built file and the licences of what is in it.

    python scripts/vendor_niivue.py            the version below
    python scripts/vendor_niivue.py 0.70.0     another one; look at the pages, then change the version here

Needs npm. The built file is kept compressed, byte for byte as NiiVue's authors publish it.
"""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import tempfile
from pathlib import Path

VERSION = "0.69.0"
ASSETS = Path(__file__).parents[1] / "ddfm_monai" / "viewer" / "assets"

# NiiVue's npm package names its licence, BSD-2-Clause, and leaves the text to its repository.
NIIVUE_LICENCE = """BSD 2-Clause License

Copyright (c) 2021, Niivue
All rights reserved.

Redistribution and use in source and binary forms, with or without
modification, are permitted provided that the following conditions are met:

1. Redistributions of source code must retain the above copyright notice, this
   list of conditions and the following disclaimer.

2. Redistributions in binary form must reproduce the above copyright notice,
   this list of conditions and the following disclaimer in the documentation
   and/or other materials provided with the distribution.

THIS SOFTWARE IS PROVIDED BY THE COPYRIGHT HOLDERS AND CONTRIBUTORS "AS IS"
AND ANY EXPRESS OR IMPLIED WARRANTIES, INCLUDING, BUT NOT LIMITED TO, THE
IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS FOR A PARTICULAR PURPOSE ARE
DISCLAIMED. IN NO EVENT SHALL THE COPYRIGHT HOLDER OR CONTRIBUTORS BE LIABLE
FOR ANY DIRECT, INDIRECT, INCIDENTAL, SPECIAL, EXEMPLARY, OR CONSEQUENTIAL
DAMAGES (INCLUDING, BUT NOT LIMITED TO, PROCUREMENT OF SUBSTITUTE GOODS OR
SERVICES; LOSS OF USE, DATA, OR PROFITS; OR BUSINESS INTERRUPTION) HOWEVER
CAUSED AND ON ANY THEORY OF LIABILITY, WHETHER IN CONTRACT, STRICT LIABILITY,
OR TORT (INCLUDING NEGLIGENCE OR OTHERWISE) ARISING IN ANY WAY OUT OF THE USE
OF THIS SOFTWARE, EVEN IF ADVISED OF THE POSSIBILITY OF SUCH DAMAGE.
"""


def main(version: str) -> None:
    """Fetch a version with all it is built of, and write the two files."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            ["npm", "install", "--silent", "--ignore-scripts", "--prefix", folder, f"@niivue/niivue@{version}"],
            check=True,
        )
        modules = Path(folder) / "node_modules"
        package = modules / "@niivue" / "niivue"
        built = (package / "dist" / "niivue.umd.js").read_bytes()
        licence = json.loads((package / "package.json").read_text())["license"]
        if licence != "BSD-2-Clause":
            sys.exit(f"NiiVue {version} has another licence, {licence}: look at it first.")
        texts = [f"NiiVue {version} (BSD-2-Clause)\n\n{NIIVUE_LICENCE}", *_licences(modules)]
    (ASSETS / "niivue.umd.js.gz").write_bytes(gzip.compress(built, 9, mtime=0))
    (ASSETS / "NIIVUE_LICENCES.txt").write_text(f"\n{'-' * 100}\n\n".join(texts))


def _licences(modules: Path) -> list[str]:
    """The licence of every package that NiiVue's built file may hold parts of."""
    found = []
    for description in sorted(modules.glob("**/package.json")):
        folder = description.parent
        texts = [path for path in folder.iterdir() if path.name.lower().startswith("licen")]
        if texts and folder.parent.name in ("node_modules", *_scopes(modules)):
            said = json.loads(description.read_text())
            found.append(f"{said['name']} {said['version']} ({said.get('license', '')})\n\n{texts[0].read_text()}")
    return found


def _scopes(modules: Path) -> list[str]:
    return [folder.name for folder in modules.iterdir() if folder.name.startswith("@")]


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else VERSION)
