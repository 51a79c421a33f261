"""The number of threads that a test process computes and decodes with."""

from collections.abc import MutableMapping

#: The variables that number them: of OpenMP, which PyTorch follows, and of kdcache.
NAMES = ("OMP_NUM_THREADS", "KDCACHE_THREADS")

#: Names the variables that a test process has set itself, for the workers that inherit them.
OWN = "KDCACHE_TEST_OWN_THREADS"


def share_threads(environment: MutableMapping[str, str], cores: int) -> None:
    """Set the number of threads in an environment, where the user has not.

    Each pytest-xdist worker takes its share of the cores; else every worker starts a thread on every core, and they
    wait for one another. A number that the user gives for OpenMP or for kdcache holds for both. Workers inherit what
    the main process has set for itself, which is set anew there.
    """
    own = environment.get(OWN, "").split()
    given = {name: environment[name] for name in NAMES if name in environment and name not in own}
    share = max(1, cores // int(environment.get("PYTEST_XDIST_WORKER_COUNT", "1")))
    number = next((value for value in given.values() if value.isdecimal()), str(share))
    missing = [name for name in NAMES if name not in given]
    environment.update(dict.fromkeys(missing, number))
    environment[OWN] = " ".join(missing)
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
