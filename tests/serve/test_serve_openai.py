"""The server as OpenAI's own client sees it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

import seqtune
from seqtune.serve import wire
from seqtune.serve.shelf import Shelf
from serving_help import QUESTION, Served, chat, serving

ASKED: Any = [{"role": "user", "content": QUESTION}]


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def test_answers_are_those_of_the_model(client: openai.OpenAI, runs: list[str]):
    found = client.chat.completions.create(model="run", messages=ASKED)
    assert found.choices[0].message.content == seqtune.load(runs[0], "cpu").generate([QUESTION])[0] != ""
    assert found.choices[0].finish_reason == "length"
    assert found.choices[0].message.role == "assistant"
    assert found.usage is not None
    assert (found.usage.completion_tokens, found.usage.total_tokens - found.usage.prompt_tokens) == (8, 8)
    assert found.model == "run"


@pytest.mark.parametrize("limit", [1, 8, 60])
def test_a_stream_is_the_same_answer_in_pieces(client: openai.OpenAI, limit: int):
    whole = client.chat.completions.create(model="run", messages=ASKED, max_tokens=limit)
    stream = client.chat.completions.create(
        model="run", messages=ASKED, max_tokens=limit, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == whole.choices[0].message.content
    if limit == 60:  # random weights: a few tokens may be bytes that are no whole character, which wait for more
        assert len([piece for piece in pieces if piece]) > 1
    assert chunks[-1].usage == whole.usage
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == whole.choices[0].finish_reason
    assert len({chunk.id for chunk in chunks}) == 1


def test_completions_of_several_prompts(client: openai.OpenAI):
    prompts = [QUESTION, "Where can I see my invoices?"]
    both = client.completions.create(model="run", prompt=prompts, max_tokens=6)
    alone = [client.completions.create(model="run", prompt=each, max_tokens=6).choices[0].text for each in prompts]
    assert [choice.text for choice in both.choices] == alone
    streamed = ["", ""]
    for chunk in client.completions.create(model="run", prompt=prompts, max_tokens=6, stream=True):
        streamed[chunk.choices[0].index] += chunk.choices[0].text
    assert streamed == alone


def test_two_models_and_their_base(client: openai.OpenAI, served: Served):
    names = [model.id for model in client.models.list()]
    assert names == ["run", "other", "tiny-t5"]
    assert client.models.retrieve("other").to_dict()["parent"] == "tiny-t5"
    answers = {
        name: client.chat.completions.create(model=name, messages=ASKED, max_tokens=8).choices[0].message.content
        for name in names
    }
    assert answers["other"] not in (answers["run"], answers["tiny-t5"])


def test_models_of_one_base_are_loaded_from_one(shelf: Any):
    base = shelf.entries["tiny-t5"].model.model
    for name in ("run", "other"):
        tuned = shelf.entries[name].model.model.get_base_model()
        assert tuned.get_input_embeddings().weight.data_ptr() == base.get_input_embeddings().weight.data_ptr()


def test_a_run_with_pieces_of_its_own_answers_here_as_it_does_elsewhere(run_with_pieces: Path):
    expected = seqtune.load(run_with_pieces, "cpu")
    shelf = Shelf.filled([str(run_with_pieces), str(run_with_pieces)], "cpu")
    questions = ["What is {3}?", "a {b}\n{c}"]
    for name in ("run", "run-2"):
        entry = shelf.entries[name]
        assert [entry.encode(each) for each in questions] == expected.tokenizer(questions)["input_ids"]
        assert entry.model.generate(questions) == expected.generate(questions)
    first, second = (shelf.entries[name].model.model.get_base_model() for name in ("run", "run-2"))
    weights = [model.get_encoder().block[0].layer[0].SelfAttention.k.weight.data_ptr() for model in (first, second)]
    assert weights[0] == weights[1]
    base = shelf.entries[shelf.entries["run"].base or ""].model
    assert base.tokenizer(questions[1])["input_ids"] != expected.tokenizer(questions[1])["input_ids"]
    assert base.generate(questions)  # as it was, without their room


@pytest.mark.parametrize("limit", [2, 6])
def test_an_answer_that_was_cut_is_said_to_be(limit: int, rows_file: Path, tmp_path: Path):
    """BART's last token is always the end."""
    from tiny_models import tiny

    run = seqtune.finetune(
        rows_file, model_id=str(tiny("bart", tmp_path / "bart")), out=tmp_path / "run", max_steps=1,
        max_new_tokens=8, bootstrap_samples=100, device_type="cpu",
    )  # fmt: skip
    with serving(Shelf.filled([str(run.path)], "cpu")) as served:
        status, _, found = served.chat(max_tokens=limit)
    tuned = seqtune.load(run.path, "cpu")
    wishes = tuned.answerer.wishes(max_new_tokens=limit)
    (tokens,) = tuned.answerer.tokens(
        [tuned.tokenizer(QUESTION)["input_ids"]], batch_size=1, random_state=0, max_new_tokens=limit
    )
    assert status == 200
    assert tokens[-1] in wishes.ends
    assert found["choices"][0]["finish_reason"] == ("length" if wishes.cut(tokens) else "stop")
    assert wishes.cut(tokens) or limit > 2


def test_beams_of_the_run_do_not_go_with_draws():
    asked = wire.ChatRequest.model_validate({"model": "a", "messages": ASKED, "temperature": 0.7})
    own = {"num_beams": 4, "do_sample": False, "temperature": 1.0, "top_k": 50, "top_p": 1.0}
    assert asked.knobs(own)["num_beams"] == 1
    assert asked.model_copy(update={"num_beams": 2}).knobs(own)["num_beams"] == 2
    assert asked.model_copy(update={"temperature": None}).knobs(own) == {"num_beams": 4, "do_sample": False}


def test_draws_with_a_seed_come_again(client: openai.OpenAI):
    def drawn(seed: int) -> list[str]:
        found = client.chat.completions.create(
            model="run", messages=ASKED, max_tokens=12, temperature=1.5, seed=seed, n=3
        )
        return [choice.message.content or "" for choice in found.choices]

    assert drawn(3) == drawn(3)
    assert len({*drawn(3), *drawn(7)}) > 3


def test_temperature_0_beams_and_penalties(client: openai.OpenAI):
    plain = client.chat.completions.create(model="run", messages=ASKED, max_tokens=8)
    cold = client.chat.completions.create(model="run", messages=ASKED, max_tokens=8, temperature=0)
    assert cold.choices[0].message.content == plain.choices[0].message.content
    freezing = client.chat.completions.create(model="run", messages=ASKED, max_tokens=8, temperature=1e-300)
    assert freezing.choices == plain.choices
    for extra in ({"num_beams": 3}, {"repetition_penalty": 1.5}, {"no_repeat_ngram_size": 2}):
        found = client.chat.completions.create(model="run", messages=ASKED, max_tokens=8, extra_body=extra)
        assert found.usage is not None
        assert 1 <= found.usage.completion_tokens <= 8


def test_an_answer_ends_before_a_stop_text(client: openai.OpenAI):
    whole = client.chat.completions.create(model="run", messages=ASKED, max_tokens=60).choices[0].message.content or ""
    stop = whole[len(whole) // 2 :][:3]
    found = client.chat.completions.create(model="run", messages=ASKED, max_tokens=60, stop=[stop, "never there"])
    assert found.choices[0].message.content == whole[: whole.index(stop)].strip()
    assert found.choices[0].finish_reason == "stop"
    streamed = client.chat.completions.create(model="run", messages=ASKED, max_tokens=60, stop=stop, stream=True)
    pieces = [chunk.choices[0].delta.content or "" for chunk in streamed]
    assert "".join(pieces) == found.choices[0].message.content


def test_what_a_single_turn_model_leaves_out_is_counted(client: openai.OpenAI, served: Served):
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Something else"},
        {"role": "assistant", "content": "Yes."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "How do I reset "}, {"type": "text", "text": "my password?"}],
        },
    ]
    status, head, found = served.chat(messages=turns)
    assert (status, found["ignored_messages"], head["x-seqtune-ignored-messages"]) == (200, 3, "3")
    assert found["choices"][0]["message"] == served.chat()[2]["choices"][0]["message"]


def test_errors_are_the_clients_own(client: openai.OpenAI, shelf: Any):
    with pytest.raises(
        openai.NotFoundError, match="there is no model 'gpt-9'; there are run, other, tiny-t5"
    ) as caught:
        client.chat.completions.create(model="gpt-9", messages=ASKED)
    assert caught.value.code == "model_not_found"
    longest = shelf.entries["run"].longest_source
    with pytest.raises(openai.BadRequestError, match=rf"has \d,\d+ tokens; run takes at most {longest:,}") as caught:
        client.chat.completions.create(model="run", messages=[{"role": "user", "content": "word " * 3000}])
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.UnprocessableEntityError, match=r"max_tokens: .*less than or equal to 512") as unfit:
        client.chat.completions.create(model="run", messages=ASKED, max_tokens=513)
    assert unfit.value.param == "max_tokens"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 17}, "n"),
        ({"num_beams": 99}, "num_beams"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"tools": []}, "tools"),
        ({"logprobs": True}, "logprobs"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"response_format": {"type": "json_object"}}, "response_format.type"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, None),
        ({"messages": [{"role": "user", "content": "half \ud800"}]}, None),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"seed": 2**70}, "seed"),
        ({"model": 7}, "model"),
    ],
)
def test_parameters_out_of_bounds(served: Served, fields: dict[str, Any], param: str | None):
    status, _, found = served.chat(**fields)
    assert status == 422
    assert set(found["error"]) == {"message", "type", "param", "code"}
    assert param is None or found["error"]["param"] == param


def test_what_was_found_is_said(served: Served):
    found = served.chat(temperature=9, max_token=3, zzz=1, user=7, n="y" * 10_000)[2]
    message = found["error"]["message"]
    assert "temperature: Input should be less than or equal to 2; found 9" in message
    assert "max_token: not known here; did you mean `max_tokens`?" in message
    assert "zzz: not known here" in message
    assert "user: Input should be a valid string; found 7" in message
    assert len(message) < 500


def test_a_limit_of_the_models_own_is_said(served: Served):
    assert served.chat(max_completion_tokens=3)[2]["usage"]["completion_tokens"] == 3
    assert served.ask("/v1/completions", {"model": "run", "prompt": ["a"] * 9, "n": 2})[0] == 422


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"model": NaN}', b'"' * 9])
def test_bodies_that_are_none(served: Served, body: bytes):
    status, _, found = served.ask("/v1/chat/completions", body, "POST")
    assert status in (400, 422)
    assert found["error"]["message"]


def test_other_addresses_and_methods(served: Served):
    for method, path, status in [
        ("GET", "/nothing", 404),
        ("GET", "/v1/completions", 405),
        ("DELETE", "/v1/models", 405),
    ]:
        found = served.ask(path, method=method)
        assert found[0] == status
        assert found[2]["error"]["message"]
    assert served.ask("/v1/models/no/such/model")[2]["error"]["code"] == "model_not_found"
    assert chat()["model"] in served.ask("/openapi.json")[2]["paths"] or served.ask("/docs")[0] == 404
