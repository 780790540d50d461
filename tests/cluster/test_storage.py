"""A run's checkpoints behind a URI: which count, which are fetched, which go; how a place that is none is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pyarrow import fs

from seqtune.cluster import on_ray
from seqtune.cluster.storage import Storage, StoredCheckpoints, with_endpoint
from seqtune.engine.checkpoint import MANIFEST, Checkpoints
from seqtune.engine.state import Snapshot
from seqtune.errors import InputError

MADE_OF = {"data": "x"}


def taken(step: int) -> Snapshot:
    return Snapshot(step, {"weight": torch.full((3,), float(step))}, {"state": {"step": step}})


@pytest.fixture(params=["file", "memory", "s3"])  # pyarrow's own, fsspec's, and a server
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    uri = request.getfixturevalue("bucket") if request.param == "s3" else f"{request.param}://{tmp_path}/there"
    found = Storage(with_endpoint(uri))
    found.check()
    return found


def test_what_is_kept_and_what_comes_back(storage: Storage, tmp_path: Path):
    kept = StoredCheckpoints(tmp_path / "own", storage=storage)
    for step in (5, 10, 15):
        kept.save(taken(step), MADE_OF)
    assert storage.names() == ["step-00000010", "step-00000015"]
    storage.fetch(tmp_path / "other")
    found = Checkpoints(tmp_path / "other").newest(MADE_OF)
    assert found is not None
    assert found.step == 15
    assert torch.equal(found.tensors["weight"], taken(15).tensors["weight"])
    storage.clear()
    assert storage.names() == []


def test_what_others_have_there_stays(storage: Storage, tmp_path: Path):
    kept = StoredCheckpoints(tmp_path / "own", storage=storage)
    kept.save(taken(5), MADE_OF)
    for name in ("ray/train", "another", "step-00000007"):
        storage.files.create_dir(f"{storage.root}/{name}", recursive=True)
        with storage.files.open_output_stream(f"{storage.root}/{name}/file") as file:
            file.write(b"x")
    storage.clear()
    left = storage.files.get_file_info(fs.FileSelector(storage.root, recursive=True))
    assert [each.base_name for each in left if each.is_file] == ["file"]
    assert any(each.path.endswith("another/file") for each in left)


def test_a_run_begun_without_it_goes_on_with_it(storage: Storage, tmp_path: Path):
    here = Checkpoints(tmp_path / "here")
    for step in (5, 7):
        here.save(taken(step), MADE_OF)
    on_ray._brought(storage, tmp_path / "here", here, MADE_OF)
    assert storage.names() == ["step-00000007"]
    StoredCheckpoints(tmp_path / "workers", storage=storage).save(taken(9), MADE_OF)
    on_ray._brought(storage, tmp_path / "here", here, MADE_OF)
    assert here.newest_step == 9
    assert storage.names() == ["step-00000009"]


def test_a_run_of_something_else_is_refused_and_not_taken_over(storage: Storage, tmp_path: Path):
    StoredCheckpoints(tmp_path / "own", storage=storage).save(taken(5), {**MADE_OF, "ranks": 2})
    here = Checkpoints(tmp_path / "here")
    with pytest.raises(InputError, match="holds a run of something else") as raised:
        on_ray._brought(storage, tmp_path / "here", here, {"data": "y"})
    assert raised.value.details == ["data: was x, is y"]
    assert list((tmp_path / "here").iterdir()) == []
    on_ray._brought(storage, tmp_path / "here", here, MADE_OF)  # how many ranks is not known here, and no matter
    assert here.newest_step == 5


def test_half_a_checkpoint_does_not_count(storage: Storage, tmp_path: Path):
    kept = StoredCheckpoints(tmp_path / "own", storage=storage)
    kept.save(taken(5), MADE_OF)
    kept.save(taken(10), MADE_OF)
    storage.files.delete_file(f"{storage.root}/step-00000010/{MANIFEST}")
    storage.fetch(tmp_path / "other")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["step-00000005"]


def test_older_ones_are_not_fetched(storage: Storage, tmp_path: Path):
    StoredCheckpoints(tmp_path / "own", storage=storage).save(taken(5), MADE_OF)
    Checkpoints(tmp_path / "here").save(taken(7), MADE_OF)
    storage.fetch(tmp_path / "here")
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["step-00000007"]


def test_the_server_goes_with_the_uri(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9000")
    there = "s3://bucket/runs?endpoint_override=127.0.0.1%3A9000&scheme=http"
    assert with_endpoint("s3://bucket/runs") == there
    assert with_endpoint(there) == there
    assert with_endpoint("file:///runs") == "file:///runs"


def test_no_such_bucket(bucket: str):
    with pytest.raises(InputError, match="can't be written"):
        Storage(with_endpoint(bucket.replace("bucket", "another"))).check()


def test_what_is_no_place(tmp_path: Path):
    with pytest.raises(InputError, match="storage = 'nowhere://x'"):
        Storage("nowhere://x")
    with pytest.raises(InputError, match="expected a URI"):
        Storage("runs/there")
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(InputError, match="can't be written"):
        Storage(f"file://{tmp_path}/taken/runs").check()
    with pytest.raises(InputError, match="storage: has no use without --on ray"):
        on_ray.check(None, None, "s3://bucket/runs")
