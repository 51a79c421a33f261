"""DALI reads image files where they lie, so the graph holds them as long as DALI may read them, and no longer."""

import gc
import platform
import sys
from typing import Any

import numpy as np
import pytest
import torch

from support.image_files import FORMATS

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="DALI exists for Linux on x86_64 alone"
)

BATCHES, BATCH = 3, 2


class File(bytes):
    """An image file that notes when nobody holds it any more; bytes take no weak references."""

    number: int
    freed: set[int]

    def __del__(self) -> None:
        self.freed.add(self.number)


def graph() -> Any:
    from kdcache.render.dali_graph import Graph

    return Graph(8, BATCH, 2, None)


@pytest.fixture
def freed() -> set[int]:
    """Numbers of the batches whose files are free; none that was not launched by `launch`."""
    return set()


def launch(graph: Any, number: int, freed: set[int]) -> None:
    """Launch a batch of files that nobody but the graph holds: the crop of its number of rows down."""
    files = [File(FORMATS["jpeg"][0]) for _ in range(BATCH)]
    for file in files:
        file.number, file.freed = number, freed
    no = np.zeros(BATCH, bool)
    graph.launch(files, np.array([[number, 0, 16, 16]] * BATCH, np.int32), no, no)


def let_go_of_last(graph: Any) -> None:
    """DALI itself keeps a reference to what it was fed last."""
    launch(graph, BATCHES, set())
    graph.drop()
    gc.collect()


def test_files_are_held_until_their_batch_has_been_decoded_and_handed_over(freed: set[int]) -> None:
    one, whole = graph(), np.asarray(FORMATS["jpeg"][1])
    for number in range(BATCHES):
        launch(one, number, freed)
    for number in range(BATCHES):
        with one.outputs() as parts:
            gc.collect()
            assert freed <= set(range(number)), "the files of a batch in flight are held"
            for place in range(BATCH):
                np.testing.assert_array_equal(np.asarray(parts[place]), whole[number : number + 16, :16])
        del parts
    let_go_of_last(one)
    assert freed == set(range(BATCHES))


def test_dali_is_told_not_to_copy_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    from kdcache.render import dali_graph

    source, asked = dali_graph.fn.external_source, {}

    def noted(*arguments: Any, name: str, **options: Any) -> Any:
        asked[name] = options.get("no_copy")
        return source(*arguments, name=name, **options)

    monkeypatch.setattr(dali_graph.fn, "external_source", noted)
    graph()
    assert asked == {"encoded": True, "start": None, "shape": None}


class Event:
    """The event behind a batch on a GPU's stream: it has come when the GPU has done all before it."""

    has_come = False

    def query(self) -> bool:
        return self.has_come


class Stream:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def record_event(self) -> Event:
        self.events.append(Event())
        return self.events[-1]


def test_files_of_a_batch_that_a_gpu_is_still_decoding_are_held_until_its_event_has_come(
    freed: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host hands such a batch over without waiting for the GPU; here the stream of that GPU is a recording one."""
    one, stream = graph(), Stream()
    wait = one._wait
    monkeypatch.setattr(one, "_wait", lambda stream: wait(None))
    for number in range(BATCHES):
        launch(one, number, freed)
    for _ in range(BATCHES):
        with one.outputs(stream):
            pass
    let_go_of_last(one)
    assert not freed
    stream.events[0].has_come = stream.events[1].has_come = True
    let_go_of_last(one)
    assert freed == {0, 1}


@pytest.mark.parametrize(("in_hardware", "share"), [(True, 1.0), (False, 0.0)])
def test_all_jpegs_go_to_the_hardware_decoder_or_none(
    in_hardware: bool, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a share between, an image's pixels would depend on its place in the batch. A GPU is not needed to ask."""
    from kdcache.render import dali_graph

    image, asked = dali_graph.fn.decoders.image, []

    def noted(*arguments: Any, **options: Any) -> Any:
        asked.append((options["device"], options["hw_decoder_load"], options["jpeg_fancy_upsampling"]))
        return image(*arguments, **options)

    monkeypatch.setattr(dali_graph.fn.decoders, "image", noted)
    monkeypatch.setattr(dali_graph.Graph, "_warm_up", lambda graph: None)
    dali_graph.Graph(8, BATCH, 2, 0, in_hardware=in_hardware)
    assert asked == [("mixed", share, True)]


@pytest.mark.parametrize(("decode", "place"), [("auto", "gpu"), ("gpu", "gpu"), ("hardware", "hardware")])
def test_the_hardware_decoder_is_asked_for_by_name_and_has_a_provenance_of_its_own(
    decode: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kdcache.render import dali

    opened = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(dali, "Graph", lambda *arguments, in_hardware: opened.append((arguments[-1], in_hardware)))
    with dali.DaliRenderer(size=8, max_batch=2, threads=1, device="cuda:1", decode=decode) as renderer:
        assert renderer.version == f"dali {dali.VERSION} {place}"
    assert opened == [(1, place == "hardware")]
