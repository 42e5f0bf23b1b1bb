"""The page: volumes, their account and the viewer in one HTML document that asks for nothing from outside."""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import numpy as np
from monai.data.meta_tensor import MetaTensor

from ddfm_monai._version import __version__
from ddfm_monai.viewer.layers import Layer, fused_layer, map_layer, page_shape, reduced, source_layer
from ddfm_monai.volume import is_picture, spacing_of
from ddfm_monai.volumes import Source
from ddfm_monai.volumes.colour import FLAG_COLOURS, colour_table
from ddfm_monai.volumes.grids import nearest_ras
from ddfm_monai.volumes.kind import titles_of

__all__ = ["part_of", "viewer_page"]

_SCRIPTS = ("niivue", "viewer")


def viewer_page(
    reference: Source,
    second: Source,
    fused: MetaTensor,
    provenance: Mapping[str, Any],
    *,
    transform: np.ndarray | None = None,
    uncertainty: MetaTensor | None = None,
    check: MetaTensor | None = None,
    point: Sequence[float] | None = None,
    doubts: Sequence[str] = (),
) -> str:
    """An HTML document in which a fusion and its sources can be compared.

    Nothing of a header, no path and no name gets into it, and of the provenance only what this package writes there.

    Args:
        reference, second: the sources as they were read, in their own units and on their own grids.
        fused: ``(1, X, Y, Z)`` in [0, 1], or ``(3, X, Y, Z)`` RGB in 0..255, on the reference's grid.
        provenance: how it was made; what is missing is not shown.
        transform: ``(4, 4)`` RAS mm, takes a point of the reference to the matching point of the second source.
        uncertainty, check: ``(1, X, Y, Z)``, maps on the same grid.
        point: RAS mm, where the planes cross at first; default: the middle.
        doubts: sentences that are shown at the top of the page.
    """
    shape = page_shape(fused)
    layers = {
        "reference": source_layer(reference, fused, shape, None),
        "second": source_layer(second, fused, shape, transform),
        "fused": fused_layer(fused, shape),
    }
    first, other = titles_of(reference.scaling.kind, second.scaling.kind)
    titles = {"reference": first, "second": other, "fused": "Fused"}
    if uncertainty is not None:
        layers["uncertainty"] = map_layer(uncertainty, shape)
    if check is not None:
        layers["check"] = map_layer(check, shape, flags=True)
    grid = reduced(fused, shape)
    _, affine = nearest_ras(grid)
    about = {
        "layers": {role: layer.describe() | {"title": titles.get(role, role)} for role, layer in layers.items()},
        "shape": list(layers["fused"].data.shape[:3]),
        "affine": affine.tolist(),
        "picture": is_picture(fused),
        "point": None if point is None else [float(x) for x in point],
        "colourMaps": {kind: colour_table(kind).tolist() for kind in ("pet", "spect")},
        "check": {name: list(colour) for name, colour in FLAG_COLOURS.items()},
    }
    return _document(
        title=f"{titles['reference']} and {titles['second']}, fused",
        about=about,
        layers=layers,
        size=_size(fused, grid),
        account=_account(provenance, titles),
        doubts=[*doubts, *(str(x) for x in provenance.get("warnings", []))],
    )


def part_of(provenance: Any, *keys: str) -> Any:
    """What stands in a provenance under these keys, one within the other; None where there is no such thing."""
    for key in keys:
        provenance = provenance.get(key) if isinstance(provenance, Mapping) else None
    return provenance


# --- what the page says ----------------------------------------------------------------------------------------------


def _size(fused: MetaTensor, grid: MetaTensor) -> str:
    def said(volume: MetaTensor) -> str:
        shape = volume.shape[1:3] if is_picture(fused) else volume.shape[1:]
        voxels = " × ".join(str(int(n)) for n in shape)
        if is_picture(fused):
            return f"{voxels} pixels"
        return f"{voxels} voxels of {' × '.join(f'{size:.3g}' for size in spacing_of(volume))} mm"

    if fused.shape[1:] == grid.shape[1:]:
        return f"Shown in full: {said(fused)}."
    return f"Reduced for this page: shown are {said(grid)}, the file has {said(fused)}."


def _account(provenance: Mapping[str, Any], titles: Mapping[str, str]) -> list[tuple[str, str]]:
    """Rows of the panel "How it was made": of the provenance, what this package writes there."""

    def found(*keys: str) -> Any:
        return part_of(provenance, *keys)

    rows: list[tuple[str, Any]] = []
    for role in ("reference", "second"):
        scaling = found(role, "scaling")
        if isinstance(scaling, Mapping):
            rows.append((titles[role], f"{scaling.get('decided')}; {scaling.get('source')}"))
        rows.append((f"{titles[role]}, SHA-256", found(role, "sha256")))
    rows += [
        ("Registration", found("registration", "sentence") or ("none" if "registration" in provenance else None)),
        ("Prior", found("prior", "name")),
        ("Prior, SHA-256", found("prior", "sha256")),
        ("Likelihood", found("likelihood", "name")),
        *((name.capitalize(), found("sampling", name)) for name in ("steps", "seed", "samples", "precision")),
        ("Software", f"ddfm-monai {found('software', 'ddfm_monai')}" if found("software", "ddfm_monai") else None),
    ]
    return [(name, str(value)) for name, value in rows if value is not None]


# --- the document ----------------------------------------------------------------------------------------------------


def _document(
    title: str,
    about: dict[str, Any],
    layers: Mapping[str, Layer],
    size: str,
    account: Sequence[tuple[str, str]],
    doubts: Sequence[str],
) -> str:
    assets = files("ddfm_monai.viewer") / "assets"
    style = (assets / "viewer.css").read_text(encoding="utf-8")
    scripts = {
        "niivue": gzip.decompress((assets / "niivue.umd.js.gz").read_bytes()).decode(),
        "viewer": (assets / "viewer.js").read_text(encoding="utf-8"),
    }
    policy = (
        "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data: blob:; "
        f"style-src {_hash_of(style)}; script-src {' '.join(_hash_of(scripts[name]) for name in _SCRIPTS)}"
    )
    parts = {
        "title": html.escape(title),
        "policy": html.escape(policy, quote=True),
        "style": style,
        "size": html.escape(size),
        "doubts": "".join(f"<li>{html.escape(text)}</li>" for text in doubts),
        "account": "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>" for name, text in account),
        "version": html.escape(__version__),
        "about": json.dumps(about, allow_nan=False).replace("<", "\\u003c"),
        "layers": "".join(
            f'<script type="application/gzip" id="layer-{role}">{layer.encoded()}</script>\n'
            for role, layer in layers.items()
        ),
        "licences": html.escape((assets / "NIIVUE_LICENCES.txt").read_text(encoding="utf-8")),
        **scripts,
    }
    template = (assets / "page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template)


def _hash_of(text: str) -> str:
    """How a content security policy names the one script or style that may stand in the page."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
