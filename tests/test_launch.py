"""Ranks from the environment, as each launcher writes them."""

from __future__ import annotations

import pytest

from seqtune.launch import launched

TORCHRUN = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}
OPEN_MPI = {"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}
MPICH = {"PMI_RANK": "2", "PMI_SIZE": "4", "MPI_LOCALRANKID": "0"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (0, 1, 0)),
        (TORCHRUN, (1, 4, 1)),
        ({**OPEN_MPI, "MASTER_ADDR": "127.0.0.1"}, (3, 4, 1)),
        ({**MPICH, "MASTER_ADDR": "127.0.0.1"}, (2, 4, 0)),
        ({"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}, (1, 2, 0)),
        (OPEN_MPI, (0, 1, 0)),  # they would not find each other
        ({**TORCHRUN, "RANK": "0", "WORLD_SIZE": "1"}, (0, 1, 0)),
        ({**TORCHRUN, "RANK": "first"}, (0, 1, 0)),
        ({"MASTER_ADDR": "127.0.0.1"}, (0, 1, 0)),  # accelerate launch --cpu without MPI: one process alone
    ],
)
def test_ranks(environment: dict[str, str], expected: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch):
    for name in (*TORCHRUN, *OPEN_MPI, *MPICH):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert launched() == expected
