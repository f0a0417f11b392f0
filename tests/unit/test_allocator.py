"""The simulated caching allocator: each rule by hand, and the numbers of PyTorch's own tests."""

from __future__ import annotations

import itertools
import random

import pytest

from i2v.memory.forecast.allocator import CachingAllocator, fits, peak_reserved
from i2v.memory.forecast.tables import shipped_forms
from i2v.presets.model_preset import preset_named

MIB = 1 << 20
BOTH = pytest.mark.parametrize("expandable", [False, True], ids=["segments", "expandable"])


def allocator_with(*sizes: int, expandable: bool = False) -> CachingAllocator:
    """Make an allocator that has allocated these bytes, numbered from 0."""
    made = CachingAllocator(expandable)
    for number, nbytes in enumerate(sizes):
        made.allocate(number, nbytes)
    return made


def after_frees(made: CachingAllocator, *numbers: int) -> CachingAllocator:
    for number in numbers:
        made.free(number)
    return made


# What both kinds of segments do.


@BOTH
@pytest.mark.parametrize(("nbytes", "allocated"), [(1, 512), (512, 512), (513, 1024), (2 * MIB + 1, 2 * MIB + 512)])
def test_sizes_are_rounded_up_to_512_bytes(nbytes: int, allocated: int, expandable: bool) -> None:
    assert allocator_with(nbytes, expandable=expandable).allocated_bytes == allocated


@BOTH
def test_an_allocation_of_nothing_takes_nothing(expandable: bool) -> None:
    made = CachingAllocator(expandable)
    made.replay([(0, 0)])
    assert (made.allocated_bytes, made.reserved_bytes) == (0, 0)
    made.replay([(0, 0), (0, 1024)])  # goes, and may come again
    assert made.allocated_bytes == 1024


@BOTH
def test_a_replay_frees_what_is_alive_and_only_that(expandable: bool) -> None:
    made = CachingAllocator(expandable)
    made.replay([(0, 512), (1, 1024), (0, 0)])
    assert made.allocated_bytes == 1024
    with pytest.raises(ValueError, match="1 is alive"):
        made.replay([(1, 512)])
    with pytest.raises(KeyError):
        made.free(0)


@BOTH
def test_what_is_freed_stays_reserved_until_the_cache_is_emptied(expandable: bool) -> None:
    made = allocator_with(30 * MIB, 512, expandable=expandable)
    reserved = made.reserved_bytes
    after_frees(made, 0, 1)
    assert (made.allocated_bytes, made.reserved_bytes) == (0, reserved)
    made.empty_cache()
    assert made.reserved_bytes == 0
    made.allocate(0, 512)
    assert (made.peak_allocated_bytes, made.peak_reserved_bytes) == (30 * MIB + 512, reserved)


@BOTH
def test_small_and_large_allocations_do_not_share_memory(expandable: bool) -> None:
    made = after_frees(allocator_with(20 * MIB, expandable=expandable), 0)
    made.allocate(1, MIB)
    assert made.reserved_bytes == 20 * MIB + 2 * MIB
    after_frees(made, 1)
    made.allocate(2, MIB + 1)
    assert made.reserved_bytes == 20 * MIB + 2 * MIB


@BOTH
def test_the_smallest_block_that_is_large_enough_is_taken(expandable: bool) -> None:
    # Between two that stay; the last one ends where what is mapped ends.
    made = allocator_with(40 * MIB, 10 * MIB, 30 * MIB, 20 * MIB, expandable=expandable)
    after_frees(made, 0, 2)
    made.allocate(4, 30 * MIB)
    made.allocate(5, 40 * MIB)
    assert made.reserved_bytes == 100 * MIB


@BOTH
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_free_neighbours_become_one_block_in_whatever_order(order: tuple[int, ...], expandable: bool) -> None:
    made = after_frees(allocator_with(6 * MIB, 6 * MIB, 6 * MIB, expandable=expandable), *order)
    made.allocate(3, 20 * MIB)
    assert made.reserved_bytes == 20 * MIB


@BOTH
def test_a_block_in_use_keeps_its_neighbours_apart(expandable: bool) -> None:
    made = after_frees(allocator_with(6 * MIB, 6 * MIB, 8 * MIB, expandable=expandable), 0, 2)
    made.allocate(3, 9 * MIB)
    assert made.reserved_bytes == 40 * MIB


@BOTH
def test_a_rest_of_512_bytes_serves_a_small_allocation(expandable: bool) -> None:
    assert allocator_with(MIB, MIB - 512, 512, expandable=expandable).reserved_bytes == 2 * MIB


@BOTH
def test_three_of_a_mebibyte_take_two_small_segments(expandable: bool) -> None:
    """test_cuda.py, test_mempool_with_allocator: 1, 1 and 2 segments."""
    for count, reserved in ((1, 2 * MIB), (2, 2 * MIB), (3, 4 * MIB)):
        assert allocator_with(*[MIB] * count, expandable=expandable).reserved_bytes == reserved


@pytest.mark.parametrize(
    ("nbytes", "reserved", "afterwards", "expandable_reserved", "expandable_afterwards"),
    [
        (512, 2 * MIB, 2 * MIB, 2 * MIB, 2 * MIB),
        (MIB, 4 * MIB, 2 * MIB, 4 * MIB, 2 * MIB),
        (MIB + 512, 20 * MIB, 20 * MIB, 20 * MIB, 20 * MIB),
        (10 * MIB - 512, 40 * MIB, 20 * MIB, 40 * MIB, 40 * MIB),
        (10 * MIB + 512, 36 * MIB, 12 * MIB, 40 * MIB, 20 * MIB),
    ],
)
def test_the_numbers_of_pytorchs_own_test(
    nbytes: int, reserved: int, afterwards: int, expandable_reserved: int, expandable_afterwards: int
) -> None:
    """test_cuda.py, test_graph_memory_stats_and_use_result_after_destroy_graph, without the generator's own tensors.

    Its program is: b = a.clone(); for _ in range(5): b = b.clone() + 1.
    """
    for expandable, during, after in (
        (False, reserved, afterwards),
        (True, expandable_reserved, expandable_afterwards),
    ):
        made = allocator_with(nbytes, expandable=expandable)
        for old in range(0, 10, 2):
            made.replay([(old + 1, nbytes), (old + 2, nbytes), (old + 1, 0), (old, 0)])
        assert made.reserved_bytes == during
        made.empty_cache()
        assert (made.reserved_bytes, made.allocated_bytes) == (after, nbytes)


# What cudaMalloc's segments do.


@pytest.mark.parametrize(
    ("nbytes", "segment"),
    [
        (1, 2 * MIB),
        (MIB, 2 * MIB),
        (MIB + 1, 20 * MIB),
        (10 * MIB - 512, 20 * MIB),
        (10 * MIB, 10 * MIB),
        (10 * MIB + 1, 12 * MIB),
        (33 * MIB, 34 * MIB),
    ],
)
def test_a_segment_has_the_size_that_its_first_allocation_asks_for(nbytes: int, segment: int) -> None:
    assert allocator_with(nbytes).reserved_bytes == segment


def test_a_large_block_is_split_only_for_more_than_a_mebibyte() -> None:
    assert allocator_with(11 * MIB).allocated_bytes == 12 * MIB
    made = allocator_with(11 * MIB - 512)
    assert made.allocated_bytes == 11 * MIB - 512
    made.allocate(1, MIB + 512)
    assert made.reserved_bytes == 12 * MIB
    assert allocator_with(9 * MIB, 9 * MIB).reserved_bytes == 20 * MIB


def test_of_two_blocks_of_a_size_the_lower_one_is_taken() -> None:
    made = after_frees(allocator_with(24 * MIB), 0)
    for number in (1, 2, 3):
        made.allocate(number, 12 * MIB)
    after_frees(made, 1, 3)  # of which only the upper one is a segment of its own
    made.allocate(4, 12 * MIB)
    made.empty_cache()
    assert made.reserved_bytes == 24 * MIB


def test_segments_do_not_grow_together() -> None:
    made = after_frees(allocator_with(10 * MIB, 10 * MIB), 0, 1)
    made.allocate(2, 20 * MIB)
    assert made.reserved_bytes == 40 * MIB


def test_a_segment_that_is_in_use_in_part_is_not_given_back() -> None:
    made = after_frees(allocator_with(8 * MIB, 8 * MIB, 30 * MIB), 0, 2)
    made.empty_cache()
    assert made.reserved_bytes == 20 * MIB
    made.allocate(3, 8 * MIB)
    assert made.reserved_bytes == 20 * MIB


# What an expandable segment does.


@pytest.mark.parametrize(
    ("sizes", "reserved"),
    [((1,), 2), ((MIB, MIB, 1), 4), ((MIB + 1,), 20), ((21 * MIB,), 40), ((15 * MIB, 15 * MIB, 15 * MIB), 60)],
)
def test_an_expandable_segment_grows_by_whole_pages(sizes: tuple[int, ...], reserved: int) -> None:
    assert allocator_with(*sizes, expandable=True).reserved_bytes == reserved * MIB


def test_an_expandable_block_is_split_for_any_rest() -> None:
    made = allocator_with(20 * MIB - 512, expandable=True)
    assert made.allocated_bytes == 20 * MIB - 512
    assert allocator_with(20 * MIB - 512).allocated_bytes == 20 * MIB


def test_of_two_expandable_blocks_of_a_size_the_lower_one_is_taken() -> None:
    made = after_frees(allocator_with(5 * MIB, 20 * MIB, 15 * MIB, 20 * MIB, 20 * MIB, expandable=True), 1, 3)
    made.allocate(5, 20 * MIB)
    made.empty_cache()  # which can give back a page of the upper one, and none of the lower one
    assert made.reserved_bytes == 60 * MIB


def test_a_free_block_at_the_end_is_made_longer() -> None:
    made = after_frees(allocator_with(5 * MIB, 15 * MIB, expandable=True), 1)
    made.allocate(2, 35 * MIB)
    assert made.reserved_bytes == 40 * MIB


def test_a_block_that_can_grow_is_left_for_later() -> None:
    made = after_frees(allocator_with(30 * MIB, 5 * MIB, 25 * MIB, expandable=True), 0, 2)
    made.allocate(3, 20 * MIB)  # of the two, the first, though that is larger
    made.allocate(4, 45 * MIB)
    assert made.reserved_bytes == 80 * MIB


def test_whole_free_pages_are_unmapped_and_mapped_again_in_their_place() -> None:
    made = after_frees(allocator_with(25 * MIB, 15 * MIB, expandable=True), 0)
    made.empty_cache()
    assert made.reserved_bytes == 20 * MIB
    made.allocate(2, 25 * MIB)
    assert made.reserved_bytes == 40 * MIB


def test_a_gap_that_is_too_small_stays_unmapped() -> None:
    made = after_frees(allocator_with(25 * MIB, 15 * MIB, expandable=True), 0)
    made.empty_cache()
    made.allocate(2, 26 * MIB)
    assert made.reserved_bytes == 20 * MIB + 40 * MIB


def test_several_gaps_are_filled_for_one_large_allocation() -> None:
    made = allocator_with(20 * MIB, 5 * MIB, 35 * MIB, 20 * MIB, expandable=True)
    after_frees(made, 0, 2)
    made.empty_cache()  # gaps: 0 to 20 and 40 to 60; free: 25 to 40
    after_frees(made, 1)  # free: 20 to 40
    assert made.reserved_bytes == 40 * MIB
    made.allocate(4, 55 * MIB)
    assert made.reserved_bytes == 80 * MIB


# Out of memory.


def test_unused_segments_are_given_back_before_memory_runs_out() -> None:
    log = [(0, 30 * MIB), (0, 0), (1, 40 * MIB)]
    assert peak_reserved([], log, expandable=False) == 70 * MIB
    assert fits([], log, expandable=False, capacity_bytes=40 * MIB)
    assert not fits([], log, expandable=False, capacity_bytes=40 * MIB - 1)


def test_a_gap_is_counted_in_full_before_it_is_mapped() -> None:
    log = [(0, 30 * MIB), (1, 30 * MIB), (0, 0), (2, 20 * MIB), (3, 40 * MIB)]
    assert peak_reserved([], log, expandable=True) == 100 * MIB
    assert fits([], log, expandable=True, capacity_bytes=100 * MIB)
    assert not fits([], log, expandable=True, capacity_bytes=100 * MIB - 1)


# What holds of every sequence.


def random_log(seed: int, events: int) -> list[tuple[int, int]]:
    """Make allocations of all kinds, and free about as many in any order."""
    chance = random.Random(seed)
    log, alive = list[tuple[int, int]](), list[int]()
    for number in range(events):
        if alive and chance.random() < 0.5:
            log.append((alive.pop(chance.randrange(len(alive))), 0))
        else:
            alive.append(number)
            limit = chance.choice([600, MIB, 2 * MIB, 12 * MIB, 80 * MIB])
            log.append((number, chance.randrange(1, limit)))
    return log


def sizes_alive_after(log: list[tuple[int, int]]) -> dict[int, int]:
    alive = dict[int, int]()
    for number, nbytes in log:
        if nbytes:
            alive[number] = nbytes
        else:
            del alive[number]
    return alive


@BOTH
@pytest.mark.parametrize("seed", range(5))
def test_what_is_reserved_holds_what_is_allocated_holds_what_was_asked_for(seed: int, expandable: bool) -> None:
    log = random_log(seed, 400)
    made, asked = CachingAllocator(expandable), dict[int, int]()
    for number, nbytes in log:
        made.replay([(number, nbytes)])
        if nbytes:
            asked[number] = -(-nbytes // 512) * 512
        else:
            del asked[number]
        total = sum(asked.values())
        assert total <= made.allocated_bytes <= made.reserved_bytes
        if expandable:
            assert made.allocated_bytes == total
        assert made.reserved_bytes % (2 * MIB) == 0
        assert made.peak_allocated_bytes >= made.allocated_bytes
        assert made.peak_reserved_bytes >= made.reserved_bytes
    made.empty_cache()
    assert made.reserved_bytes >= made.allocated_bytes
    after_frees(made, *asked)
    made.empty_cache()
    assert (made.reserved_bytes, made.allocated_bytes) == (0, 0)


@BOTH
@pytest.mark.parametrize("seed", range(5))
def test_emptying_the_cache_changes_nothing_that_is_in_use(seed: int, expandable: bool) -> None:
    log = random_log(seed, 400)
    made = CachingAllocator(expandable)
    for number, nbytes in log:
        made.replay([(number, nbytes)])
        before = made.allocated_bytes
        made.empty_cache()
        assert made.allocated_bytes == before <= made.reserved_bytes
    after_frees(made, *sizes_alive_after(log))
    made.empty_cache()
    assert made.reserved_bytes == 0


@pytest.mark.parametrize("seed", range(5))
def test_an_expandable_segment_packs_a_stack_to_the_page(seed: int) -> None:
    """Where the last one made is the first one freed, as in nested calls, nothing is lost but a part of a page."""
    chance, made, stack = random.Random(seed), CachingAllocator(expandable=True), list[tuple[int, int]]()
    most = [0, 0]
    for number in range(400):
        if stack and chance.random() < 0.5:
            made.free(stack.pop()[0])
        else:
            nbytes = 512 * chance.randrange(1, chance.choice([2000, 100_000]))
            made.allocate(number, nbytes)
            stack.append((number, nbytes))
        for large in (False, True):
            most[large] = max(most[large], sum(nbytes for _, nbytes in stack if (nbytes > MIB) == large))
    pages = -(-most[False] // (2 * MIB)) * 2 * MIB + -(-most[True] // (20 * MIB)) * 20 * MIB
    assert made.peak_reserved_bytes == pages


@BOTH
@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_frees_does_not_matter_to_what_comes_after(seed: int, expandable: bool) -> None:
    chance = random.Random(seed)
    sizes = [chance.randrange(1, chance.choice([MIB, 40 * MIB])) for _ in range(60)]
    gone = chance.sample(range(60), 30)
    found = set()
    for _ in range(4):
        chance.shuffle(gone)
        made = after_frees(allocator_with(*sizes, expandable=expandable), *gone)
        for number, nbytes in enumerate(sizes[:30], start=60):
            made.allocate(number, nbytes)
        found.add((made.reserved_bytes, made.allocated_bytes))
    assert len(found) == 1


def test_growing_sizes_fragment_segments_and_not_an_expandable_one() -> None:
    """The case that Note [Expandable Segments] is about: each size is somewhat more than every free block holds."""
    sizes = [(20 + 4 * step) * MIB for step in range(20)]
    log = [event for number, nbytes in enumerate(sizes) for event in ((number, nbytes), (number, 0))]
    assert peak_reserved([], log, expandable=False) == sum(sizes)
    assert peak_reserved([], log, expandable=True) == 100 * MIB  # the largest, 96 MiB


def test_weights_are_reserved_before_the_log_begins() -> None:
    # 9, 9: one segment of 20 MiB. The log's 2 MiB are its rest; the next ones need another.
    weights = [9 * MIB, 9 * MIB, 512]
    assert peak_reserved(weights, [], expandable=False) == 22 * MIB
    assert peak_reserved(weights, [(0, 2 * MIB)], expandable=False) == 22 * MIB
    assert peak_reserved(weights, [(0, 2 * MIB), (1, 2 * MIB), (0, 0), (1, 0)], expandable=False) == 42 * MIB


@pytest.mark.parametrize("expandable", [True, False])
@pytest.mark.parametrize("setting", [(512, 512, 16, 4, 64), (1280, 704, 24, 9, 32)], ids=str)
def test_what_a_call_is_said_to_need_is_enough_for_it(setting: tuple[int, ...], expandable: bool) -> None:
    forms = shipped_forms(preset_named("i2vgen-xl"))
    assert forms
    width, height, num_frames, chunk_frames, vae_rows = setting
    knobs = {"chunk_frames": chunk_frames, "vae_rows": vae_rows}
    variables = forms.geometry.variables(width, height, num_frames, knobs)
    for call in forms.calls_in("fp16").values():
        for way, events in call.events.items():
            needed = call.reserved(way, variables, expandable).needed_bytes - call.held.peak_bytes(variables)
            assert needed >= call.ways[way].peak_bytes(variables)
            log = events.log(events.sizes_at(variables))
            assert fits([], log, expandable=expandable, capacity_bytes=needed), way
