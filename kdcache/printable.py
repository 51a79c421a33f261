"""Text that came from files, arguments or the network, as it may be shown on a terminal, in a log or on a sheet."""

#: Letters and marks that Python takes for printable and nobody sees: a joiner, fillers of Hangul, vowels of Khmer.
_UNSEEN = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0")


def printable(text: str) -> str:
    r"""The text in one line, with every character escaped that would not be seen as itself.

    Escaped, as Python writes them (`\n`, `\x1b`, `\u202e`), are control characters (C0, C1, DEL), those that turn the
    direction of writing, invisible and unassigned ones, separators of lines and paragraphs, spaces other than " ",
    and halves of characters (lone surrogates), which cannot be written at all. A byte of a file name that is no UTF-8
    is shown as that byte (`\xff`). What is printable already stays as it is, backslashes too, so that escaping twice
    is as good as once.
    """
    if text.isprintable() and _UNSEEN.isdisjoint(text):
        return text
    return "".join(char if char.isprintable() and char not in _UNSEEN else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # how Python holds a byte that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return char.encode("unicode_escape").decode()
