from profilers.arena import FIRST_REGION_BYTES, Arena

KIB = 1024


def test_nothing_takes_no_chunk_and_little_takes_256_bytes():
    arena = Arena()
    assert arena.allocate(0) is None
    arena.free(None)
    assert arena.bytes_in_use == 0
    arena.allocate(1)
    assert arena.bytes_in_use == 256


def test_a_freed_chunk_is_split_only_if_it_is_twice_what_is_asked_for():
    arena = Arena()
    first = arena.allocate(400 * KIB)
    arena.allocate(KIB)  # keeps it from growing together with the rest of the region
    arena.free(first)
    whole = arena.allocate(201 * KIB)
    assert arena.bytes_in_use == 401 * KIB
    arena.free(whole)
    arena.allocate(200 * KIB)
    assert arena.bytes_in_use == 201 * KIB


def test_the_smallest_chunk_that_fits_is_taken():
    arena = Arena()
    chunks = [arena.allocate(size * KIB) for size in (300, 1, 200, 1, 250, 1)]
    for chunk in chunks[::2]:
        arena.free(chunk)
    assert arena.allocate(190 * KIB) is chunks[2]


def test_free_neighbours_become_one_chunk():
    arena = Arena()
    chunks = [arena.allocate(100 * KIB) for _ in range(4)]
    for i in (0, 2, 1):  # the last one joins both sides
        arena.free(chunks[i])
    assert arena.allocate(300 * KIB).start == 0
    assert arena.bytes_in_use == 400 * KIB


def test_a_region_that_was_made_to_fit_is_not_doubled_and_others_are():
    arena = Arena()
    arena.allocate(FIRST_REGION_BYTES)  # the first region; the next is to be twice as large
    arena.allocate(FIRST_REGION_BYTES * 4)  # made to fit
    third = arena.allocate(FIRST_REGION_BYTES)
    rest = arena.allocate(FIRST_REGION_BYTES * 3)  # what is left of a region of four
    assert (third.region, rest.region) == (2, 2)
    assert arena.bytes_in_use == 9 * FIRST_REGION_BYTES


def test_chunks_of_two_regions_never_join():
    arena = Arena()
    first, second = arena.allocate(FIRST_REGION_BYTES), arena.allocate(2 * FIRST_REGION_BYTES)
    arena.free(first)
    arena.free(second)
    assert arena.allocate(3 * FIRST_REGION_BYTES).region == 2


def test_the_peak_is_the_most_since_it_was_reset():
    arena = Arena()
    arena.free(arena.allocate(10 * KIB))
    assert arena.peak_bytes == 10 * KIB
    arena.reset_peak()
    assert arena.peak_bytes == 0
    arena.allocate(KIB)
    assert arena.peak_bytes == KIB
