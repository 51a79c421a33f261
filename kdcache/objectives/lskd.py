"""Logit standardisation: what counts is a logit's place among the others, not its scale."""

from dataclasses import dataclass
from typing import Annotated, Literal

from jaxtyping import Float
from torch import Tensor

from kdcache.io.checked import Setting, checked
from kdcache.objectives.base import LossInputs
from kdcache.objectives.distillation import ANOTHER_OBJECTIVE, Distillation
from kdcache.objectives.dkd import dkd
from kdcache.objectives.flat_rows import constant_where_flat
from kdcache.objectives.kd import kd
from kdcache.objectives.labels import hard_labels
from kdcache.objectives.precision import at_least_float32
from kdcache.objectives.settings import Approximate, KdWeight, Temperature, TermWeight, WarmupEpochs

EPSILON = 1e-7


def standardized(logits: Float[Tensor, "b c"]) -> Float[Tensor, "b c"]:
    """(z - mean) / (1e-7 + std) of each row, std without bias.

    Sun et al. 2024, "Logit Standardization in Knowledge Distillation", Algorithm 1. Log-probabilities give the same as
    the logits they come from. Rows that do not vary have no gradient.
    """
    logits = constant_where_flat(at_least_float32(logits))
    return (logits - logits.mean(dim=1, keepdim=True)) / (EPSILON + logits.std(dim=1, keepdim=True))


def lskd(
    student_logits: Float[Tensor, "b c"], teacher_log_probs: Float[Tensor, "b c"], temperature: float = 2.0
) -> Float[Tensor, ""]:
    """`kd` of standardised logits: T^2 * KL(softmax(Z_t / T) || softmax(Z_s / T)), mean over b.

    Sun et al. 2024, as `standardized`. The teacher is a constant: no gradient flows to it.

    Exact with `full` and `embedding` targets. `topk` serves badly: the mean and the spread of a row's logits are made
    by the many classes that it leaves out.
    """
    teacher = standardized(teacher_log_probs.detach()).log_softmax(1)
    return kd(standardized(student_logits), teacher, temperature)


@checked
@dataclass(frozen=True)
class LSKD(Distillation):
    """kd_weight * KD or DKD on standardised logits + label_weight * label loss.

    T = 2 and kd_weight 9 are the paper's; its label loss weighs 1 on ImageNet and 0.1 on CIFAR (`lskd-cifar`), and 1
    with DKD (`lskd-dkd`, `lskd-dkd-cifar`), whose alpha and beta are those of DKD alone. The paper's script for DKD
    in fact leaves T at DKD's own, and multiplies beta of CIFAR so as to make it 81: temperature 4 and beta 9 here.

    Attributes:
        temperature: temperature of both sides, T > 0.
        method: method that compares the standardised logits: "kd" or "dkd".
        alpha, beta, warmup_epochs: settings of DKD; without effect on "kd".
        approximate: whether `topk` targets are taken too, with their tail spread evenly, which is far off.
    """

    name: Literal["lskd"] = "lskd"
    kd_weight: KdWeight = 9.0
    temperature: Temperature = 2.0
    method: Annotated[Literal["kd", "dkd"], Setting("Method that compares the standardised logits.")] = "kd"
    alpha: TermWeight = 1.0
    beta: TermWeight = 0.5
    warmup_epochs: WarmupEpochs = 1
    approximate: Approximate = False

    far_from_topk = "the mean and the spread of the teacher's logits are those of the even tail"
    fewest_classes = 3  # standardised, two logits are 1 and -1 whatever they were

    @property
    def distils_by_label(self) -> bool:
        """Whether the distillation term itself needs labels, which DKD does."""
        return self.method == "dkd"

    @property
    def idle(self) -> tuple[str, ...]:
        """The names of settings that have no effect: those of DKD where the method is another, among others."""
        return (*super().idle, *(() if self.method == "dkd" else ("alpha", "beta", "warmup_epochs")))

    def needs_full(self) -> str:
        """Return advice unless a tail is taken as even, as mean and spread are those of all classes."""
        return "" if self.approximate else ANOTHER_OBJECTIVE

    def ramp(self, epoch: int) -> float:
        """Return the share of the term's weight in an epoch: only DKD has a warm-up."""
        return super().ramp(epoch) if self.method == "dkd" else 1.0

    def distil(self, inputs: LossInputs) -> Float[Tensor, ""]:
        """Compute `lskd`, or `dkd` of standardised logits."""
        if self.method == "kd":
            return lskd(inputs.logits, inputs.teacher_log_probs, self.temperature)
        return dkd(
            standardized(inputs.logits),
            standardized(inputs.teacher_log_probs),
            hard_labels(inputs.labels, inputs.weight),
            alpha=self.alpha,
            beta=self.beta,
            temperature=self.temperature,
        )
