"""The zarr.json files of a cache. All follow from its identities, so that one that is lost can be written again."""

from kdcache.cache.entry import Entry
from kdcache.cache.identity import ViewSetIdentity, seal
from kdcache.cache.layout import VIEW_CAPACITY, Layout, teacher_key
from kdcache.cache.windows import WINDOWS_META, windows_metadata
from kdcache.cache.zarr_form import META, OURS, array_metadata, group_metadata
from kdcache.targets.base import ArraySpec


def cache_metadata(view_set: ViewSetIdentity) -> dict[str, bytes]:
    """Return the zarr.json files of a cache without its entries, by key; the first makes it a cache."""
    return {
        META: group_metadata({OURS: seal(view_set.to_json())}),
        WINDOWS_META: windows_metadata(view_set.samples),
        "teachers/" + META: group_metadata({}),
    }


def entry_metadata(entry: Entry) -> dict[str, bytes]:
    """Return the zarr.json files of a teacher's entry, by key; the first makes it an entry."""
    folder, layout = teacher_key(entry.identity.name), entry.layout
    metas = {f"{folder}/{META}": group_metadata({OURS: seal(entry.identity.to_json())})}
    # The records' folder is a group, so that Zarr libraries list the entry without a warning.
    metas[f"{folder}/records/{META}"] = group_metadata({})
    for name, spec in entry.codec.arrays(layout.chunk_rows).items():
        metas[f"{folder}/{name}/{META}"] = targets_metadata(spec, layout)
    for table, spec in entry.codec.table_specs().items():
        if table in entry.identity.targets:  # be the table itself there or lost
            metas[f"{folder}/{table}/{META}"] = table_metadata(spec)
    return metas


def targets_metadata(spec: ArraySpec, layout: Layout) -> bytes:
    """Return the zarr.json of an array of targets."""
    several = layout.chunks_a_file > 1
    return array_metadata(
        spec,
        (VIEW_CAPACITY, *_times(spec, layout.chunks)),
        (1, *spec.shape),
        (1, *_times(spec, layout.chunks_a_file)) if several else None,
    )


def _times(spec: ArraySpec, chunks: int) -> list[int]:
    """Return the shape of so many chunks."""
    return [length * chunks if axis == spec.axis else length for axis, length in enumerate(spec.shape)]


def table_metadata(spec: ArraySpec) -> bytes:
    """Return the zarr.json of a table, which is one chunk."""
    return array_metadata(spec, spec.shape, spec.shape)
