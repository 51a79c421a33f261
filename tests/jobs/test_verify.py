"""`verify` with a teacher: it knows its own answers, and nobody else's."""

import json
import shutil

import pytest

from kdcache.errors import IdentityError, UsageError
from kdcache.jobs.dump import dump
from kdcache.jobs.rerun import RerunRequest
from kdcache.jobs.verify import VerifyRequest, verify
from support.command_line import kdcache
from support.small_job import MODEL, SAMPLES, dump_request, make_data, make_teacher


def rerun_of(job, **choice) -> RerunRequest:
    settings = {"data": job.data, "teacher": MODEL, "weights": job.weights, "samples": 60, "device": "cpu"}
    return RerunRequest(**(settings | {"renderer": "pillow"} | choice))


@pytest.fixture(scope="module")
def topk(job, tmp_path_factory):
    """A cache of coded answers, rendered with Pillow."""
    path = tmp_path_factory.mktemp("topk") / "cache"
    dump(dump_request(job.data, path, job.weights, job.policy, targets="topk", renderer="pillow", k=2))
    return path


def test_answers_made_again_on_this_machine_differ_by_coding_alone(job, topk):
    report = verify(VerifyRequest(cache=str(topk), rerun=rerun_of(job)))
    found = report.comparison
    assert report.whole
    assert found.samples >= 60
    assert found.kl == pytest.approx(found.coding, abs=1e-12)
    assert found.excess == pytest.approx(0, abs=1e-12)
    assert found.coding > 0, "two of four classes are kept: coding loses something"
    assert found.top1 > 0.9, "but for near ties"
    assert "These are the teacher's answers" in report.lines()[-1]


def test_all_answers_are_made_again_where_fewer_are_there(job, topk):
    found = verify(VerifyRequest(cache=str(topk), rerun=rerun_of(job, samples=10**6))).comparison
    assert found.samples == 2 * SAMPLES


def test_another_renderer_is_within_the_limit(job):
    """The session's cache was rendered with DALI."""
    found = verify(VerifyRequest(cache=str(job.cache), rerun=rerun_of(job))).comparison
    assert found.agrees
    assert found.kl > 0


def test_answers_that_belong_to_other_rows_are_told(job, topk, tmp_path):
    """Whole blocks, under the wrong number: no checksum can tell."""
    path = tmp_path / "cache"
    dump(dump_request(job.data, path, job.weights, job.policy, renderer="pillow"))  # full: no label gives it away
    for array in (path / "teachers" / MODEL).iterdir():
        views = array / ("c" if (array / "c").is_dir() else "")
        if (views / "0").is_dir():
            (views / "0").rename(tmp_path / "swap")
            (views / "1").rename(views / "0")
            (tmp_path / "swap").rename(views / "1")
    assert verify(VerifyRequest(cache=str(path))).whole
    found = verify(VerifyRequest(cache=str(path), rerun=rerun_of(job, samples=10**6, max_kl=1e-5))).comparison
    assert not found.agrees
    assert "NOT" in found.lines()[-1]


def test_other_weights_data_and_teachers_are_refused_by_name(job, topk, tmp_path):
    def again(**choice):
        verify(VerifyRequest(cache=str(topk), rerun=rerun_of(job, **choice)))

    with pytest.raises(IdentityError, match="weights"):
        again(weights=make_teacher(tmp_path / "teacher", seed=8))
    with pytest.raises(IdentityError, match="fingerprint"):
        again(data=make_data(tmp_path / "data", seed=1))
    with pytest.raises(UsageError, match=r"holds no teacher 'resnet18'; it holds test_resnet"):
        again(teacher="resnet18")


def test_the_command_exits_with_3_where_something_is_wrong(job, topk, tmp_path):
    path = shutil.copytree(topk, tmp_path / "cache")
    whole = kdcache("verify", path, "--json")
    assert whole.returncode == 0, whole.stderr
    assert json.loads(whole.stdout)["whole"] is True
    (record,) = path.glob("teachers/*/records/1/2.json")
    record.write_bytes(b"?")
    bad = kdcache("verify", path)
    assert bad.returncode == 3
    assert "view 1, block 2" in bad.stdout.lower() or str(record) in bad.stdout
    assert kdcache("verify", path, "--data", job.data).returncode == 2
    assert kdcache("verify", tmp_path / "nothing").returncode == 1
