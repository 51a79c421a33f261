"""What enters a classifier, for models of several makes."""

import pytest
import timm
import torch

from kdcache.errors import ModelError
from kdcache.models.features import feature_size, watched_features

PIXELS = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "more"),
    [("test_resnet", {}), ("test_convnext", {}), ("test_vit", {"img_size": 32}), ("test_efficientnet", {})],
)
def test_they_are_what_the_classifier_turns_into_logits(name, more):
    model = timm.create_model(name, num_classes=5, **more).eval()
    with watched_features(model) as seen:
        logits = model(PIXELS)
    (features,) = seen
    assert features.shape == (2, feature_size(model))
    torch.testing.assert_close(model.get_classifier()(features), logits)
    features.sum().backward()
    assert any(parameter.grad is not None for parameter in model.parameters())


def test_nothing_is_watched_afterwards():
    model = timm.create_model("test_resnet", num_classes=5).eval()
    with watched_features(model) as seen:
        pass
    model(PIXELS)
    assert not seen


def test_a_model_without_one_linear_classifier_is_refused():
    with pytest.raises(ModelError, match="another model"):
        feature_size(timm.create_model("test_resnet", num_classes=0))
    with pytest.raises(ModelError, match=r"objective\.name"):
        feature_size(torch.nn.Flatten())
