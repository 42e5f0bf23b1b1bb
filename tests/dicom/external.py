"""The real tools that judge what is written: each is skipped, visibly, where it is not installed."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from dicom_validator.validator.error_handler import NullValidationResultHandler, ValidationResultFormatter
from dicom_validator.validator.iod_validator import IODValidator
from dicom_validator.validator.validation_result import ErrorCode, Status
from pydicom import dcmread
from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from .standard import standard_of

# dicom3tools of 2022 does not know SyntheticData (0008,001C), which the standard has since gained, nor that the image
# plane and frame of reference are now allowed in Secondary Capture; and it takes every private scheme for a mistake.
_PLANE = (
    "SliceThickness",
    "SpacingBetweenSlices",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "FrameOfReferenceUID",
    "PositionReferenceIndicator",
    "SliceLocation",
)
_KNOWN = [
    re.compile(r"\(0008,001c\)"),
    re.compile(r"Unrecognized defined term = <99DDFM>"),
    re.compile(rf"</({'|'.join(_PLANE)})\([0-9a-f,]+\)> - Attribute is not present in standard DICOM IOD"),
]


def needs(*tools: str) -> pytest.MarkDecorator:
    """Skip the test where one of the programs is missing."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def dciodvfy(path: Path) -> list[str]:
    """Errors and warnings of dicom3tools' validator, but for those it is known to be wrong about.

    It returns 0 whatever it finds.
    """
    done = subprocess.run(["dciodvfy", "-new", path], check=False, capture_output=True, text=True, timeout=60)
    lines = (done.stdout + done.stderr).splitlines()
    assert any(not line.startswith(("Error", "Warning")) for line in lines), "dciodvfy named no IOD"
    return [
        line
        for line in lines
        if line.startswith(("Error", "Warning")) and not any(known.search(line) for known in _KNOWN)
    ]


def dcentvfy(paths: Sequence[Path]) -> str:
    """What dicom3tools says about the consistency of several files; nothing if they agree."""
    done = subprocess.run(["dcentvfy", *paths], check=False, capture_output=True, text=True, timeout=60)
    return (done.stdout + done.stderr).strip()


def dicom_validator(ds: Dataset) -> list[str]:
    """What dicom-validator finds, conditions, enumerated values and value representations included.

    Its tables here are of 2020, like dciodvfy's (see standard.py), and what the standard has gained since is no error.
    """
    result = IODValidator(ds, standard_of(ds.SOPClassUID), error_handler=NullValidationResultHandler()).validate()
    assert result.status in (Status.Passed, Status.Failed), result.status
    return [
        f"{module}: {keyword_for_tag(tag.tag)} {ValidationResultFormatter().error_message(error).strip()}"
        for module, errors in result.module_errors.items()
        for tag, error in errors.items()
        if not (error.code == ErrorCode.TagUnexpected and _is_newer(keyword_for_tag(tag.tag), ds))
    ]


def _is_newer(keyword: str, ds: Dataset) -> bool:
    return keyword == "SyntheticData" or (ds.SOPClassUID == SecondaryCaptureImageStorage and keyword in _PLANE)


def not_in_iod(ds: Dataset) -> tuple[list[str], list[str]]:
    """Type 1 and 2 attributes that are missing (or empty), and top-level ones outside the IOD, by highdicom's tables.

    The tables are of a newer edition than dciodvfy's. They know no conditions, so only mandatory modules count.
    """
    tables = _highdicom_tables()
    iod = tables["sop_class_iod_map"][ds.SOPClassUID]
    missing, known = [], set()
    for module in tables["iod_module_map"][iod]:
        for entry in tables["module_attribute_map"][module["key"]]:
            if entry["path"]:
                continue
            known.add(entry["keyword"])
            if module["usage"] != "M":
                continue
            absent = entry["keyword"] not in ds
            if (entry["type"] == "1" and (absent or ds[entry["keyword"]].is_empty)) or (
                entry["type"] == "2" and absent
            ):
                missing.append(entry["keyword"])
    return missing, [element.keyword for element in ds if element.keyword not in known]


@lru_cache(maxsize=1)
def _highdicom_tables() -> dict[str, Any]:
    spec = importlib.util.find_spec("highdicom")
    folder = Path(spec.origin).parent / "_standard" if spec and spec.origin else Path("absent")
    names = ("sop_class_iod_map", "iod_module_map", "module_attribute_map")
    if not all((folder / f"{name}.json").is_file() for name in names):
        pytest.skip("highdicom's tables of the standard are not installed")
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in names}


class Orthanc:
    """A running server, spoken to over HTTP."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def get(self, path: str) -> Any:
        return json.loads(self.download(path))

    def download(self, path: str) -> bytes:
        with urllib.request.urlopen(self.url + path, timeout=20) as answer:
            return answer.read()

    def store(self, path: Path) -> dict[str, Any]:
        request = urllib.request.Request(self.url + "/instances", data=path.read_bytes(), method="POST")
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)


@contextmanager
def orthanc(folder: Path) -> Iterator[Orthanc]:
    """Orthanc on the loopback, HTTP only: its DICOM port would be open to the network."""
    port = _free_port()
    configuration = {
        "HttpPort": port,
        "DicomServerEnabled": False,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "Plugins": [],
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "index"),
    }
    folder.mkdir()
    (folder / "orthanc.json").write_text(json.dumps(configuration))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            ["Orthanc", str(folder / "orthanc.json")], stdout=log, stderr=log, start_new_session=True
        )
    try:
        server = Orthanc(port)
        _wait_for(server, process)
        yield server
    finally:
        process.send_signal(signal.SIGKILL)  # it takes seconds to end by itself, and its storage is thrown away
        process.wait()


def _wait_for(server: Orthanc, process: subprocess.Popen[bytes]) -> None:
    for _ in range(200):
        try:
            server.get("/system")
            return
        except (urllib.error.URLError, ConnectionError):
            assert process.poll() is None, "Orthanc ended at once"
            time.sleep(0.05)  # there is nothing to wait on but its port
    raise AssertionError("Orthanc did not answer within 10 s")


@contextmanager
def dcmtk_receiver(folder: Path) -> Iterator[int]:
    """dcmtk's storage server; yields its port."""
    folder.mkdir()
    port = _free_port()
    process = subprocess.Popen(
        ["storescp", "-od", folder, str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(200):
            if subprocess.run(["echoscu", "127.0.0.1", str(port)], check=False, capture_output=True).returncode == 0:
                break
            assert process.poll() is None, "storescp ended at once"
            time.sleep(0.05)  # there is nothing to wait on but its port
        yield port
    finally:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def read_series(folder: Path) -> list[Dataset]:
    """All files of a folder, in the order of their names."""
    return [dcmread(path) for path in sorted(folder.iterdir())]
