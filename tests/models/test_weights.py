import os
import pickle

import pytest
import torch
from safetensors.torch import save_file

from kdcache.errors import ModelError
from kdcache.models.card import ModelCard
from kdcache.models.weights import holds_weights, misfits, read_weights, weight_hash

TENSORS = {"fc.weight": torch.arange(6.0).reshape(3, 2), "fc.bias": torch.tensor([1.0, -2.0, 0.5])}
CARD = ModelCard(
    architecture="test_resnet",
    num_classes=3,
    input_size=(3, 32, 32),
    mean=(0.5, 0.25, 0.1),
    std=(0.2, 0.3, 1 / 3),
    interpolation="bilinear",
    crop_pct=0.95,
    model_args={"drop": None, "stem": [1, 2]},
)


def assert_read(path):
    read = read_weights(path)
    assert read.tensors.keys() == TENSORS.keys()
    assert all(torch.equal(read.tensors[name], TENSORS[name]) for name in TENSORS)
    return read


def test_safetensors_are_read_with_their_card(tmp_path):
    save_file(TENSORS, tmp_path / "some.safetensors", CARD.to_metadata())
    assert assert_read(tmp_path / "some.safetensors").card == CARD


def test_safetensors_of_others_have_no_card(tmp_path):
    save_file(TENSORS, tmp_path / "some.safetensors", {"format": "pt"})
    assert assert_read(tmp_path / "some.safetensors").card is None


@pytest.mark.parametrize("key", ["input_size", "mean", "crop_pct", "num_classes"])
@pytest.mark.parametrize("bad", ["[[[", '"x"', "{}", None])
def test_a_header_that_makes_no_sense_is_refused(tmp_path, key, bad):
    metadata = CARD.to_metadata()
    if bad is None:
        del metadata[key]
    else:
        metadata[key] = bad
    save_file(TENSORS, tmp_path / "some.safetensors", metadata)
    with pytest.raises(ModelError, match="header"):
        read_weights(tmp_path / "some.safetensors")


@pytest.mark.parametrize("key", [None, "state_dict", "model", "state_dict_ema", "model_ema"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
def test_checkpoints_of_torch_are_read_wherever_they_keep_the_weights(tmp_path, key, prefix):
    tensors = {prefix + name: tensor for name, tensor in TENSORS.items()}
    torch.save(tensors if key is None else {key: tensors, "epoch": 3}, tmp_path / "some.pth")
    assert_read(tmp_path / "some.pth")


def test_the_moving_average_of_a_checkpoint_is_preferred(tmp_path):
    worse = {name: tensor + 1 for name, tensor in TENSORS.items()}
    torch.save({"state_dict": worse, "state_dict_ema": TENSORS}, tmp_path / "some.pth.tar")
    assert_read(tmp_path / "some.pth.tar")


@pytest.mark.parametrize("inside", ["export/model.safetensors", "model.safetensors", "ema.safetensors"])
def test_folders_of_runs_exports_and_checkpoints_are_read(tmp_path, inside):
    (tmp_path / "export").mkdir()
    save_file(TENSORS, tmp_path / inside, CARD.to_metadata())
    assert assert_read(tmp_path).card == CARD


def test_timms_own_state_dict_is_read_where_a_folder_has_no_safetensors(tmp_path):
    assert not holds_weights(tmp_path)
    torch.save(TENSORS, tmp_path / "pytorch_model.bin")
    assert holds_weights(tmp_path)
    assert assert_read(tmp_path).card is None
    save_file({"other": torch.zeros(1)}, tmp_path / "model.safetensors")
    assert read_weights(tmp_path).tensors.keys() == {"other"}


class _Bomb:
    def __reduce__(self):
        return (open, ("exploded", "w"))


def test_a_pickle_is_refused_and_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": TENSORS, "args": _Bomb()}, "bomb.pth")
    with open("plain.pkl", "wb") as file:
        pickle.dump(_Bomb(), file, protocol=2)
    os.mkdir("saved")
    os.link("bomb.pth", "saved/pytorch_model.bin")
    for name in ("bomb.pth", "plain.pkl", "saved"):
        with pytest.raises(ModelError, match="kdcache runs no code of a file"):
            read_weights(tmp_path / name)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("name", ["some.safetensors", "some.pth"])
@pytest.mark.parametrize("content", [b"", b"no weights at all", b"\xff" * 64, b"\x80\x02.", b"PK\x03\x04rest"])
def test_files_of_something_else_are_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match="cannot be read"):
        read_weights(tmp_path / name)


@pytest.mark.parametrize("name", ["some.safetensors", "some.pth"])
def test_a_file_cut_short_is_refused(tmp_path, name):
    if name.endswith("pth"):
        torch.save(TENSORS, tmp_path / name)
    else:
        save_file(TENSORS, tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[:-20])
    with pytest.raises(ModelError, match="cannot be read"):
        read_weights(tmp_path / name)


@pytest.mark.parametrize("content", [{"epoch": 3}, {"state_dict": {"a": 1}}, {}, [1, 2], TENSORS["fc.bias"]])
def test_a_file_without_a_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "some.pth")
    with pytest.raises(ModelError, match="state dict"):
        read_weights(tmp_path / "some.pth")


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(ModelError, match="nothing here"):
        read_weights(tmp_path / "nothing here")
    with pytest.raises(ModelError, match=r"holds no weights \(.*pytorch_model\.bin\).* name the model, and give"):
        read_weights(tmp_path)


def test_the_hash_belongs_to_names_shapes_types_and_values():
    changes = [
        {**TENSORS, "fc.bias": torch.tensor([1.0, -2.0, 0.25])},
        {**TENSORS, "fc.bias": TENSORS["fc.bias"].double()},
        {**TENSORS, "fc.weight": TENSORS["fc.weight"].reshape(2, 3)},
        {"fc.weight": TENSORS["fc.weight"], "fc.offset": TENSORS["fc.bias"]},
        {"fc.weight": TENSORS["fc.weight"]},
    ]
    hashes = {weight_hash(change) for change in changes}
    assert len(hashes) == len(changes)
    assert weight_hash(TENSORS) not in hashes


def test_the_hash_does_not_belong_to_order_or_layout():
    image = torch.randn(2, 3, 4, 4)
    laid_out = image.contiguous(memory_format=torch.channels_last)
    assert weight_hash({"a": image, **TENSORS}) == weight_hash({**TENSORS, "a": laid_out})


def test_the_hash_is_the_one_that_caches_of_today_hold():
    scalar = {"steps": torch.tensor(7), **TENSORS}
    assert weight_hash(scalar) == "a05c7dd1745e5d078998c23293cfca3946081d658752631b3077f9881b65f395"


def test_misfits_name_what_is_missing_misshapen_and_too_much():
    given = {"fc.weight": torch.zeros(5, 2), "head.bias": torch.zeros(3)}
    assert misfits(TENSORS, given) == [
        "fc.bias is missing",
        "fc.weight is [5, 2] and should be [3, 2]",
        "head.bias has no place",
    ]
    assert misfits(TENSORS, TENSORS) == []
