"""Remedies for errors of the system."""

import errno
from collections.abc import Mapping
from types import MappingProxyType

#: One sentence by error number; other numbers are unexpected errors.
REMEDIES: Mapping[int, str] = MappingProxyType(
    {
        errno.EACCES: "Check who owns it and its permissions, or give another place.",
        errno.EPERM: "Check who owns it and its permissions, or give another place.",
        errno.EROFS: "Give a place that can be written.",
        errno.ENOSPC: "Free some space, then run the same command again.",
        errno.EDQUOT: "Free some space or raise the quota, then run the same command again.",
        errno.ENOENT: "Check the path.",
        errno.ENOTDIR: "Check the path: a part of it is a file.",
        errno.EISDIR: "Check the path: it is a folder.",
        errno.ELOOP: "Check the path: its links lead in a circle.",
        errno.ENAMETOOLONG: "Give a shorter path.",
        errno.EMFILE: "Raise the limit on open files (`ulimit -n`), then run the same command again.",
        errno.ENFILE: "Close other programs: the system has as many files open as it may. Then run the same command "
        "again.",
        errno.EIO: "The disk or its network mount fails: check it, then run the same command again.",
        errno.ESTALE: "The network mount was lost: mount it again, then run the same command again.",
    }
)
