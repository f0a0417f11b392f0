"""What PyTorch reserves on a CUDA card for a sequence of allocations: a simulation of its caching allocator.

The rules are those of c10/cuda/CUDACachingAllocator.cpp and c10/core/AllocatorConfig.h, PyTorch 2.13, with all settings
but `expandable_segments` at their defaults: `max_split_size` is unlimited, so the rules for oversized blocks never
apply, and garbage collection and rounding to powers of two are off. One stream. Where cudaMalloc puts a segment is not
known; here each lies above the one before. No torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from i2v.memory.forecast.segments import (
    LARGE_SEGMENT_BYTES,
    ROUND_BYTES,
    SMALL_BYTES,
    SMALL_SEGMENT_BYTES,
    Block,
    ExpandablePool,
    Pool,
    SegmentPool,
    rounded,
)

__all__ = ["CachingAllocator", "Reserved", "fits", "peak_reserved", "reserved_for"]


class CachingAllocator:
    """PyTorch's caching allocator, by its accounts: no memory is touched.

    `expandable`: PYTORCH_ALLOC_CONF=expandable_segments:True. `capacity_bytes`: the most that the card lets be
    reserved. The counts are those of `torch.cuda`: memory_reserved, memory_allocated (of blocks in use, so it is
    rounded up), and the largest that each has been; `peak_needed_bytes` is the largest of `needed_bytes` whenever more
    was allocated than ever before.
    """

    def __init__(self, expandable: bool, capacity_bytes: int | None = None) -> None:
        kind = ExpandablePool if expandable else SegmentPool
        self._small, self._large = kind(is_small=True), kind(is_small=False)
        self._capacity_bytes = capacity_bytes
        self._alive: dict[int, Block | None] = {}
        self.allocated_bytes, self.peak_allocated_bytes = 0, 0
        self.peak_reserved_bytes, self.peak_needed_bytes = 0, 0

    @property
    def needed_bytes(self) -> int:
        """What is reserved, without what PyTorch would give back rather than run out of memory."""
        return self.reserved_bytes - self._small.releasable_bytes() - self._large.releasable_bytes()

    @property
    def reserved_bytes(self) -> int:
        return self._small.reserved_bytes + self._large.reserved_bytes

    def allocate(self, number: int, nbytes: int) -> None:
        """Allocate under a name that is not in use (`malloc`); 0 bytes take nothing.

        Raises MemoryError where PyTorch is out of memory: it does not fit, even when the cache has been emptied.
        """
        if number in self._alive:
            raise ValueError(f"allocation {number} is alive already")
        if nbytes == 0:
            self._alive[number] = None
            return
        size = rounded(nbytes, ROUND_BYTES)
        pool = self._small if size <= SMALL_BYTES else self._large  # get_pool
        block = pool.find(size) or self._new(pool, size)
        pool.use(block, size)
        self._alive[number] = block
        self.allocated_bytes += block.size
        if self.allocated_bytes > self.peak_allocated_bytes:
            self.peak_allocated_bytes = self.allocated_bytes
            self.peak_needed_bytes = max(self.peak_needed_bytes, self.needed_bytes)

    def free(self, number: int) -> None:
        """Free an allocation; its memory stays reserved. Raises KeyError for one that is not alive."""
        block = self._alive.pop(number)
        if block:
            self.allocated_bytes -= block.size
            block.pool.give(block)

    def replay(self, log: Iterable[tuple[int, int]]) -> None:
        """Replay `LiveStorage.log`: 0 bytes free a number that is alive, anything else allocates it."""
        for number, nbytes in log:
            if nbytes == 0 and number in self._alive:
                self.free(number)
            else:
                self.allocate(number, nbytes)

    def empty_cache(self) -> None:
        """Give back unused segments and pages, as torch.cuda.empty_cache does (`release_cached_blocks`)."""
        self._large.release()
        self._small.release()

    def _new(self, pool: Pool, size: int) -> Block:
        if not self._has_room(pool, size):
            self.empty_cache()
            if not self._has_room(pool, size):
                raise MemoryError(f"{size} bytes do not fit beside {self.reserved_bytes} reserved ones")
        block = pool.grow(size)
        self.peak_reserved_bytes = max(self.peak_reserved_bytes, self.reserved_bytes)
        return block

    def _has_room(self, pool: Pool, size: int) -> bool:
        if self._capacity_bytes is None:
            return True
        return self.reserved_bytes + pool.missing_bytes(size) <= self._capacity_bytes


def peak_reserved(weights: Sequence[int], log: Iterable[tuple[int, int]], *, expandable: bool) -> int:
    """Return the most that is reserved while a log is replayed on top of weights, on a card with enough memory.

    `weights`: bytes of each tensor, in the order in which they are loaded. `log`: as in `CachingAllocator.replay`; its
    numbers are not negative.
    """
    allocator = CachingAllocator(expandable)
    _replay_on(allocator, weights, log)
    return allocator.peak_reserved_bytes


@dataclass(frozen=True)
class Reserved:
    """What a run has PyTorch reserve: where memory is plenty, and an amount that it gets through with.

    Expandable segments give back pages rather than run out of memory, so that they need less; two pages are for blocks
    that lie elsewhere after that. Segments of fixed size cannot be relied upon for it: they need all that they reserve.
    (tests/unit/test_allocator.py checks both against `fits`, which is exact for one amount.)
    """

    bytes: int
    needed_bytes: int


def reserved_for(log: Iterable[tuple[int, int]], held_bytes: int, expandable: bool) -> Reserved:
    """Return what is reserved while a log is replayed beside one tensor of `held_bytes`.

    Allocations of up to a MiB live in a pool of their own, whose pages are counted instead of replayed: they are the
    many, and take little.
    """
    large, small, live, most = list[tuple[int, int]](), dict[int, int](), 0, 0
    for number, nbytes in log:
        if nbytes == 0 and number in small:
            live -= small.pop(number)
        elif nbytes > SMALL_BYTES or nbytes == 0:
            large.append((number, nbytes))
        else:
            small[number] = rounded(nbytes, ROUND_BYTES)
            live += small[number]
            most = max(most, live)
    pages = rounded(most, SMALL_SEGMENT_BYTES) + SMALL_SEGMENT_BYTES if most else 0
    allocator = CachingAllocator(expandable)
    _replay_on(allocator, [held_bytes], large)
    reserved = allocator.peak_reserved_bytes + pages
    needed = allocator.peak_needed_bytes + pages + 2 * LARGE_SEGMENT_BYTES
    return Reserved(reserved, min(reserved, needed) if expandable else reserved)


def fits(weights: Sequence[int], log: Iterable[tuple[int, int]], *, expandable: bool, capacity_bytes: int) -> bool:
    """Tell whether a log gets through without running out of memory.

    It may, with less than `peak_reserved`: PyTorch gives unused segments back before it fails, which takes time.
    """
    try:
        _replay_on(CachingAllocator(expandable, capacity_bytes), weights, log)
    except MemoryError:
        return False
    return True


def _replay_on(allocator: CachingAllocator, weights: Sequence[int], log: Iterable[tuple[int, int]]) -> None:
    allocator.replay((-1 - at, nbytes) for at, nbytes in enumerate(weights))
    allocator.replay(log)
