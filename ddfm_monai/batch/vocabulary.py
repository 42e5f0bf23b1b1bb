"""Series Description without patient data: the words that describe an acquisition, and nothing else.

A description is free text, and names, dates and numbers of patients stand in some. So the words are not searched for
what is private; only words of the trade pass, and for all others stands one ``...``.
"""

from __future__ import annotations

import re

__all__ = ["safe_description"]

_WORDS = """
2d 3d 4d abd abdomen abi ac acq acquisition adc aif amyloid and angio angiography arm arterial ase asl attenuation
av ax axial b0 b1000 b500 bh blade body bold bolus bone brain bravo breast bw c c11 carotid cbf cbv ce cerebral
cervical chest ciss cit contrast cor coronal corr corrected cran cranial cranium csf ct cta ctac cube cup d3d
datscan dce dedicated delay delayed diff diffusion dir dixon dl dopa dsc dti dual dwi dyn dynamic early ec ecd echo
emission enhanced ep ep2d epi ext extremity eye f18 face fast fat fatsat fbp fdg femur fet ffe fgre field fiesta
filter fl2d fl3d flair flash flt fluid fmri fossa fov fp frame fs fse fspgr ga68 gad gado gated gating gd gr grase
gre haste hd head helical hip hires hirn hmpao i123 iac in inner inplane inv ir iso isotropic iv ivim kidney km knee
kontrast kopf lat late lava le leg limb liver loc localiser localizer low lower lt lumbar lung lv map max mdc mean
medium min mip moco mp2rage mpr mprage mr mra mri mrv mt mtc multi nac nasal nativ native neck nect nm noac non
nonac o2 obl oblique optic orbit orbits osem out pcasl pd pdw pelvis perf perfusion pet petct petmr phase pib pitch
pituitary plain planar plane portal post posterior pre precontrast prone propeller proton psf pt pulmonary quick r
radial rage rapid recon reconstruction ref reference reformat resolution rest resting rt rtp sag sagittal sat scan
schaedel scout se sense sequence series sft short shoulder sinus skull slice slices small soft space spair spect
spectroscopy spgr spin spine spir spiral ss ssfse standard star static std stir stress study sub supine survey suv
swan swi t t1 t1ce t1gd t1w t2 t2flair t2s t2star t2w tau tc99m tdi te temp temporal terrain thick thigh thin
thoracic thorax thrive ti tilt time tirm tissue tof top tr tra trace trans transverse trig truefisp trufi tse ttp
tumor tumour turbo ultra unenhanced uni upper ute v venous vent vibe view vista vol volume w w1 wb wc weighted whole
wholebody wip with without wo
"""
_KNOWN = frozenset(_WORDS.split())
_SIZE = re.compile(r"\d{1,2}([.,]\d{1,2})?mm|[bhijuqt][a-z]?\d{2}[a-z]?|\d{1,2}x\d{1,2}|\d{1,3}([.,]\d)?%", re.I)
"""Slice thickness, CT kernels, matrices, phases of a cycle. A number alone may be a part of a date."""

_WORD = re.compile(r"\d+(?:[.,]\d+)?(?:%|[a-z]*\d*)|[a-z]+[a-z0-9]*", re.I)


def safe_description(description: str) -> str:
    """The words of a Series Description that name an acquisition; ``...`` for every run of others.

    >>> safe_description("T1 MPRAGE sag 1.0mm Smith 19700131")
    'T1 MPRAGE sag 1.0mm ...'
    """
    shown: list[str] = []
    for word in _WORD.findall(re.sub(r"(\d)\s+(?=mm\b)", r"\1", description)):
        known = word.lower() in _KNOWN or _SIZE.fullmatch(word)
        if known or shown[-1:] != ["..."]:
            shown.append(word if known else "...")
    return " ".join(shown)
