"""Every knob of the server, declared once; the manners are those of `seqtune.settings`.

Bounds are those of a person's mistake, not of the machine: what the machine can take is found out by trying.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from seqtune.settings import knob

#: Hosts that only programs of this machine reach.
LOOPBACK = ("127.0.0.1", "localhost", "::1")

#: Characters of a key, blanks around it not counted.
SHORTEST_KEY = 8


class ServeSettings(BaseModel):
    """All knobs of `seqtune serve`."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())

    # fmt: off
    host: str = knob("127.0.0.1", "Address to listen on; any but loopback needs an api_key.", group="serving", min_length=1)
    port: int = knob(8000, "Port to listen on; 0 takes a free one and prints it.", group="serving", ge=0, le=65535)
    api_key: str | None = knob(None, "Key that clients send as `Authorization: Bearer KEY`. The variable SEQTUNE_API_KEY keeps it out of the list of processes.", group="serving", derived="$SEQTUNE_API_KEY; none on loopback", min_length=SHORTEST_KEY)
    allowed_hosts: str | None = knob(None, "Names that a request may call this server by (its Host header), separated by commas; * is any.", group="serving", derived="localhost and 127.0.0.1 on loopback; elsewhere any, as the key is asked for", min_length=1)
    device_type: Literal["auto", "cpu", "cuda", "mps"] = knob("auto", "Where to compute: the best there is, or this one.", group="serving")
    max_batch_size: int = knob(16, "Answers written together, of 1,024 tokens with their question; of shorter ones up to four times as many.", group="serving", unit="requests", ge=1, le=1024)
    answer_precision: Literal["auto", "fp32", "bf16"] | None = knob(None, "Arithmetic of the answers.", group="serving", derived="the run's own")
    max_waiting: int = knob(128, "Requests that may wait for their turn; one more gets 503.", group="serving", unit="requests", ge=1, le=100_000)
    max_new_tokens: int = knob(512, "Longest answer that a client may ask for.", group="serving", unit="tokens", ge=1, le=100_000)
    max_body: int = knob(1_000_000, "Largest request body; a larger one gets 413.", group="serving", unit="bytes", ge=1_000, le=1_000_000_000)
    deadline: float = knob(120.0, "A request that is not answered by then gets 503.", group="serving", unit="seconds", gt=0, le=86_400)
    read_timeout: float = knob(10.0, "A client that has not sent its head, and then its body, by then is let go.", group="serving", unit="seconds", gt=0, le=3_600)
    write_timeout: float = knob(20.0, "A client that does not take a piece of its answer by then is let go.", group="serving", unit="seconds", gt=0, le=3_600)
    shutdown_timeout: int = knob(30, "What runs at a shutdown has so long to finish.", group="serving", unit="seconds", ge=0, le=3_600)
    on_context: Literal["ignore", "refuse"] = knob("ignore", "What becomes of system messages and earlier turns, which a single-turn model can't use: left out (and counted in the answer), or refused.", group="serving")
    # fmt: on
