"""Where the rows of a view lie: blocks, files, chunks, and their keys. No I/O."""

from dataclasses import dataclass

from kdcache.errors import CacheError
from kdcache.io.limits import MAX_VIEWS

#: The views that every array has room for from the start, so that adding views rewrites nothing.
VIEW_CAPACITY = MAX_VIEWS

#: Rows of a block for millions of samples.
MAX_BLOCK_ROWS = 131072


def default_block_rows(samples: int) -> int:
    """Return the largest power of two that gives a view at least four blocks, within 2 and `MAX_BLOCK_ROWS`."""
    return min(MAX_BLOCK_ROWS, max(2, 1 << (max(1, samples // 4).bit_length() - 1)))


@dataclass(frozen=True)
class Layout:
    """A view's rows in blocks (the unit of writing), files, and chunks (the unit of reading), numbered along it.

    `chunk_rows` divides `file_rows`, which divides `block_rows`. The last of each has fewer rows.
    """

    samples: int
    block_rows: int
    file_rows: int
    chunk_rows: int

    @property
    def blocks(self) -> int:
        """The number of blocks of a view."""
        return -(-self.samples // self.block_rows)

    @property
    def chunks(self) -> int:
        """The number of chunks of a view."""
        return -(-self.samples // self.chunk_rows)

    def block_range(self, block: int) -> tuple[int, int]:
        """Return the first row of a block and the row after its last. Raises CacheError if there is no such block."""
        if not 0 <= block < self.blocks:
            raise CacheError(f"There is no block {block}: a view has {self.blocks} blocks.")
        return block * self.block_rows, min((block + 1) * self.block_rows, self.samples)

    def chunk_range(self, chunk: int) -> tuple[int, int]:
        """Return the first row of a chunk and the row after its last. Raises CacheError if there is no such chunk."""
        if not 0 <= chunk < self.chunks:
            raise CacheError(f"There is no chunk {chunk}: a view has {self.chunks} chunks.")
        return chunk * self.chunk_rows, min((chunk + 1) * self.chunk_rows, self.samples)

    def chunks_of(self, block: int) -> range:
        """Return the chunks of a block."""
        start, stop = self.block_range(block)
        return range(start // self.chunk_rows, -(-stop // self.chunk_rows))

    def block_of(self, chunk: int) -> int:
        """Return the block that a chunk belongs to."""
        return chunk * self.chunk_rows // self.block_rows

    @property
    def chunks_a_file(self) -> int:
        """The number of chunks that a file has room for."""
        return self.file_rows // self.chunk_rows

    def file_of(self, chunk: int) -> int:
        """Return the file that a chunk lies in."""
        return chunk // self.chunks_a_file

    def files_of(self, block: int) -> range:
        """Return the files of a block, of each array."""
        start, stop = self.block_range(block)
        return range(start // self.file_rows, -(-stop // self.file_rows))

    def chunks_in(self, file: int) -> range:
        """Return the chunks of a file."""
        return range(file * self.chunks_a_file, min((file + 1) * self.chunks_a_file, self.chunks))


def check_view(view: int) -> None:
    """Raise CacheError where a view's number is beyond what a cache can hold."""
    if not 0 <= view < VIEW_CAPACITY:
        raise CacheError(f"View {view} cannot be stored: a cache holds views 0 to {VIEW_CAPACITY - 1}.")


def teacher_key(name: str) -> str:
    """Return the folder of a teacher's entry."""
    return f"teachers/{name}"


def table_key(name: str, table: str) -> str:
    """Return the one chunk of a table of a teacher's codec."""
    return f"{teacher_key(name)}/{table}/c/0/0"


def record_folder(name: str, view: int) -> str:
    """Return the folder of a view's records."""
    return f"{teacher_key(name)}/records/{view}"


#: The folder of the lists of lost samples, see `cache.lost`.
LOST = "lost"


def lost_key(name: str) -> str:
    """Return where the list of lost samples of this name lies."""
    return f"{LOST}/{name}.json"


def record_key(name: str, view: int, block: int) -> str:
    """Return the record of a block."""
    return f"{record_folder(name, view)}/{block}.json"


def file_key(axis: int, ndim: int, view: int, file: int) -> str:
    """Return a file's key within its array, in Zarr's default encoding; files follow each other along `axis`."""
    place = [file if number == axis else 0 for number in range(ndim)]
    return "/".join(["c", str(view), *map(str, place)])
