"""A MONAI chain that loads two volumes of one patient, fuses them, and saves the result.

python examples/fuse_and_save.py mri.nii.gz ct.nii.gz out
"""

from __future__ import annotations

import argparse

from monai.transforms import Compose, LoadImaged, SaveImaged

from ddfm_monai import DDFMFused
from ddfm_monai.settings import DEFAULT_PRIOR


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("reference", help="the volume that gives the grid, usually the MRI")
    parser.add_argument("second", help="CT, PET, SPECT or another MRI")
    parser.add_argument("output_dir")
    parser.add_argument("--prior", default=DEFAULT_PRIOR, help="a known prior or a weight file")
    arguments = parser.parse_args()
    keys = ("reference", "second")
    chain = Compose(
        [
            LoadImaged(keys, ensure_channel_first=True),
            DDFMFused(keys, output_key="fused", prior=arguments.prior),
            SaveImaged("fused", output_dir=arguments.output_dir, output_postfix="fused", separate_folder=False),
        ]
    )
    result = chain({"reference": arguments.reference, "second": arguments.second})
    print("fused", tuple(result["fused"].shape), "in", arguments.output_dir)


if __name__ == "__main__":
    main()
