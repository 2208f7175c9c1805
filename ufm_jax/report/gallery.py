"""The report's pictures: reconstructions, texture masks and the clients' first images."""

from collections.abc import Mapping

import numpy as np

from ufm_jax.objectives.pictures import Pictures
from ufm_jax.report.images import (
    data_uri,
    heat_colours,
    heat_map,
    hidden_by_texture,
    kept_patches,
    picture,
)
from ufm_jax.report.markup import Markup, element
from ufm_jax.report.numbers import percent, significant
from ufm_jax.report.reconstruction_png import COLUMNS
from ufm_jax.report.sections import section

_MOST_EXAMPLES, _MOST_TEXTURES, _MOST_THUMBNAILS = 8, 4, 64
_LONGEST, _THUMBNAIL = 256, 128


def reconstructions(pictures: Pictures) -> Markup:
    """Rows of kept patches, reconstruction and original."""
    total = len(pictures.captions)
    rows = [
        _strip(
            [(heading, getattr(pictures, name)[index]) for name, heading in COLUMNS],
            pictures.captions[index],
        )
        for index in range(min(total, _MOST_EXAMPLES))
    ]
    text = (
        "Whole pictures, of those that are held out where there are any. The encoder sees the "
        "patches on the left; the reconstruction is the model’s output where patches were hidden, "
        "the original elsewhere." + _shown(len(rows), total, "examples")
    )
    return section("Reconstructions", element("p", text), element("div", *rows, class_="strips"))


def textures(pictures: Pictures) -> Markup:
    """Rows of original, texture score and the patches that were kept."""
    least, most = hidden_by_texture(pictures.texture_score, pictures.mask)
    shown = min(len(pictures.captions), _MOST_TEXTURES)
    rows = []
    for index in range(shown):
        clean, score = pictures.clean[index], pictures.texture_score[index]
        top = float(score.max()) or 1.0
        panels = [
            ("original", clean),
            (f"texture, 0 to {significant(top)}", heat_map(clean, score, top)),
            ("kept patches", kept_patches(clean, pictures.mask[index])),
        ]
        rows.append(_strip(panels, pictures.captions[index]))
    text = (
        f"Hidden in these {len(pictures.captions)} images: {percent(pictures.mask.mean())} of all "
        f"patches, {percent(least)} of the least and {percent(most)} of the most textured quarter."
    )
    ramp = data_uri(heat_colours(np.linspace(0, 1, 64))[None], 64)
    scale = element(
        "p", "low texture ", element("img", src=ramp, alt="", class_="ramp"), " high", class_="note"
    )
    return section(
        "Texture and masks", element("p", text), element("div", *rows, class_="strips"), scale
    )


def montage(thumbnails: Mapping[str, np.ndarray]) -> Markup:
    """One picture a client."""
    shown = list(thumbnails.items())[:_MOST_THUMBNAILS]
    cells = []
    for client, image in shown:
        thumbnail = picture(image, f"first image of {client}", _THUMBNAIL)
        name = element("figcaption", client, title=client)
        cells.append(element("figure", thumbnail, name))
    text = "The first image of each client." + _shown(len(shown), len(thumbnails), "clients")
    return section("Clients’ images", element("p", text), element("div", *cells, class_="montage"))


def no_pictures() -> Markup:
    """A section that says that the run made no pictures."""
    return section("Reconstructions", element("p", "No pictures were made in this run."))


def _strip(panels: list[tuple[str, np.ndarray]], caption: str) -> Markup:
    cells = [
        element("div", picture(image, f"{heading}, {caption}", _LONGEST), element("span", heading))
        for heading, image in panels
    ]
    return element(
        "figure",
        element("figcaption", caption),
        element("div", *cells, class_="panels"),
        class_="strip",
    )


def _shown(shown: int, total: int, noun: str) -> str:
    return f" The first {shown} of {total:,} {noun} are shown." if shown < total else ""
