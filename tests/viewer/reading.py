"""What stands in a page, read without the page's own program."""

from __future__ import annotations

import base64
import gzip
import json
import re
from typing import Any

import nibabel as nib
import numpy as np


def about(page: str) -> dict[str, Any]:
    """What the page's program is told."""
    found: dict[str, Any] = json.loads(re.search(r'id="about">(.*?)</script>', page, re.S)[1])
    return found


def volume(page: str, role: str) -> nib.Nifti1Image:
    """The NIfTI file that the page holds of a volume."""
    packed = re.search(rf'id="layer-{role}">(.*?)</script>', page, re.S)[1]
    return nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(packed)))


def values(page: str, role: str) -> np.ndarray:
    """Its values in their units, NaN where there are none."""
    image, layer = volume(page, role), about(page)["layers"][role]
    stored = np.asanyarray(image.dataobj.get_unscaled())
    return np.where(stored == layer["unseen"], np.nan, stored * layer["slope"] + layer["intercept"])
