"""Stopping when a signal asks for it: all processes of a team after the same step, whichever of them it reached."""

from kdcache.runtime.distributed import Maximum, Team
from kdcache.runtime.signals import StopRequests


class AgreedStop:
    """Whether a signal has reached any process of the team. Every process has to call each method at the same steps.

    Attributes:
        requests: the signals of this process; what another has told is noted there as well.
    """

    def __init__(self, requests: StopRequests, team: Team) -> None:
        self.requests = requests
        self._team = team
        self._asked: Maximum | None = None

    def after_step(self) -> bool:
        """Whether to stop after this step.

        Several processes stop one step after the signal, however long their steps take: each step begins a reduction of
        one number and reads the result of the one before, so that nobody waits for it.
        """
        if self._team.alone:
            return self.requests.number is not None
        answered, self._asked = self._asked, self._team.begin_maximum(self.requests.number or 0)
        return answered is not None and self._agreed(answered)

    def now(self) -> bool:
        """Whether to stop, asked and answered at once."""
        if self._team.alone:
            return self.requests.number is not None
        return self._agreed(self._team.begin_maximum(self.requests.number or 0))

    def _agreed(self, answered: Maximum) -> bool:
        number = answered.value()
        if number:
            self.requests.note(number)
        return number > 0
