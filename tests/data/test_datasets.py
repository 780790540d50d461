"""Datasets as a source: saved in a folder, and on a hub."""

from __future__ import annotations

import datasets
import huggingface_hub
import pytest
from test_readers import ROWS, as_json, read

from seqtune.data import readers
from seqtune.errors import InputError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_folders(tmp_path):
    plain = tmp_path / "plain"
    plain.mkdir()
    with pytest.raises(InputError, match="a directory, but no dataset saved") as caught:
        readers.identify(str(plain), "train")
    assert "saved dataset folder" in caught.value.mend
    (plain / "support.json").write_bytes(as_json(ROWS))
    with pytest.raises(InputError, match=r"it holds: support\.json") as caught:
        readers.identify(str(plain), "train")
    assert caught.value.mend.endswith("support.json")

    single = datasets.Dataset.from_list(ROWS)
    single.save_to_disk(tmp_path / "single")
    source = readers.identify(str(tmp_path / "single"), "train")
    assert (source["kind"], source["split"]) == ("folder", None)
    assert readers.read(source, "train") == ROWS
    (tmp_path / "single" / "cache-123.arrow").write_bytes(b"left by a map")
    assert readers.identify(str(tmp_path / "single"), "train") == source

    datasets.DatasetDict(train=single, test=single.select([1])).save_to_disk(tmp_path / "several")
    several = str(tmp_path / "several")
    assert read(several) == ROWS
    assert read(several, "test") == ROWS[1:]
    assert readers.identify(several, "test")["sha256"] != readers.identify(several, "train")["sha256"]
    with pytest.raises(InputError, match='no split "tets"; it has: test, train') as caught:
        readers.identify(several, "tets")
    assert "did you mean `test`?" in caught.value.mend

    (tmp_path / "several" / "train" / "data-00000-of-00001.arrow").write_bytes(b"broken")
    with pytest.raises(InputError, match="a damaged dataset folder"):
        read(several)


class Hub:
    """Stands in for the hub: `huggingface_hub.HfApi` and what else the reader asks."""

    def __init__(self, monkeypatch, answer):
        self.asked = []

        def dataset_info(api, dataset_id):
            self.asked.append(dataset_id)
            if isinstance(answer, Exception):
                raise answer
            return huggingface_hub.DatasetInfo(id=dataset_id, sha=answer)

        def snapshot_download(*args, **kwargs):
            raise huggingface_hub.errors.LocalEntryNotFoundError("not downloaded")

        monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)


def test_hub_dataset(monkeypatch):
    hub = Hub(monkeypatch, COMMIT)
    source = readers.identify("owner/name-1.0", "validation")
    assert source == {"path": "owner/name-1.0", "kind": "hub", "split": "validation", "revision": COMMIT}
    assert hub.asked == ["owner/name-1.0"]

    def load_dataset(path, **options):
        assert (path, options) == ("owner/name-1.0", {"split": "validation", "revision": COMMIT})
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert readers.read(source, "validation") == ROWS

    def refuse(path, **options):
        raise ValueError("Unknown split \"validation\". Should be one of ['train'].\nmore")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(InputError, match='split "validation" can\'t be read: Unknown split') as caught:
        readers.read(source, "validation")
    assert "--dataset-split" in caught.value.mend


def test_hub_out_of_reach(monkeypatch):
    Hub(monkeypatch, huggingface_hub.errors.OfflineModeIsEnabled("offline mode is enabled"))
    with pytest.raises(InputError, match="no such file here, and the hub can't be reached") as caught:
        readers.identify("owner/name", "train")
    assert "offline mode is enabled" in str(caught.value)
    assert "connect to the network" in caught.value.mend
