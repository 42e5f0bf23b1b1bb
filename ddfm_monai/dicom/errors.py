"""Every code that the DICOM room can answer with, and its text for the person who operates it.

Codes start with ``E_`` (the data cannot be used: the case or file is refused), ``S_`` (left out by a rule: nothing is
broken, but nothing is fused automatically either) or ``W_`` (used, with a remark). ``EXPLANATIONS`` is the only place
where their texts live; `docs/dicom.md` lists it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ddfm_monai import rules
from ddfm_monai.errors import Explanation, InputError

__all__ = ["EXPLANATIONS", "DicomError", "Explanation", "Problem"]


EXPLANATIONS: dict[str, Explanation] = {
    # One file.
    "E_HEADER": Explanation(
        "A DICOM file's header cannot be read, or an attribute in it has a value that is not allowed.",
        "a header that follows the DICOM standard",
        "Export the series again from its source; a copy that was interrupted is the usual cause.",
    ),
    "E_EMPTY_FILE": Explanation(
        "The file has no bytes, or nothing but zeros.",
        "a DICOM file",
        "Export the series again if the file belongs to it.",
    ),
    "E_UNREADABLE_FILE": Explanation(
        "The operating system does not let the file be read.",
        "a readable file",
        "Check the permissions and the disk, then scan again.",
    ),
    "S_NOT_DICOM": Explanation("The file is not DICOM.", "a DICOM file", "Nothing to do: other files are passed over."),
    "S_ARCHIVE": Explanation(
        "The file is an archive (zip, gzip, tar, 7z...).", "unpacked files", "Unpack it and scan again."
    ),
    "S_DICOMDIR": Explanation(
        "The file is a DICOMDIR, a table of contents.",
        "image files",
        "Nothing to do: every file is looked at, whether the DICOMDIR lists it or not.",
    ),
    "S_SOP_CLASS": Explanation(
        "The object is not an MR, CT, PET or NM image (a report, a plan, a segmentation, a picture...).",
        "MR, CT, PET or NM Image Storage, or their enhanced multi-frame forms",
        "Nothing to do.",
    ),
    "S_OUTSIDE_ROOT": Explanation(
        "A symbolic link leads out of the scanned folder, or back into a folder that is scanned anyway.",
        "files inside the scanned folder",
        "Scan the folder that the link points to.",
    ),
    # One sub-series: geometry.
    "E_NO_GEOMETRY": Explanation(
        "Image Position (Patient) or Image Orientation (Patient) is missing or is not a valid position or orientation.",
        "both attributes in every slice, the orientation being two perpendicular unit vectors",
        "Export the original series instead of a secondary capture or screenshot.",
    ),
    "E_NO_PIXEL_SPACING": Explanation(
        "Pixel Spacing is missing or not positive.",
        "Pixel Spacing in every slice, two positive numbers in mm",
        "Export the original series; Imager Pixel Spacing is not used, because it is not a size in the patient.",
    ),
    "E_SINGLE_SLICE": Explanation(
        "There is one slice only.", "a volume of at least two slices", "Export the whole series."
    ),
    "E_MISSING_SLICES": Explanation(
        "At least one slice between the first and the last is missing.",
        "equally spaced slices without a gap",
        "Export the series again; if the slice was never acquired, the series cannot be used.",
    ),
    "E_IRREGULAR_SPACING": Explanation(
        "The slices are not equally spaced along one straight line.",
        "spacing constant to 1 % and 0.01 mm over the whole stack",
        "Use a reconstruction with constant spacing. A series whose slices touch can be the second of a pair as it is; "
        "to make it the reference, convert it with dcm2niix and take the file that ends in _Eq.",
    ),
    "E_DUPLICATE_POSITION": Explanation(
        "Several different slices lie at the same position and no attribute tells them apart.",
        "one slice per position, or an echo, time, b-value or acquisition number that separates them",
        "Export only the volume that is wanted.",
    ),
    "E_PIECES": Explanation(
        "Slices lie like one volume but differ in an attribute, and no rule says whether they are one or several.",
        "one value for all slices of a volume, or volumes that each make a regular stack",
        "Export each volume as a series of its own; if all slices are one volume, convert them with dcm2niix -m 1 and "
        "fuse the NIfTI file.",
    ),
    "E_FRAMES_OF_REFERENCE": Explanation(
        "Slices lie like one volume but have different Frame of Reference UIDs: their positions are unrelated.",
        "one Frame of Reference UID for all slices of a volume",
        "Export the series again from its source without the de-identification that gave every slice a UID of its own.",
    ),
    "E_SERIES_PER_SLICE": Explanation(
        "Slices that lie like one volume have different Series Instance UIDs, each its own or each part its own.",
        "one Series Instance UID for all slices of a volume",
        "Export the series again from its source, without the de-identification that gave each slice a UID of its own; "
        "or, if the scanner did that, convert the slices together with dcm2niix -m 1 and fuse the NIfTI file.",
    ),
    "E_SEVERAL_OWNERS": Explanation(
        "Slices of one series lie like one volume, but some carry another Patient ID, issuer or Study Instance UID.",
        "one patient and one study in all slices of a series",
        "Find out which is right, correct the other slices at their source (a correction may have reached some of them "
        "only), and export the series again.",
    ),
    "E_DUPLICATE_INSTANCE": Explanation(
        "Two files carry the same SOP Instance UID but different pixels.",
        "one instance per SOP Instance UID",
        "Find out which copy is right and remove the other from the export.",
    ),
    "E_GANTRY_TILT": Explanation(
        "The slices are stacked obliquely (gantry tilt), so the grid is sheared.",
        "slices stacked along their normal, for the series whose grid the result takes",
        "Use the tilted series as the second of the pair, or correct the tilt first.",
    ),
    "E_MOSAIC": Explanation(
        "The image is a mosaic: many slices as tiles of one picture (Siemens mosaic, UIH grid).",
        "one slice per image, or an enhanced multi-frame image",
        "Export the series as enhanced DICOM, or convert it with dcm2niix and fuse the NIfTI file.",
    ),
    "E_NOT_TOMOGRAPHIC": Explanation(
        "The NM image is not a reconstructed tomographic volume.",
        "Image Type value 3 RECON TOMO or RECON GATED TOMO",
        "Export the reconstructed slices, not the projections or the planar image.",
    ),
    "E_TOO_LARGE": Explanation(
        "The volume has more voxels than allowed.",
        "at most 500 million voxels",
        "Export a part of the series, or a coarser reconstruction.",
    ),
    # One sub-series: pixels.
    "E_COLOUR": Explanation(
        "The image is in colour (RGB, YBR or palette).",
        "MONOCHROME1 or MONOCHROME2 with one sample per pixel",
        "Export the original grey images; a coloured copy holds no measured values.",
    ),
    "E_PIXEL_DATA": Explanation(
        "Pixel Data is missing, shorter or longer than the header says, or cannot be decoded.",
        "Pixel Data of Rows x Columns x Number of Frames",
        "Export the file again; an interrupted copy is the usual cause.",
    ),
    "E_DECODER": Explanation(
        "The Transfer Syntax (compression) cannot be decoded with what is installed.",
        "an uncompressed syntax, RLE, or a JPEG family syntax with its decoder installed",
        "Run: pip install python-gdcm pylibjpeg pylibjpeg-openjpeg pyjpegls. Or export uncompressed.",
    ),
    "E_MODALITY_LUT": Explanation(
        "The values are defined by a Modality LUT Sequence instead of Rescale Slope and Rescale Intercept.",
        "Rescale Slope and Rescale Intercept, or neither",
        "Export the original images.",
    ),
    "E_RESCALE": Explanation(
        "Some slices of the volume lack Rescale Slope or Rescale Intercept, which the others have.",
        "both in every slice of a volume, or in none",
        "Export the series again from its source: without them nobody can say what the values of these slices are.",
    ),
    "E_NOT_FINITE": Explanation(
        "After rescaling, the volume holds NaN or infinite values.",
        "finite values",
        "Check Rescale Slope and Rescale Intercept of the named file.",
    ),
    "E_CHANGED": Explanation(
        "A file is not the one that was scanned.",
        "files that stay as they are between scan and run",
        "Scan again, then run.",
    ),
    # A folder or file given as one image.
    "E_NO_SERIES": Explanation(
        "The folder holds no series that can be read as a volume.",
        "one MR, CT, PET or NM series",
        "See the reasons listed; `ddfm dicom scan` lists every file.",
    ),
    "E_SEVERAL_SERIES": Explanation(
        "The folder holds several volumes: several series, or several acquisitions, echoes or phases in one.",
        "exactly one",
        "Give a folder with one of them, or put both sources into one folder: `ddfm dicom scan FOLDER -o pairs.csv`, "
        "set the status of the wanted row to 'run', then `ddfm dicom run FOLDER -o OUTPUT --pairs pairs.csv`.",
    ),
    # Pairing.
    **rules.EXPLANATIONS,
    "E_REGISTRATION": Explanation(
        "The Spatial Registration object cannot be used.",
        "rigid or affine matrices that can be inverted and do not mirror",
        "Register again, or run with --register rigid.",
    ),
    "S_CLOSER_RELATION": Explanation(
        "One of the two series already has a partner that needs no registration, or less of it.",
        "-",
        "List the pair in the manifest if this one is meant.",
    ),
    "S_LOCALIZER": Explanation(
        "A localizer (scout).", "a diagnostic series", "Nothing to do; a manifest may still name it."
    ),
    "S_FEW_SLICES": Explanation("Fewer than four slices.", "a volume", "Nothing to do; a manifest may still name it."),
    "S_STRAY_SLICES": Explanation(
        "A minority of the series differs in size, orientation or type from the rest and was set apart.",
        "one consistent series",
        "Look whether the slices set apart belong to the volume; a manifest may still name them.",
    ),
    "S_SEVERAL_ORIENTATIONS": Explanation(
        "The series has several orientations and none holds the majority (three-plane scout, radial series).",
        "one orientation per series",
        "Name the wanted sub-series in the manifest.",
    ),
    "S_DERIVED": Explanation(
        "A derived image (MIP, MPR, projection, parameter map, ADC...) or an attenuation map.",
        "an original or reconstructed image",
        "Name it in the manifest if it is meant.",
    ),
    "S_OWN_OUTPUT": Explanation("A result of ddfm_monai itself.", "an acquired series", "Nothing to do."),
    "S_NO_PARTNER": Explanation(
        "The patient has no series of the other kind that can be used.",
        "one MR and one of CT, PET or NM of the same patient",
        "Export the other series too, with the same Patient ID.",
    ),
    "S_AMBIGUOUS": Explanation(
        "Several series could be the one, and none was chosen.",
        "one candidate of each kind per patient and frame of reference",
        "Set the status of the wanted row to 'run' in the manifest, or pass --select best or --select all.",
    ),
    "S_NOT_CHOSEN": Explanation(
        "Another candidate was preferred (--select best).",
        "T1, then 3-D, then most slices, then smallest voxels",
        "Set the status of the row to 'run' in the manifest if this one is meant.",
    ),
    # Manifest.
    "E_MANIFEST": Explanation(
        "The manifest cannot be used.",
        "the columns that `ddfm dicom scan -o pairs.csv` writes, UIDs as text",
        "Write it anew with `ddfm dicom scan` and edit only status, relation, reg_sop_uid and output_kind.",
    ),
    "E_UNKNOWN_UID": Explanation(
        "The manifest names a series, sub-series or registration object that is not in the scanned folder.",
        "UIDs that a scan of the same folder finds",
        "Scan again, or correct the UID; spreadsheet programs may have changed it.",
    ),
    # One case of a batch.
    "E_OUTPUT_EXISTS": Explanation(
        "The case's folder exists and holds a result of other inputs, settings or weights, or is damaged.",
        "no folder, or a finished result of the same inputs, settings and weights (which is kept)",
        "Choose another output folder, or pass --overwrite.",
    ),
    "E_WRITE": Explanation(
        "The fused volume does not fit the base's slices.",
        "one fused slice per slice of the base",
        "Report this as a bug, with the log of the case.",
    ),
    "E_VERIFY": Explanation(
        "A file read back from the disk differs from what was written.",
        "equal pixels, positions and UIDs",
        "Check the disk (full, failing, network share), then run again.",
    ),
    "E_DISK": Explanation(
        "The operating system refused to read or write a file.",
        "a readable input and a writable output with enough space",
        "Check space, permissions and the network share, then run again: finished cases are kept.",
    ),
    "E_OUT_OF_MEMORY": Explanation(
        "The memory of the computer or of the GPU was not enough, even for one slice at a time.",
        "8 GB for volumes of 512 x 512 x 400",
        "Close other programs, or run with --device cpu.",
    ),
    "E_WORKER_LOST": Explanation(
        "The worker of a cluster was lost every time that it ran this case.",
        "a worker that lives until the case is done",
        "See the worker's own log (often its memory limit); run again: finished cases are kept.",
    ),
    "E_INTERNAL": Explanation(
        "An error that was not foreseen.", "-", "Report this as a bug, with the log of the case."
    ),
    # Remarks on volumes that are used.
    "W_DUPLICATE_INSTANCE": Explanation(
        "The same slice was found more than once.",
        "one copy",
        "Nothing to do: copies are compared when they are read; if their pixels are equal, one is used, else none.",
    ),
    "W_MIXED": Explanation(
        "An attribute that often sets volumes apart differs between slices of this volume.",
        "one value",
        "Check that the slices are of one volume.",
    ),
    "W_UNEVEN": Explanation(
        "The distance between slices changes along the stack; an even grid was interpolated between the slices.",
        "equally spaced slices",
        "Nothing to do: it can be the second of a pair, not the reference.",
    ),
    "W_DERIVED": Explanation(
        "The only series given is a derived image (MPR, parameter map...).",
        "an original image",
        "Check that it is the one that is meant.",
    ),
    "W_NO_SLICE_VECTOR": Explanation(
        "Slice Vector is missing; there are as many frames as slices, and they were taken in their order.",
        "a Slice Vector",
        "Check that the volume is not upside down.",
    ),
    "W_MONOCHROME1": Explanation(
        "Photometric Interpretation is MONOCHROME1 (display low values bright).",
        "MONOCHROME2",
        "Nothing to do. Values of CT, PET and NM are used as measured; MR, which has no unit, is inverted for display.",
    ),
    "W_SPACING_CONTRADICTS": Explanation(
        "Spacing Between Slices contradicts the slice positions.",
        "equal values",
        "Nothing to do: the positions are used.",
    ),
    "W_BROKEN_NEIGHBOUR": Explanation(
        "A file in the same folder could not be read; it may belong to this series.",
        "readable files only",
        "Check that the series is complete.",
    ),
    "W_FEWER_SLICES": Explanation(
        "The header names more slices, or another volume of the same series has slices at more places.",
        "as many slices in each acquisition, phase or time point",
        "Check that this is the volume that is meant, and that nothing of it is missing.",
    ),
    "W_STRAY_SLICES": Explanation(
        "Slices that differ in size, orientation or type were set apart from this series.",
        "one consistent series",
        "Check that the volume is complete.",
    ),
    "W_CHARSET": Explanation(
        "Text in the header is not in the character set that the header declares.",
        "a correct Specific Character Set",
        "Nothing to do: the text is kept as it can be read.",
    ),
    "W_NO_PREAMBLE": Explanation(
        "The file lacks the DICOM preamble.", "a file of PS3.10", "Nothing to do: the header could be read."
    ),
    "W_PADDING": Explanation("Pixels marked as padding were set to the background value.", "-", "Nothing to do."),
}


@dataclass(frozen=True)
class Problem:
    """One finding: a code of ``EXPLANATIONS``, what was found this time, and where.

    Args:
        code: a key of ``EXPLANATIONS``.
        found: what was found, without patient data and without the path, not ending in a full stop.
        path: the file it was found in, if it is one file.
    """

    code: str
    found: str
    path: Path | None = None

    def __post_init__(self) -> None:
        if self.code not in EXPLANATIONS:
            raise KeyError(self.code)

    def text(self, show_path: bool = True) -> str:
        """The sentence for people: file, found, expected, what to do. Paths can name patients: they can be left out."""
        explanation = EXPLANATIONS[self.code]
        where = f"{self.path}: " if show_path and self.path is not None else ""
        return f"{where}{self.found}. Expected: {explanation.expected}. {explanation.remedy}"

    def error(self) -> DicomError:
        """The exception that carries this problem."""
        return DicomError(self)


class DicomError(InputError):
    """A DICOM file, series or pair that cannot be used.

    ``code`` is one of ``EXPLANATIONS``, ``problem`` the whole finding; ``problem.text(show_path=False)`` is the message
    without the path.
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.text(), problem.code)
        self.problem = problem

    def __reduce__(self) -> tuple[type[DicomError], tuple[Problem]]:
        # Exceptions are rebuilt from their arguments when they cross a process border (Dask).
        return type(self), (self.problem,)
