r"""A mask in few bytes.

A bit a weight is too much where few weights stay: with a share $v$ kept at random, no code does
with less than $H(v) = -v \log_2 v - (1-v) \log_2 (1-v)$ bits a weight, 0.47 at 10% and 0.19 at
3%. What is written is the number of weights between one that stays and the next, a byte each,
and Python's own zlib gives the frequent ones short codes: within 1% of that bound, read back at
a billion weights a second. Near 50% the bits themselves, packed, are shorter, and where most
weights stay, it is the gaps between those that do not.
"""

import zlib

import numpy as np

BITS, GAPS_OF_KEPT, GAPS_OF_REMOVED = range(3)  # the first byte inside says what follows
MOST_WEIGHTS = 2**28  # of one matrix, for who reads a file: a few bytes may say that none stays


def gaps_to_bytes(places):
    """uint8: how far each of the rising places is beyond the one before, 255 for 255 and more."""
    gaps = np.diff(places, prepend=-1) - 1
    whole = gaps // 255
    symbols = np.full(len(gaps) + whole.sum(), 255, np.uint8)
    symbols[np.cumsum(whole + 1) - 1] = gaps % 255
    return symbols


def bytes_to_places(symbols):
    """int64: the places that `gaps_to_bytes` wrote."""
    last = symbols != 255  # of a gap's bytes
    return np.cumsum(symbols, dtype=np.int64)[last] + np.arange(np.count_nonzero(last))


def encode_mask(mask):
    """uint8 (m,): the mask, bool (out, in), in few bytes: near its entropy, and never much more
    than a bit a weight."""
    flat = np.ascontiguousarray(mask, dtype=bool).ravel()
    few = 2 * np.count_nonzero(flat) <= flat.size
    ways = (  # runs are looked for where they can help: of 255, between weights far apart
        (GAPS_OF_KEPT if few else GAPS_OF_REMOVED, zlib.Z_RLE,
         gaps_to_bytes(np.flatnonzero(flat if few else ~flat))),
        (BITS, zlib.Z_HUFFMAN_ONLY, np.packbits(flat)),
    )
    codes = []
    for way, strategy, symbols in ways:
        packer = zlib.compressobj(memLevel=9, strategy=strategy)
        codes.append(packer.compress(bytes([way]) + symbols.tobytes()) + packer.flush())
    return np.frombuffer(min(codes, key=len), np.uint8)


def decode_mask(code, shape):
    """bool (out, in) of what `encode_mask` made.

    Raises ValueError where the code is damaged (zlib's checksum tells) or of another shape, before
    it fills more memory than the mask does.
    """
    size = shape[0] * shape[1]
    unpacker = zlib.decompressobj()
    try:
        symbols = unpacker.decompress(code.tobytes(), 2 + size + size // 255)  # the most there are
    except zlib.error as error:
        raise ValueError(f"the code of a mask is damaged ({error})") from None
    way, symbols = symbols[:1], np.frombuffer(symbols, np.uint8)[1:]
    wrong = ValueError(f"the code of a mask is damaged, or not of shape {shape[0]} x {shape[1]}")
    if not unpacker.eof or unpacker.unused_data or way not in (b"\0", b"\1", b"\2"):
        raise wrong
    if way[0] == BITS:
        if len(symbols) != (size + 7) // 8:
            raise wrong
        return np.unpackbits(symbols, count=size).view(bool).reshape(shape)
    places = bytes_to_places(symbols)
    if len(places) and places[-1] >= size or symbols[-1:].tobytes() == b"\xff":
        raise wrong
    mask = np.full(size, way[0] == GAPS_OF_REMOVED)
    mask[places] = way[0] == GAPS_OF_KEPT
    return mask.reshape(shape)
