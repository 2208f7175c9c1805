"""Prepares data: a hospital's files, public sets, ArrayRecord files, or simulated folders.

    python -m tools.prepare_data phantoms --out FOLDER
    python -m tools.prepare_data scans --out FOLDER
    python -m tools.prepare_data hospital --in FILES --out FOLDER
    python -m tools.prepare_data tfds --set busi --source DOWNLOAD --out FOLDER
    python -m tools.prepare_data array_record --source folders --root ROOT --out FOLDER

``phantoms`` writes folders like one's own, and ``scans`` DICOM and clips, to try every command on.
``hospital`` writes DICOM, clips, NIfTI and pictures as PNG in which what lies outside the scan is
black, with an index.csv that names nobody and a page to look at before anything leaves the site;
the key in ~/.config/ufm_jax stays. Train on these with ``data.source='index'``, on the others with
``'tfds'`` or ``'array_record'``, and ``data.root=FOLDER``.
"""

import argparse
import sys
from collections.abc import Sequence

from tools.hospital.export import Request, export
from tools.hospital.page import reasons, render
from tools.hospital.simulated import write_scans
from ufm_jax.bars import progress_bar
from ufm_jax.config.command import count_argument, count_or_zero, path_argument
from ufm_jax.data.listing import read_listing
from ufm_jax.data.screening import file_faults
from ufm_jax.data.settings import DataSettings
from ufm_jax.data.sources.array_record import pack
from ufm_jax.data.sources.tfds_builders import SETS, build
from ufm_jax.door import enter, say
from ufm_jax.errors import DataError
from ufm_jax.phantoms.folders import write_phantoms
from ufm_jax.report.page import write_page


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses arguments and prepares."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    simulated = commands.add_parser("phantoms", help="simulated images in folders, to try on")
    simulated.add_argument("--out", type=path_argument, required=True)
    simulated.add_argument("--sites", type=count_argument, default=8)
    simulated.add_argument("--images", type=count_argument, default=100, help="of each site")
    simulated.add_argument("--size", type=count_argument, default=200, help="longer side, pixels")
    simulated.add_argument("--seed", type=count_or_zero, default=0)
    scans = commands.add_parser("scans", help="simulated DICOM and clips, to try on")
    scans.add_argument("--out", type=path_argument, required=True)
    hospital = commands.add_parser("hospital", help="a hospital's files, without names")
    hospital.add_argument("--in", dest="source", type=path_argument, required=True)
    hospital.add_argument("--out", type=path_argument, required=True)
    whose = hospital.add_mutually_exclusive_group()
    whose.add_argument("--client", default="hospital", help="whose all files are")
    whose.add_argument(
        "--client_folders",
        action="store_true",
        help="each folder in --in is a client, and its name is written",
    )
    hospital.add_argument("--frames", default=DataSettings.frames, help="as data.frames")
    hospital.add_argument(
        "--whole_frames", action="store_true", help="take pictures whole whose scan is not found"
    )
    hospital.add_argument("--labels", type=path_argument, help="CSV with image and label")
    tfds = commands.add_parser("tfds", help="build a public set from a copy you downloaded")
    tfds.add_argument("--set", choices=SETS, required=True)
    tfds.add_argument("--source", type=path_argument, required=True, help="the unpacked download")
    tfds.add_argument("--out", type=path_argument, required=True)
    packer = commands.add_parser("array_record", help="pack a source of files")
    packer.add_argument("--source", choices=("folders", "index", "lists"), required=True)
    packer.add_argument("--root", type=path_argument, required=True)
    packer.add_argument("--index", nargs="*", default=())
    packer.add_argument("--client_columns", nargs="*", default=())
    packer.add_argument("--lists", default=DataSettings.lists)
    packer.add_argument("--out", type=path_argument, required=True)
    options = parser.parse_args(arguments)
    if options.command == "phantoms":
        counts = write_phantoms(
            options.out,
            sites=options.sites,
            images=options.images,
            size=options.size,
            seed=options.seed,
        )
        say(f"written to {options.out}: {counts}")
    elif options.command == "scans":
        say(f"written to {options.out}: {write_scans(options.out)}")
    elif options.command == "hospital":
        return _export(options)
    elif options.command == "tfds":
        say(f"built: {build(options.set, options.source, options.out)}")
    else:
        say(f"packed: {_pack(options)} images in {options.out}")
    return 0


def _export(options: argparse.Namespace) -> int:
    client = None if options.client_folders else options.client
    settings = DataSettings(
        source="folders",
        root=str(options.source),
        frames=options.frames,
        whole_frames=options.whole_frames,
    )
    request = Request(options.source, options.out, client, options.labels, settings)
    with progress_bar("reading") as show:
        made = export(request, show)
    page = write_page(options.out, render(made))
    for reason, number in reasons(made).items():
        say(f"left out: {number} {reason}")
    images = sum(file.images for file in made.files)
    say(f"{images} images in {options.out}; which is of which file: {made.origins}")
    say(f"look at what was kept before it leaves the site: {page}")
    return 0 if images else 1


def _pack(options: argparse.Namespace) -> int:
    settings = DataSettings(
        source=options.source,
        root=str(options.root),
        index=tuple(options.index),
        client_columns=tuple(options.client_columns),
        lists=options.lists,
    )
    listing = read_listing(settings)
    assert listing.root is not None
    faults = file_faults(listing.records, listing.root)
    for issue in [*listing.issues, *faults.values()]:
        say(f"left out: {issue}")
    for reason, count in listing.excluded.items():
        say(f"left out: {count} images: {reason}")
    kept = [r for index, r in enumerate(listing.records) if index not in faults]
    held = {record.client for record in kept}
    for client in listing.clients:
        if client not in held:
            say(f"left out: client {client}: it has no usable image")
    if not kept:
        raise DataError(f"no usable image in {options.root}: see the source's settings")
    return pack(kept, options.out, listing.root)


if __name__ == "__main__":
    sys.exit(enter(main))
