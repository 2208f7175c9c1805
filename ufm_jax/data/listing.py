"""What a source lists: the first step of every image."""

from dataclasses import replace

from ufm_jax.data.records import Listing
from ufm_jax.data.settings import DataSettings
from ufm_jax.data.sources.folders import exclusions, named_like_masks, read_folders
from ufm_jax.data.sources.index_csv import read_index
from ufm_jax.data.sources.lists import read_lists
from ufm_jax.files import user_path


def read_listing(settings: DataSettings) -> Listing:
    """Lists clients and records as a source gives them, before any check and any decoding.

    Raises:
        DataError: If the source itself (a list, an index) is missing or malformed.
    """
    root = user_path(settings.root)
    match settings.source:
        case "synthetic":
            from ufm_jax.data.sources.synthetic import read_synthetic

            return read_synthetic(
                settings.seed,
                settings.num_sites,
                settings.mean_size,
                settings.sigma,
                settings.working_size,
            )
        case "lists":
            return read_lists(root, settings.lists)
        case "index":
            return read_index(root, settings.index, settings.client_columns)
        case "folders":
            found = read_folders(root, exclusions(settings))
            return replace(found, issues=(*found.issues, *named_like_masks(found)))
        case "tfds":
            from ufm_jax.data.sources.tfds import read_records
        case "array_record":
            from ufm_jax.data.sources.array_record import read_records
    records = tuple(read_records(settings))
    return Listing(tuple(dict.fromkeys(r.client for r in records if r.client)), records)
