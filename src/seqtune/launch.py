"""Which of several processes this one is, as the environment says it: `torchrun`, `accelerate launch`, MPI."""

from __future__ import annotations

import os

#: Names of rank, number of processes, and rank on this machine: PyTorch's, Open MPI's, those of Intel MPI and MPICH.
_NAMES = (
    ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
)


def launched() -> tuple[int, int, int]:
    """This process's rank, how many there are, and its rank on this machine; (0, 1, 0) where it was launched alone.

    ``MASTER_ADDR`` must say where they meet: torchrun and `accelerate launch` set it, `mpirun` by itself does not.
    """
    if "MASTER_ADDR" in os.environ:
        for names in _NAMES:
            try:
                rank, size = (int(os.environ.get(name, "")) for name in names[:2])
                local = int(os.environ.get(names[2], "0"))
            except ValueError:
                continue
            if size > 1:
                return rank, size, local
    return 0, 1, 0
