"""What each metric says and what it rewards wrongly, for people: the report, the terminal and docs/metrics.md."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["FLAG_MEANINGS", "GLOSSARY", "WARNING", "Entry"]


class Entry(NamedTuple):
    """One metric.

    Attributes:
        title: the full name, with the unit.
        better: ``"higher"``, ``"lower"``, or ``""`` where neither is a merit by itself.
        meaning: one sentence.
        pitfall: what it rewards wrongly.
    """

    title: str
    better: str
    meaning: str
    pitfall: str


WARNING = (
    "The plain pixelwise maximum beats every published method on MI and SSIM, and none of these metrics asks whether a "
    "lesion that one source shows is still seen. Compare methods on the same pairs only, look at the pictures, and "
    "never choose a method by one column."
)

GLOSSARY = {
    "EN": Entry(
        "Entropy (bits)",
        "",
        "How evenly the fused picture uses its grey levels.",
        "Rises with noise, above all with noise in the background: a higher value is no merit.",
    ),
    "SD": Entry(
        "Standard deviation (grey levels)",
        "higher",
        "Contrast of the whole picture.",
        "Any contrast stretch raises it, and so does a bright source that covers the other.",
    ),
    "SF": Entry(
        "Spatial frequency (grey levels)",
        "higher",
        "Size of the steps between neighbouring pixels.",
        "Noise, ringing and seams raise it as well as detail.",
    ),
    "AG": Entry(
        "Average gradient (grey levels)",
        "higher",
        "Mean steepness of the picture.",
        "As for SF: noise and artefacts count as detail.",
    ),
    "MI": Entry(
        "Mutual information with both sources (nats)",
        "higher",
        "How well the fused grey level tells the sources' grey levels.",
        "Rewards copying one source: the maximum beats all published methods.",
    ),
    "SCD": Entry(
        "Sum of the correlations of differences (-2 to 2)",
        "higher",
        "Whether what is left after taking one source away looks like the other.",
        "Blind to local losses; a copy of one source counts as 0 for the other.",
    ),
    "VIF": Entry(
        "Visual information fidelity of both sources",
        "higher",
        "How much of the sources' local structure is in the fused picture, at four scales.",
        "Raising the contrast raises it, above 1 for a source even.",
    ),
    "Qabf": Entry(
        "Edge preservation (0 to 1)",
        "higher",
        "Whether the sources' edges keep strength and direction.",
        "Strong edges decide; a smooth lesion has none and may vanish unnoticed.",
    ),
    "CC": Entry(
        "Mean correlation with the sources (-1 to 1)",
        "higher",
        "Linear likeness to both sources.",
        "The mean of the sources is close to the best possible value, with half of the contrast.",
    ),
    "PSNR": Entry(
        "Peak signal to noise against both sources (dB)",
        "higher",
        "Closeness of the grey levels to both sources; the peak is the fused picture's own maximum.",
        "The mean of the sources is the best possible value: it rewards compromise, not fusion.",
    ),
    "SSIM_range2": Entry(
        "Structural similarity to both sources, range 2 (-2 to 2)",
        "higher",
        "As published tables have it: constants for values in [-1, 1], applied to 0..255.",
        "The black background decides: one grey level of noise there drops 1.38 to 0.57.",
    ),
    "SSIM_range255": Entry(
        "Structural similarity to both sources, range 255 (-2 to 2)",
        "higher",
        "As SSIM is meant for 8-bit pictures.",
        "Rewards copying one source; the background still counts fully.",
    ),
    "coherence": Entry(
        "Through-plane excess (share of the sources' change; 0 is best)",
        "lower",
        "What the fusion adds to the sources' change from slice to slice.",
        "A constant picture scores 0; adding details of both sources costs a little.",
    ),
    "hue_error": Entry(
        "Mean CIEDE2000 hue error against the colour source",
        "lower",
        "Whether colours keep their hue; below 1 cannot be seen.",
        "A picture that turned grey has no hue to differ by.",
    ),
}

FLAG_MEANINGS = {
    "invented": "Structure of a lesion's size that no local combination of the sources explains.",
    "missing": "A source shows something that does not come through as it does around.",
    "detail": "Texture of neither source, or none where a source has some.",
}
"""The kinds of flags of `check_fusion`; docs/trust.md says what they do not see."""
