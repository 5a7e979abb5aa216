"""The program's random choices (src/draw.rs) in Python: ChaCha8 keyed by (seed, purpose, index). With them both sides of a
comparison work on the same batches."""

import struct
from collections.abc import Iterator

ORDER, CROP, NOISE = 2, 3, 5
WORD = 0xFFFFFFFF
# One double round: first the columns of the 4 x 4 state, then its diagonals.
QUARTERS = (
    (0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
    (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14),
)  # fmt: skip


def block(key: tuple[int, ...], counter: int) -> list[int]:
    """The 16 words of one block."""
    start = [*struct.unpack("<4I", b"expand 32-byte k"), *key, counter & WORD, counter >> 32, 0, 0]
    x = list(start)
    for _ in range(4):
        for a, b, c, d in QUARTERS:
            for left, right in ((16, 12), (8, 7)):
                x[a] = (x[a] + x[b]) & WORD
                mixed = x[d] ^ x[a]
                x[d] = (mixed << left | mixed >> (32 - left)) & WORD
                x[c] = (x[c] + x[d]) & WORD
                mixed = x[b] ^ x[c]
                x[b] = (mixed << right | mixed >> (32 - right)) & WORD
    return [(end + begin) & WORD for end, begin in zip(x, start)]


class Draw:
    """A stream of draws."""

    def __init__(self, seed: int, purpose: int, first: int, second: int = 0) -> None:
        self.words = self.stream(struct.unpack("<8I", struct.pack("<4Q", seed, purpose, first, second)))

    @staticmethod
    def stream(key: tuple[int, ...]) -> Iterator[int]:
        counter = 0
        while True:
            yield from block(key, counter)
            counter += 1

    def unit(self) -> float:
        """A number in [0, 1) with 24 random bits."""
        return (next(self.words) >> 8) / (1 << 24)

    def below(self, bound: int) -> int:
        """A whole number in 0..bound."""
        low, high = next(self.words), next(self.words)
        return (low | high << 32) * bound >> 64

    def permutation(self, count: int) -> list[int]:
        """The numbers 0..count in random order (Fisher-Yates)."""
        order = list(range(count))
        for last in range(count - 1, 0, -1):
            other = self.below(last + 1)
            order[last], order[other] = order[other], order[last]
        return order


def noise_source(ids: list[int], patches: int, ratio: float, seed: int, step: int) -> list[int]:
    """[B · N]: which patch stands at each place of the noisy features of update `step`, counted from 0 (src/model/noise.rs)."""
    draw, noisy = Draw(seed, NOISE, step), int(ratio * patches + 0.5)
    source = list(range(len(ids) * patches))
    for row, own in enumerate(ids):
        for place in draw.permutation(patches)[:noisy]:
            donor = draw.below(len(ids))
            while ids[donor] == own:
                donor = draw.below(len(ids))
            source[row * patches + place] = donor * patches + draw.below(patches)
    return source
