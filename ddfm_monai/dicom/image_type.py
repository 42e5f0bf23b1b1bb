"""What Image Type says of an image: another kind than its neighbours, a localizer, computed from others."""

from __future__ import annotations

from ddfm_monai.dicom.errors import Problem

__all__ = ["exclusion_by_type", "is_projection", "kind_of_image"]

# Words of Image Type that mark an image computed from others (PS3.3 C.7.6.1.1.2, C.8.3.1.1.1, C.8.16.1.4, vendors'
# habits). A projection shows what lies elsewhere; the words of the second set mark none if the image says ORIGINAL.
PROJECTION_WORDS = {
    "PROJECTION", "MIP", "RGBMIP", "MINIP", "MNIP", "MAXIP", "MAX_IP", "MIN_IP", "MAXIMUM", "MINIMUM", "VRT",
    "VOLUME_RENDER", "SURFACE_RENDER",
}  # fmt: skip
RESLICED_OR_FLAVOUR_WORDS = {"MPR", "PERFUSION"}
MAP_WORDS = {
    "ADC", "EADC", "FA", "TRACE", "TRACEW", "CBF", "CBV", "MTT", "TTP", "TMAX", "RCBF", "RCBV", "RELCBF", "RELCBV",
    "UMAP", "MAT_SPECIFIC", "MAT_FRACTIONAL", "EFF_ATOMIC_NUM", "ELECTRON_DENSITY",
    "MAP", "SUB", "SUBTRACT", "SUBTRACTION", "PHASE",
}  # fmt: skip
DIXON = {"IN_PHASE", "OUT_PHASE", "OPP_PHASE", "IP", "OP", "WATER", "FAT", "W", "F"}


def kind_of_image(image_type: tuple[str, ...]) -> str:
    """What of Image Type says that an image is another one, not another slice."""
    telling = _words(image_type) & (PROJECTION_WORDS | RESLICED_OR_FLAVOUR_WORDS | MAP_WORDS | DIXON)
    localizer = ("LOCALIZER",) if _is_localizer(image_type) else ()
    return "/".join((*sorted(telling), *_component(image_type), *localizer))


def _is_localizer(image_type: tuple[str, ...]) -> bool:
    return any("LOCALIZER" in value for value in image_type)


def _component(image_type: tuple[str, ...]) -> tuple[str, ...]:
    """The part of a complex image that it shows: phase, real or imaginary; empty for any other image."""
    return image_type[2:3] if image_type[2:3] in (("P",), ("R",), ("I",)) else ()


def _words(image_type: tuple[str, ...]) -> set[str]:
    return {
        word for value in image_type for word in (value, *([] if value in DIXON else value.replace("_", " ").split()))
    }


def is_projection(image_type: tuple[str, ...]) -> bool:
    """Whether an image says that it is a projection (MIP and the like), which shows what does not lie in its slices."""
    return bool(_words(image_type) & PROJECTION_WORDS)


def exclusion_by_type(image_type: tuple[str, ...], modality: str) -> Problem | None:
    """Why an image of that Image Type (upper case) and Modality is no automatic candidate, or None."""
    words = _words(image_type)
    found = "Image Type is " + "\\".join(image_type)
    if _is_localizer(image_type):
        return Problem("S_LOCALIZER", found)
    if words & (PROJECTION_WORDS | MAP_WORDS):
        return Problem("S_DERIVED", found)
    if words & RESLICED_OR_FLAVOUR_WORDS and image_type[0] != "ORIGINAL":
        return Problem("S_DERIVED", found)
    if modality == "MR" and _component(image_type):
        return Problem("S_DERIVED", found)
    return None
