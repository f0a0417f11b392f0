"""Blocks of reserved memory, free or in use, as PyTorch's caching allocator keeps them: see allocator.py.

What a function does there (c10/cuda/CUDACachingAllocator.cpp, PyTorch 2.13) stands in brackets behind its promise. No
torch.
"""

from __future__ import annotations

from bisect import bisect_left, insort

__all__ = [
    "LARGE_SEGMENT_BYTES",
    "ROUND_BYTES",
    "SMALL_BYTES",
    "SMALL_SEGMENT_BYTES",
    "Block",
    "ExpandablePool",
    "Pool",
    "SegmentPool",
    "rounded",
]

# Names and values in AllocatorConfig.h.
ROUND_BYTES = 512  # kMinBlockSize: every size is a multiple of it
SMALL_BYTES = 1 << 20  # kSmallSize: the largest size that the small pool serves
SMALL_SEGMENT_BYTES = 2 << 20  # kSmallBuffer: a segment, or an expandable segment's page, of the small pool
LARGE_SEGMENT_BYTES = 20 << 20  # large_segment_size_ (kLargeBuffer): the same of the large pool
_OWN_SEGMENT_BYTES = 10 << 20  # kMinLargeAlloc: from this size on, a segment is made to measure
_ROUND_SEGMENT_BYTES = 2 << 20  # kRoundLarge: which such a segment is a multiple of


def rounded(nbytes: int, multiple: int) -> int:
    """Return the next multiple, upwards."""
    return -(-nbytes // multiple) * multiple


class Block:
    """A range of addresses that is in use, free, or (in an expandable segment) not mapped, and thus free as well."""

    __slots__ = ("address", "is_free", "is_mapped", "next", "pool", "previous", "size")

    def __init__(self, pool: Pool, address: int, size: int, is_mapped: bool = True) -> None:
        self.pool, self.address, self.size, self.is_mapped = pool, address, size, is_mapped
        self.is_free = True
        self.previous: Block | None = None
        self.next: Block | None = None

    def put_after(self, block: Block) -> None:
        """Link this block in behind another one of its segment."""
        self.previous, self.next = block, block.next
        block.next = self
        if self.next:
            self.next.previous = self


class Pool:
    """The blocks of small or of large allocations. What the two kinds of segments have in common."""

    def __init__(self, is_small: bool) -> None:
        self.is_small = is_small
        self.reserved_bytes = 0
        self._free: list[tuple[int, int]] = []  # size and address of every free block, in order: BlockComparatorSize
        self._blocks: dict[int, Block] = {}  # the same blocks by address

    def find(self, size: int) -> Block | None:
        """Take out the smallest free block that is large enough, of those the lowest (`get_free_block`)."""
        at = self._best(size)
        if at == len(self._free):
            return None
        _, address = self._free.pop(at)
        return self._blocks.pop(address)

    def missing_bytes(self, size: int) -> int:
        """Return how much more `grow` would reserve for a block of `size`."""
        raise NotImplementedError

    def grow(self, size: int) -> Block:
        """Reserve memory and return a block of at least `size`, which is not among the free ones (`alloc_block`)."""
        raise NotImplementedError

    def use(self, block: Block, size: int) -> None:
        """Put a block that was found or made to use; what is left of it becomes a free one (`alloc_found_block`)."""
        if self._is_worth_splitting(block.size - size):
            self._keep(self._cut(block, size))
        block.is_free = False

    def give(self, block: Block) -> None:
        """Make a block free, together with the free blocks beside it (`free_block`)."""
        block.is_free = True
        self._merge(block)
        self._keep(block)

    def release(self) -> None:
        """Give back what is not in use, as far as possible (`release_blocks`)."""
        raise NotImplementedError

    def releasable_bytes(self) -> int:
        """Return how much `release` would give back."""
        raise NotImplementedError

    def _best(self, size: int) -> int:
        return bisect_left(self._free, (size, 0))

    def _is_worth_splitting(self, rest: int) -> bool:
        """Tell whether the rest of a block is made another one (`should_split`)."""
        raise NotImplementedError

    def _cut(self, block: Block, size: int) -> Block:
        """Shorten a block to `size` and return the rest as another one."""
        rest = Block(self, block.address + size, block.size - size, block.is_mapped)
        rest.put_after(block)
        block.size = size
        return rest

    def _merge(self, block: Block) -> None:
        """Let a block swallow its neighbours where they are free and of its kind (`try_merge_blocks`)."""
        before, after = block.previous, block.next
        if before and before.is_free and before.is_mapped == block.is_mapped:
            self._forget(before)
            block.address, block.size = before.address, before.size + block.size
            block.previous = before.previous
            if block.previous:
                block.previous.next = block
        if after and after.is_free and after.is_mapped == block.is_mapped:
            self._forget(after)
            block.size += after.size
            block.next = after.next
            if block.next:
                block.next.previous = block

    def _keep(self, block: Block) -> None:
        """Enter a block among the free ones."""
        insort(self._free, (block.size, block.address))
        self._blocks[block.address] = block

    def _forget(self, block: Block) -> None:
        """Take a block out of the free ones."""
        del self._free[bisect_left(self._free, (block.size, block.address))]
        del self._blocks[block.address]


class SegmentPool(Pool):
    """Segments that cudaMalloc gives, one at a time: the default."""

    def __init__(self, is_small: bool) -> None:
        super().__init__(is_small)
        self._end = 0

    def missing_bytes(self, size: int) -> int:
        if self.is_small:  # get_allocation_size
            return SMALL_SEGMENT_BYTES
        return LARGE_SEGMENT_BYTES if size < _OWN_SEGMENT_BYTES else rounded(size, _ROUND_SEGMENT_BYTES)

    def grow(self, size: int) -> Block:
        block = Block(self, self._end, self.missing_bytes(size))
        self._end += block.size
        self.reserved_bytes += block.size
        return block

    def _is_worth_splitting(self, rest: int) -> bool:
        return rest >= ROUND_BYTES if self.is_small else rest > SMALL_BYTES

    def release(self) -> None:
        for block in self._whole_segments():
            self._forget(block)
            self.reserved_bytes -= block.size

    def releasable_bytes(self) -> int:
        return sum(block.size for block in self._whole_segments())

    def _whole_segments(self) -> list[Block]:
        return [block for block in self._blocks.values() if not block.previous and not block.next]


class ExpandablePool(Pool):
    """One segment that grows by pages: see Note [Expandable Segments] in CUDACachingAllocator.cpp."""

    def __init__(self, is_small: bool) -> None:
        super().__init__(is_small)
        self._page = SMALL_SEGMENT_BYTES if is_small else LARGE_SEGMENT_BYTES
        # By address. PyTorch reserves addresses for 1 1/8 of the card's memory and makes another segment beyond; here
        # one is enough.
        self._unmapped = {0: Block(self, 0, self._page << 40, is_mapped=False)}

    def _best(self, size: int) -> int:
        """Count a block that can grow as large as it could become, so that another one is taken first."""
        at = super()._best(size)
        while at + 1 < len(self._free) and self._room(at + 1) < self._room(at):
            at += 1
        return at

    def _room(self, at: int) -> int:
        block = self._blocks[self._free[at][1]]
        return block.size + (block.next.size if block.next and not block.next.is_mapped else 0)

    def _is_worth_splitting(self, rest: int) -> bool:
        return rest >= ROUND_BYTES  # in the large pool, too

    def missing_bytes(self, size: int) -> int:
        return sum(nbytes for _, nbytes in self._gaps(size))

    def grow(self, size: int) -> Block:
        """Map what the lowest run of free addresses lacks (`try_allocate_expandable_block`)."""
        gaps = self._gaps(size)
        for gap, nbytes in gaps:
            self._map(gap, nbytes)
        block = gaps[-1][0]  # which has swallowed the others
        self._forget(block)
        return block

    def _gaps(self, size: int) -> list[tuple[Block, int]]:
        """Return which gaps to map, and how much of each, for `size` bytes in a row (`find_expandable_block`)."""
        for _, gap in sorted(self._unmapped.items()):
            gaps, room = list[tuple[Block, int]](), 0
            block: Block | None = gap.previous if gap.previous and gap.previous.is_free else gap
            while block and block.is_free and room < size:
                nbytes = block.size if block.is_mapped else min(block.size, rounded(size - room, self._page))
                if not block.is_mapped:
                    gaps.append((block, nbytes))
                room += nbytes
                block = block.next
            if room >= size:
                return gaps
        raise MemoryError(f"{size} bytes are more than there are addresses")

    def _map(self, gap: Block, nbytes: int) -> None:
        """Reserve whole pages at the start of a gap (`map_block`)."""
        self._forget(gap)
        if nbytes < gap.size:
            rest = self._cut(gap, nbytes)
            self._unmapped[rest.address] = rest
        gap.is_mapped = True
        self._merge(gap)
        self._keep(gap)
        self.reserved_bytes += nbytes

    def releasable_bytes(self) -> int:
        return sum(max(0, end - begin) for begin, end in map(self._whole_pages, self._blocks.values()))

    def release(self) -> None:
        for block in [self._blocks[address] for _, address in self._free]:
            self._unmap(block)

    def _unmap(self, block: Block) -> None:
        """Give back the pages that lie within a free block as a whole (`unmap_block`)."""
        begin, end = self._whole_pages(block)
        if begin >= end:
            return
        self._forget(block)
        gap = block
        if block.address < begin:
            gap = self._cut(block, begin - block.address)
            self._keep(block)
        if end < gap.address + gap.size:
            self._keep(self._cut(gap, end - begin))
        gap.is_mapped = False
        self._merge(gap)
        self._unmapped[gap.address] = gap
        self.reserved_bytes -= end - begin

    def _whole_pages(self, block: Block) -> tuple[int, int]:
        """Return the addresses between which a block is made of whole pages."""
        return rounded(block.address, self._page), (block.address + block.size) // self._page * self._page

    def _forget(self, block: Block) -> None:
        if block.is_mapped:
            super()._forget(block)
        else:
            del self._unmapped[block.address]
