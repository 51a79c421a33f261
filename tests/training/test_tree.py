import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdcache.errors import RunError
from kdcache.training.tree import flatten, stored, unflatten

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.lists(inner).map(tuple),
    max_leaves=20,
)


def there_and_back(tree):
    values, tensors = flatten(tree)
    return unflatten(json.loads(json.dumps(values, allow_nan=False)), tensors)


@given(plain)
def test_plain_values_come_back_with_their_types(tree):
    back = there_and_back(tree)
    assert back == tree
    assert repr(back) == repr(tree)


@pytest.mark.parametrize(
    "tree",
    [{"$tensor": "a"}, {"$tuple": [1]}, {"$items": []}, {"$number": "1"}, {"$tensor": 1, "channels_last": 2}],
)
def test_what_looks_like_a_tag_is_no_tag(tree):
    assert there_and_back(tree) == tree


def test_numbers_that_json_lacks_come_back():
    back = there_and_back([math.inf, -math.inf, math.nan])
    assert back[:2] == [math.inf, -math.inf]
    assert math.isnan(back[2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.uint8, torch.int64, torch.bool])
def test_tensors_come_back_wherever_they_are(dtype):
    tree = {
        0: {"a": (torch.ones(2, 3).to(dtype), [torch.tensor(1).to(dtype)])},
        "b": torch.zeros(0, dtype=dtype),
    }
    back = there_and_back(tree)
    assert back[0]["a"][0].dtype == dtype
    assert torch.equal(back[0]["a"][0], tree[0]["a"][0])
    assert back[0]["a"][1][0].shape == ()
    assert back["b"].shape == (0,)


def test_paths_that_look_alike_stay_apart():
    back = there_and_back(
        {"a": {"b": torch.tensor(1)}, "a.b": torch.tensor(2), "c": {1: torch.tensor(3), "1": torch.tensor(4)}}
    )
    assert [int(back["a"]["b"]), int(back["a.b"]), int(back["c"][1]), int(back["c"]["1"])] == [1, 2, 3, 4]


def test_the_layout_of_a_tensor_comes_back():
    image = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    back = there_and_back({"image": image, "plain": image.contiguous()})
    assert torch.equal(back["image"], image)
    assert back["image"].stride() == image.stride()
    assert back["plain"].is_contiguous()


def test_stored_tensors_share_nothing():
    tensor = torch.arange(6.0).reshape(2, 3)
    tensors = {"whole": tensor, "same": tensor, "turned": tensor.t(), "part": tensor[1], "none": torch.zeros(0)}
    found = stored(tensors)
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert all(copy.is_contiguous() for copy in found.values())
    assert len({copy.untyped_storage().data_ptr() for copy in found.values()}) == len(tensors)
    # What is fit for a file is not copied: a checkpoint takes no memory beside the model.
    assert found["whole"].data_ptr() == tensor.data_ptr()


@pytest.mark.parametrize("thing", [object(), {1.5: 1}, {"a": {2, 3}}, torch.float32, [print]])
def test_what_a_checkpoint_cannot_keep_is_refused(thing):
    with pytest.raises(RunError, match="cannot keep"):
        flatten({"state": thing})
