"""What every place where a cache's bytes may lie has to do."""

from kdcache.cache.files import Files


def check_parts(files: Files) -> None:
    """What is put in parts is one thing, and is got whole or in parts."""
    files.put("a/b", b"one", b"", b"two")
    assert files.get("a/b") == b"onetwo"
    assert [files.get_part("a/b", *part) for part in ((0, 6), (2, 2), (4, 9), (6, 1), (9, 2**40), (1, 0))] == [
        b"onetwo", b"et", b"wo", b"", b"", b"",
    ]  # fmt: skip
    assert files.get_part("a/c", 0, 1) is None
    assert files.get_part("a/c", 0, 0) is None
    assert files.holds("a/b", b"one", b"two")
    assert files.holds("a/b", b"onetwo")
    for others in ([b"one"], [b"one", b"tw"], [b"one", b"twx"], [b"one", b"two", b"x"], [b"x", b"netwo"]):
        assert not files.holds("a/b", *others)
    assert not files.holds("a/c", b"one", b"two")
