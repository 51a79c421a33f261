"""Requests to an object store through a proxy that breaks some of them."""

import logging
import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tenacity import RetryCallState, Retrying

from kdcache.errors import UsageError
from kdcache.io import object_retry, object_store
from kdcache.io.object_retry import FIRST_CONTACT, LONGEST_PAUSE, RetryPolicy
from kdcache.io.object_store import ObjectStore, StoreError
from support.faulty_store import Faults, faulty
from support.s3 import s3, s3_server  # noqa: F401

DATA = bytes(range(256)) * 40
#: An operation on the object `a`, which has DATA, and what it gives.
OPERATIONS: dict[str, tuple[Callable[[ObjectStore], object], object]] = {
    "get": (lambda store: store.get("a"), DATA),
    "range": (lambda store: store.get_range("a", 100, 300), DATA[100:400]),
    "ranges": (lambda store: store.get_ranges("a", [0, 5000], [10, 20]), [DATA[:10], DATA[5000:5020]]),
    "head": (lambda store: state.size if (state := store.head("a")) else None, len(DATA)),
    "names": (lambda store: store.names(""), (["a"], [])),
    "states": (lambda store: [state.key for state in store.states("")], ["a"]),
    "put": (lambda store: (store.put("b", b"one", b"two"), store.get("b"))[1], b"onetwo"),
    "create": (lambda store: (store.put_if_absent("b", b"new"), store.get("b")), (True, b"new")),
    "delete": (lambda store: (store.delete("a"), store.head("a"))[1], None),
}
FAILING = ("500", "503", "reset-before", "reset-after")
CASES = [(name, kind) for name in OPERATIONS for kind in FAILING]
CASES += [(name, "cut") for name in ("get", "range", "ranges")]
CASES += [(name, "mid-put") for name in ("put", "create")]


@pytest.fixture
def url(s3: str) -> str:  # noqa: F811
    """A prefix with the one object `a`."""
    ObjectStore(f"{s3}/some/place").put("a", DATA)
    return f"{s3}/some/place"


@pytest.fixture
def broken(s3_server: str, url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Faults], ObjectStore]]:  # noqa: F811
    """Opens the store at `url` behind a proxy with these faults."""
    proxies = []

    def open_broken(faults: Faults, policy: RetryPolicy | None = None) -> ObjectStore:
        proxies.append(faulty(s3_server, faults))
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxies[-1].__enter__())
        return ObjectStore(url, policy)

    yield open_broken
    for proxy in proxies:
        proxy.__exit__(None, None, None)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_what_fails_is_tried_again_and_told(
    broken: Callable[[Faults], ObjectStore], name: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Twice in a row, whatever the operation asks for."""
    faults = Faults({kind: 1.0}, in_a_row=2)
    store = broken(faults)
    operation, expected = OPERATIONS[name]
    assert operation(store) == expected
    assert faults.happened[kind] >= 2
    told = [record for record in caplog.records if record.name == "kdcache.io.object_store"]
    if name != "ranges":  # of which several may fail at once
        assert len(told) == sum(faults.happened.values())
    assert all(record.levelno == logging.WARNING and "some/place" in record.getMessage() for record in told)


def test_a_body_that_stands_still_is_given_up_and_fetched_again(
    broken: Callable[[Faults], ObjectStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_TIMEOUT", "1s")
    assert broken(Faults({"slow": 1.0}, in_a_row=1)).get("a") == DATA


def test_a_large_object_gets_through_in_its_parts(
    broken: Callable[[Faults], ObjectStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "LARGE", 2**20)
    parts = [bytes([number]) * (5 * 2**20) for number in range(3)]
    store = broken(Faults({"503": 0.3, "reset-before": 0.2, "mid-put": 0.3}, seed=1))
    store.put("large", *parts)
    assert store.get("large") == b"".join(parts)


def test_a_conditional_put_that_was_done_unheard_is_told_from_anothers(
    broken: Callable[[Faults], ObjectStore], url: str
) -> None:
    faults = Faults({"reset-after": 1.0}, in_a_row=1, methods=("PUT",))
    store = broken(faults)
    assert store.put_if_absent("ours", b"ours")
    assert faults.asked["PUT"] == 2, "the second found it there"
    assert not broken(Faults({"500": 1.0}, in_a_row=1, methods=("PUT",))).put_if_absent("ours", b"another's")
    assert not broken(Faults({})).put_if_absent("ours", b"ours"), "what was there before is not ours"
    assert ObjectStore(url).get("ours") == b"ours"


@pytest.mark.parametrize("name", OPERATIONS)
def test_what_stays_broken_ends_by_name(broken: Callable[..., ObjectStore], name: str) -> None:
    """After a stated time, which here is next to none."""
    policy = RetryPolicy(limit=0.1, first_pause=0.001)
    store = broken(Faults({"503": 1.0}, forever=True), policy)
    with pytest.raises(
        StoreError, match=r"^the server returned 503 Service Unavailable( \(\d+ tries in \d+\.\d s\))?$"
    ):
        OPERATIONS[name][0](store)


def test_what_is_refused_is_not_tried_for_minutes(broken: Callable[[Faults], ObjectStore], url: str) -> None:
    """Only as often as any response that may be a gateway's mistake."""
    missing = broken(Faults({}))
    assert missing.head("nothing") is None
    assert missing.get("nothing") is None
    assert missing.get_range("nothing", 0, 1) is None
    assert missing.get_ranges("nothing", [0, 9], [1, 1]) is None
    faults = Faults({})
    broken(faults)
    with pytest.raises(StoreError, match=r"there is no such bucket .* \(5 tries in") as caught:
        ObjectStore("s3://no-such-bucket/a").names("")
    assert caught.value.is_missing
    assert faults.asked["GET"] == object_retry.DOUBTFUL_TRIES
    with pytest.raises(StoreError, match="no such bucket"):
        ObjectStore("s3://no-such-bucket/a").get("b")
    with pytest.raises(StoreError, match="Unable to recognise URL"):
        ObjectStore("nonsense://somewhere")


@pytest.mark.usefixtures("url")
def test_ranges_behind_the_end_are_short_and_nothing_panics(s3: str) -> None:  # noqa: F811
    store = ObjectStore(f"{s3}/some/place")
    size = len(DATA)
    assert store.get_ranges("a", [0, size - 5, size + 9], [3, 9, 4]) == [DATA[:3], DATA[-5:], b""]
    assert store.get_range("a", size - 1, 5) == DATA[-1:]
    assert store.get_range("a", size, 5) == b""
    assert store.get_range("a", 3, 0) == b""


def test_a_panic_of_the_client_library_is_an_error_as_any_other(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class PanicException(BaseException):  # as pyo3 calls it
        pass

    def panic(*asked: object) -> None:
        raise PanicException("range start must not be greater than end")

    monkeypatch.setattr("kdcache.io.object_store.obstore", SimpleNamespace(head=panic))
    with pytest.raises(StoreError, match="obstore failed: range start must not"):
        ObjectStore(url, RetryPolicy(limit=0.0)).head("a")


def test_a_store_that_never_responded_or_was_given_up_is_waited_for_less(
    broken: Callable[..., ObjectStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its endpoint may well be wrong; one that has responded may come back."""
    limits = []
    real = RetryPolicy.after_failures

    def noted(policy: RetryPolicy, what: str, limit: float, *rest: object) -> object:
        limits.append(limit)
        return real(policy, what, limit, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(RetryPolicy, "after_failures", noted)
    monkeypatch.setattr(object_store, "FIRST_CONTACT", 0.01)
    faults = Faults({"503": 0.0})
    store = broken(faults, RetryPolicy(limit=0.02, first_pause=0.001))
    store.head("a")
    store.head("a")
    faults.forever = True
    for _ in range(2):
        with pytest.raises(StoreError):
            store.head("a")
    faults.forever = False
    store.head("a")
    store.head("a")
    assert limits == [0.01, 0.02, 0.02, 0.01, 0.01, 0.02]
    assert FIRST_CONTACT < object_retry.LIMIT


@given(st.integers(1, 400), st.floats(0.001, 10))
def test_pauses_double_up_to_the_longest_and_differ_by_a_half(attempt: int, first: float) -> None:
    state = random.getstate()
    asked = RetryCallState(Retrying(), None, (), {})
    asked.attempt_number = attempt
    pause = RetryPolicy(first_pause=first)._pause(asked)
    longest = min(LONGEST_PAUSE, first * 2.0 ** min(attempt - 1, 30))
    assert longest / 2 <= pause <= longest
    assert random.getstate() == state, "which trainings save and restore"


def test_the_environment_sets_limit_and_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(object_retry.LIMIT_VARIABLE, "7.5")
    monkeypatch.setenv(object_retry.PAUSE_VARIABLE, "0")
    assert RetryPolicy.from_environment() == RetryPolicy(7.5, 0.0)
    monkeypatch.setenv(object_retry.PAUSE_VARIABLE, "")
    assert RetryPolicy.from_environment() == RetryPolicy(7.5)
    for text in ("-1", "nan", "inf", "soon", "1e9"):
        monkeypatch.setenv(object_retry.LIMIT_VARIABLE, text)
        with pytest.raises(UsageError, match=rf"\$KDCACHE_STORE_RETRY_SECONDS is '{text}': give a number"):
            RetryPolicy.from_environment()


def test_an_answer_that_is_doubtful_is_asked_for_again(caplog: pytest.LogCaptureFixture) -> None:
    policy = RetryPolicy(first_pause=0.0)
    results = iter([None, ValueError("flipped"), 3])

    def read() -> int | None:
        found = next(results)
        if isinstance(found, Exception):
            raise found
        return found

    def is_value_error(error: BaseException) -> bool:
        return isinstance(error, ValueError)

    assert policy.confirmed("here", read, lambda found: found is not None, is_value_error) == 3
    assert [record.getMessage() for record in caplog.records] == [
        "here was missing or damaged in the store's first response, and correct in response 3"
    ]
    caplog.clear()
    asked = []
    assert policy.confirmed("here", lambda: asked.append(1), lambda found: False, is_value_error) is None
    assert len(asked) == object_retry.DOUBTFUL_TRIES
    with pytest.raises(KeyError):
        policy.confirmed("here", lambda: {}["a"], lambda found: True, is_value_error)
    with pytest.raises(ValueError, match="always"):
        policy.confirmed("here", lambda: int("always"), lambda found: True, is_value_error)
    assert not caplog.records


def test_an_object_says_when_it_was_put(url: str) -> None:
    state = ObjectStore(url).head("a")
    assert state is not None
    assert state.e_tag
    assert abs((datetime.now(UTC) - state.modified).total_seconds()) < 3600
