"""Stands in for ``python -m ddfm_monai``: ``fake_worker.py BEHAVIOUR fuse REFERENCE SECOND -o OUTPUT ...``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ddfm_monai import protocol
from ddfm_monai.errors import InputError
from ddfm_monai.progress import Progress

TYPES = {"int16": np.int16, "float": np.float32, "double": np.float64, "uint8": np.uint8}


def fuse(reference: Path, output: Path) -> None:
    """Half the reference, scaled to [0, 1], on its grid."""
    header, data = reference.read_bytes().split(b"\n\n", 1)
    fields = dict(line.split(": ", 1) for line in header.decode().splitlines() if ": " in line)
    values = np.frombuffer(data, TYPES[fields["type"]]).astype(np.float32)
    values = 0.5 * (values - values.min()) / (values.max() - values.min())
    output.write_bytes(header.replace(fields["type"].encode(), b"float", 1) + b"\n\n" + values.tobytes())


def run(behaviour: str, arguments: list[str], events: protocol.EventWriter) -> None:
    reference, second, output = Path(arguments[1]), Path(arguments[2]), Path(arguments[4])
    events(Progress("read", 1, 1))
    if behaviour == "crashes":
        os.kill(os.getpid(), signal.SIGKILL)
    if behaviour == "refuses":
        raise InputError(f"{second.name}: the image is constant.", "E_CONSTANT")
    if behaviour == "does-not-align":
        raise InputError("Not surely enough: only 1 of 5 starts agree.", "E_REGISTRATION_UNSURE")
    if behaviour == "shapes-differ":
        raise InputError("Not surely enough: the body's shapes differ.", "E_SHAPES_DIFFER")
    if behaviour == "full-disk":
        raise OSError(28, "No space left on device", str(output))
    for step in range(4):
        events(Progress("fuse", step, 4, "slice 1 of 1"))
    if behaviour in ("hangs", "stubborn"):
        hang(behaviour, output.parent)
    if behaviour == "lost-file":
        events.result({"fused": output})
        return
    fuse(reference, output)
    outputs = {"fused": output}
    if "--samples" in arguments:
        outputs["uncertainty"] = output.with_name("uncertainty.nrrd")
        fuse(second, outputs["uncertainty"])
    provenance: dict[str, Any] = {"arguments": arguments, "prior": "fake", "note": 'quotes " and <xml>'}
    if behaviour == "aligns":
        outputs["registration_picture"] = output.with_name("fused_registration.png")
        Image.new("RGB", (760, 80), "red").save(outputs["registration_picture"])
        provenance["warnings"] = ["second: HU -512 fits as well."]
        provenance["registration"] = {"sentence": "Moved by 9.0 mm and turned by 2.0 degrees."}
    events.result(outputs, provenance, {"total": 0.1})


def hang(behaviour: str, folder: Path) -> None:
    """Say nothing more, with a child process that does not end by itself either."""
    if behaviour == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    (folder / "pids.json").write_text(json.dumps([os.getpid(), child.pid]))
    print("hanging", file=sys.stderr, flush=True)
    threading.Event().wait()


def main() -> None:
    behaviour, arguments = sys.argv[1], sys.argv[2:]
    if behaviour == "prints-garbage":
        sys.stdout.buffer.write(b"\x00\xffgarbage\n{half a line\n" * 50)
        return
    if behaviour == "wrong-version":
        print('{"protocol": 99, "event": "hello"}', flush=True)
        return
    if behaviour == "is-older":
        from typer.testing import CliRunner

        from ddfm_monai.cli.main import app

        done = CliRunner().invoke(app, ["fuse", "a", "b", "-o", "c", "--option-of-tomorrow"])
        print(done.output, file=sys.stderr)
        sys.exit(done.exit_code)
    if behaviour == "dies-at-once":
        sys.exit("ModuleNotFoundError: No module named 'ddfm_monai'")
    with protocol.events_on_stdout("fake") as events:
        run(behaviour, arguments, events)


if __name__ == "__main__":
    main()
