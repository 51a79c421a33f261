"""Killing a process before each step in turn that changes the file system."""

import os
import sys
from collections.abc import Callable, Iterator

STEPS = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}
_KILLED = 77


def kills(work: Callable[[], object], most: int = 500) -> Iterator[int]:
    """Run `work` in a forked process that dies without a trace before its 1st file-system step, then the 2nd, ...

    Yields after each death how many steps were taken; ends once the process lives to the end. Cleaning up between the
    deaths is the caller's.
    """
    for allowed in range(most):
        child = os.fork()
        if child == 0:
            _die_after(allowed)
            try:
                work()
            except BaseException as error:
                os.write(2, f"{error!r}\n".encode())
                os._exit(1)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status == 0:
            return
        assert status == _KILLED, f"the process failed at step {allowed}"
        yield allowed
    raise AssertionError(f"more than {most} steps")


def _die_after(allowed: int) -> None:
    left = allowed

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        if event in STEPS or (event == "open" and _writes(arguments)):
            if left == 0:
                os._exit(_KILLED)
            left -= 1

    sys.addaudithook(hook)


def _writes(arguments: tuple[object, ...]) -> bool:
    _, _, flags = arguments
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
