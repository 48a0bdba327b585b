# %% [markdown]
# ## Packed files
#
# A few kilobytes can unpack to gigabytes. Text and weights shrink to a fifth, hardly ever to a
# hundredth, so a file that unpacks to more than a hundred times its size is refused before it
# fills the memory.

# %%
import os

# %%
ALWAYS_UNPACKED, NEVER_UNPACKED = 64 * 2**20, 4 * 2**30  # bytes


def most_unpacked(packed):
    """The bytes that `packed` bytes may unpack to: 100 times as many, 64 MiB in any case, and
    4 GiB at most."""
    return min(max(100 * packed, ALWAYS_UNPACKED), NEVER_UNPACKED)


def read_unpacked(opener, path):
    """What is in a file, opened by gzip.open, lzma.open or open. Raises ValueError with one line,
    and with little in memory, where it is more than `most_unpacked` allows."""
    most, size, pieces = most_unpacked(os.path.getsize(path)), 0, []
    with opener(path, "rb") as file:
        while piece := file.read(2**20):
            size += len(piece)
            if size > most:
                raise ValueError(
                    f"{path}: unpacks to more than {most:,} bytes, so it may be made to fill the "
                    "memory; if it is not, unpack it yourself"
                )
            pieces.append(piece)
    return b"".join(pieces)
