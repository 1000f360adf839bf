"""What one process keeps: bounds that always hold, newest values, and how long an entry may be served."""

from collections import OrderedDict

from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import UpstreamTimeout
from gateway.store.local_cache import Entry, LocalCache, newest

MOST_ENTRIES, MOST_BYTES = 5, 80


def entry(value: bytes = b"v", *, asked_at: float = 0.0, fresh_for: float = 30.0, stale_for: float = 300.0) -> Entry:
    return Entry(value, asked_at=asked_at, fetched_at=asked_at, fresh_for=fresh_for, stale_for=stale_for)


class Model:
    """The rules by the book: a list in order of use, cut from its old end."""

    def __init__(self) -> None:
        self.kept: OrderedDict[str, Entry] = OrderedDict()

    def size(self) -> int:
        return sum(len(name) + len(kept.value) for name, kept in self.kept.items())

    def get(self, name: str) -> Entry | None:
        if name in self.kept:
            self.kept.move_to_end(name)
        return self.kept.get(name)

    def put(self, name: str, new: Entry) -> None:
        if name in self.kept and self.kept[name].asked_at > new.asked_at:
            return
        self.kept.pop(name, None)
        if len(name) + len(new.value) <= MOST_BYTES / 8:
            self.kept[name] = new
        while len(self.kept) > MOST_ENTRIES or self.size() > MOST_BYTES:
            self.kept.popitem(last=False)


names = st.sampled_from("abcdefghij")
steps = st.one_of(
    st.tuples(st.just("get"), names),
    st.tuples(st.just("put"), names, st.integers(0, 15), st.integers(0, 5)),
)


@given(st.lists(steps, max_size=60))
def test_it_is_a_bounded_lru_that_never_forgets_the_newer(history: list[tuple]) -> None:
    cache, model = LocalCache(most_entries=MOST_ENTRIES, most_bytes=MOST_BYTES), Model()
    for verb, name, *rest in history:
        if verb == "get":
            assert cache.get(name) == model.get(name)
        else:
            length, asked_at = rest
            new = entry(b"x" * length, asked_at=float(asked_at))
            cache.put(name, new)
            model.put(name, new)
        assert len(cache) == len(model.kept) <= MOST_ENTRIES
        assert cache.size == model.size() <= MOST_BYTES
    assert {name: cache.get(name) for name in model.kept} == dict(model.kept)


def test_bytes_alone_push_entries_out() -> None:
    cache = LocalCache(most_entries=1000, most_bytes=80)
    for number in range(20):
        cache.put(f"{number:02}", entry(b"12345678"))
    assert len(cache) == 8
    assert cache.get("11") is None
    assert cache.get("12") is not None


def test_an_entry_of_more_than_an_eighth_is_not_kept_and_the_older_one_goes() -> None:
    cache = LocalCache(most_entries=10, most_bytes=80)
    cache.put("a", entry(b"1" * 9))
    assert cache.get("a") is not None
    cache.put("a", entry(b"1" * 10, asked_at=1.0))
    assert cache.get("a") is None
    assert cache.size == 0


def test_of_two_entries_the_one_asked_for_later_is_newer() -> None:
    old, new = entry(b"old"), entry(b"new", asked_at=1.0)
    assert newest(old, new) is newest(new, old) is newest(None, new) is newest(new, None) is new
    assert newest(None, None) is None


@given(st.floats(0, 1000), st.floats(0.1, 400), st.floats(0.1, 400))
def test_an_entry_is_served_for_the_shorter_lifetime_and_five_minutes_more_in_need(
    now: float, given_time: float, wanted: float
) -> None:
    kept = entry(fresh_for=given_time)
    assert kept.is_fresh(now, wanted) == (now < min(given_time, wanted))
    assert kept.is_usable(now, wanted) == (now < min(given_time, wanted) + 300)


def test_a_lifetime_of_its_own_is_neither_cut_nor_stretched() -> None:
    kept = entry(fresh_for=60.0, stale_for=0.0)
    assert kept.is_fresh(59.9, wanted=1.0)
    assert kept.is_usable(59.9, wanted=600.0)
    assert not kept.is_usable(60.0, wanted=600.0)


def test_an_entry_rests_until_its_time_to_try_again() -> None:
    assert not entry().is_resting(0.0)
    kept = Entry(b"", 0.0, 0.0, 1.0, 300.0, failure=UpstreamTimeout(), retry_at=5.0)
    assert kept.is_resting(4.9)
    assert not kept.is_resting(5.0)


def test_no_entry_is_younger_than_nothing() -> None:
    assert entry(asked_at=10.0).age(9.0) == 0.0
