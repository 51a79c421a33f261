"""The settings that several objectives have; each is declared once, with its type, range and help."""

from typing import Annotated, Literal

from kdcache.io.checked import Setting
from kdcache.io.limits import MAX_EPOCHS

#: The largest temperature, weight, width, and number of negatives.
MOST = 2**16

#: Layers whose feature maps are meant: numbers as timm counts them, or `kdcache.models.maps`'s choice of all stages or
#: of one.
Layers = tuple[int, ...] | Literal["stages", "middle"]

#: The loss on labels: cross-entropy, binary cross-entropy or none.
LabelLoss = Literal["ce", "bce", "none"]

KdWeight = Annotated[float, Setting("Weight of the distillation term.", least=0, most=MOST)]
LabelWeight = Annotated[float, Setting("Weight of the label loss.", least=0, most=MOST)]
KD_STOP_EPOCH = Setting("First epoch, counted from 0, that learns from labels alone.", least=1, most=MAX_EPOCHS)
KdStopEpoch = Annotated[int | None, KD_STOP_EPOCH]
LabelLossName = Annotated[LabelLoss, Setting("Loss on labels.")]
Smoothing = Annotated[float, Setting("Label smoothing.", least=0, below=1)]
BCE_SUM = Setting("Sum the binary cross-entropy over the classes; timm's default is the mean.")
BceSum = Annotated[bool, BCE_SUM]
BCE_TARGET_THRESH = Setting(
    "Threshold of the binary cross-entropy: soft labels above X become 1, others 0.", least=0, below=1
)
BceTargetThresh = Annotated[float | None, BCE_TARGET_THRESH]
Temperature = Annotated[float, Setting("Temperature of the distillation term.", above=0, most=MOST)]
TermWeight = Annotated[float, Setting("Weight of a part within the distillation term.", least=0, most=MOST)]
WarmupEpochs = Annotated[
    int,
    Setting("Epochs in which the distillation term grows linearly to its weight; 1: at once.", least=0, most=MOST),
]
Approximate = Annotated[bool, Setting("Take topk targets where every class is needed, with their tail spread evenly.")]
Width = Annotated[int, Setting("Width of what is learnt beside the student, such as embeddings.", least=1, most=MOST)]
ComparedLayers = Annotated[
    Layers,
    Setting(
        "Layers whose feature maps are compared: stages, middle, or numbers of layers as timm counts them, ascending, "
        "negative ones from the end."
    ),
]
