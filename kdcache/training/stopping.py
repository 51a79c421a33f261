"""Stopping when a signal asks for it: all processes after the same step, whichever it reached."""

from kdcache.runtime.distributed import Distributed, Maximum
from kdcache.runtime.signals import StopRequests


class AgreedStop:
    """Tells whether a signal has reached any process. Every process has to call each method at the same steps.

    Attributes:
        requests: signals of this process; those of other processes are noted there as well.
    """

    def __init__(self, requests: StopRequests, processes: Distributed) -> None:
        self.requests = requests
        self._processes = processes
        self._pending: Maximum | None = None

    def after_step(self) -> bool:
        """Return whether to stop after this step.

        Several processes stop one step after the signal, however long their steps take: each step begins a reduction of
        one number and reads the result of the one before, so that nobody waits for it.
        """
        if self._processes.is_single:
            return self.requests.number is not None
        last, self._pending = self._pending, self._processes.begin_all_reduce_max(self.requests.number or 0)
        return last is not None and self._agreed(last)

    def now(self) -> bool:
        """Return whether to stop, after a reduction over all processes that is waited for."""
        if self._processes.is_single:
            return self.requests.number is not None
        return self._agreed(self._processes.begin_all_reduce_max(self.requests.number or 0))

    def _agreed(self, maximum: Maximum) -> bool:
        number = maximum.value()
        if number:
            self.requests.note(number)
        return number > 0
