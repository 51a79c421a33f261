"""The parts of a sitting: what each runs, for how long it may, and in which order."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Part:
    """A part of the sitting.

    Attributes:
        name: name of the part.
        limit: seconds that it may take.
        module: module of `gpu.parts` that has its function.
        function: name of its function, which yields tables.
        variables: variables of its process.
        decode: where DALI decodes in this part and, if this holds, in those after it; None leaves it as it was.
        only_after: name of a part that must have failed; this one is left out otherwise.
    """

    name: str
    limit: float
    module: str
    function: str
    variables: Mapping[str, str] = field(default_factory=dict)
    decode: str | None = None
    only_after: str | None = None


#: In the order of what they prove: a later part means little where an earlier one fails.
PARTS = (
    Part("versions", 45, "machine", "versions"),
    Part("image", 45, "machine", "image"),
    # Some machines do not let DALI map memory of its own; on others its decoder on the GPU fails.
    Part("image without virtual memory", 45, "machine", "image", {"DALI_USE_VMM": "0"}, only_after="image"),
    Part(
        "image decoded on the cpu",
        45,
        "machine",
        "image",
        decode="cpu",
        only_after="image without virtual memory",
    ),
    Part("contract", 100, "suites", "contract"),
    Part("kernels", 100, "kernels", "kernels"),
    Part("triton", 60, "suites", "triton"),
    Part("decoding", 60, "decoding", "decoding"),
    Part("jobs", 150, "jobs", "jobs"),
    Part("waiting", 60, "steps", "waiting"),
    Part("busy", 60, "steps", "busy"),
    Part("speed", 100, "speed", "speed"),
    Part("dump table", 90, "suites", "dump_table"),
    Part("step table", 120, "suites", "step_table"),
    Part("fp16", 45, "jobs", "fp16"),
    Part("nccl", 45, "nccl", "nccl"),
    Part("memory", 60, "memory", "memory"),
)

#: The same by their names.
BY_NAME = {part.name: part for part in PARTS}
