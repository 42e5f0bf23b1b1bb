"""How fast a DICOM folder is scanned, and with how much memory.

    python benchmarks/dicom_scan.py [--instances 10000] [--elements 150]

Makes a folder of small CT and MR slices of many patients (one folder, shuffled names, no extensions; each header has
about as many elements as scanners write), scans it in a process of its own and prints files per second and that
process's peak memory.
"""

from __future__ import annotations

import argparse
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

SLICES = 100
SOP_CLASS = {"CT": "1.2.840.10008.5.1.4.1.1.2", "MR": "1.2.840.10008.5.1.4.1.1.4"}


def template(modality: str, elements: int) -> Dataset:
    """A 64 x 64 slice whose header has about ``elements`` elements."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = SOP_CLASS[modality]
    ds.Modality, ds.ImageType = modality, ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.StudyDate, ds.StudyTime, ds.SeriesDescription = "20240105", "101500", f"{modality} head"
    ds.ImageOrientationPatient, ds.PixelSpacing, ds.SliceThickness = [1, 0, 0, 0, 1, 0], [1, 1], 2
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.Rows, ds.Columns = 1, "MONOCHROME2", 64, 64
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.PixelData = bytes(64 * 64 * 2)
    block = ds.private_block(0x0029, "FILLER", create=True)
    for number in range(max(0, min(200, elements - len(ds)))):
        block.add_new(number, "LO", "some private text")
    return ds


def make(folder: Path, instances: int, elements: int) -> None:
    """Write series of 100 slices, a CT and an MR for each patient, all files in one folder."""
    names = list(range(instances))
    random.Random(0).shuffle(names)
    for index, name in enumerate(names):
        series, z = divmod(index, SLICES)
        if z == 0:
            ds = template("CT" if series % 2 == 0 else "MR", elements)
            ds.PatientID = ds.PatientName = f"P{series // 2}"
            ds.StudyInstanceUID = generate_uid(entropy_srcs=[ds.PatientID])
            ds.FrameOfReferenceUID = generate_uid(entropy_srcs=[ds.PatientID, "frame"])
            ds.SeriesInstanceUID = generate_uid()
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        ds.ImagePositionPatient, ds.InstanceNumber = [0, 0, 2 * z], z + 1
        ds.save_as(folder / f"{name:06}", enforce_file_format=True)


def scan(folder: Path) -> None:
    """Scan and pair, and print the figures of this process."""
    from ddfm_monai.batch.pairing import find_pairs
    from ddfm_monai.dicom import scan_folder

    start = time.perf_counter()
    found = scan_folder(folder)
    seconds, cpu = time.perf_counter() - start, time.process_time()
    start = time.perf_counter()
    pairs = find_pairs(found).pairs
    pairing = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"| files | series | pairs | scan, s | files/s | files/CPU s | pairing, s | peak memory, MB |\n|{' --- |' * 8}"
    )
    print(
        f"| {found.files} | {len(found.subseries)} | {len(pairs)} | {seconds:.1f} | {found.files / seconds:.0f} "
        f"| {found.files / cpu:.0f} | {pairing:.2f} | {peak:.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=10000)
    parser.add_argument("--elements", type=int, default=150)
    parser.add_argument("--scan", type=Path, help="scan this folder instead of making one")
    options = parser.parse_args()
    if options.scan:
        scan(options.scan)
        return
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), options.instances, options.elements)
        subprocess.run([sys.executable, __file__, "--scan", folder], check=True)


if __name__ == "__main__":
    main()
