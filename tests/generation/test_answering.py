"""Our answers are transformers' answers: every family, every search, any company."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch

from seqtune.engine.speed import native
from seqtune.errors import InputError
from seqtune.generation import Answer, Answerer, answer
from seqtune.generation import blueprint as blueprints
from tiny_models import FAMILIES

Of = Callable[[str], Any]

#: Searches, and how far their answers are compared.
SEARCHES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "min_new_tokens": {"min_new_tokens": 5},
    "min_length": {"min_length": 8},
    "repetition_penalty": {"repetition_penalty": 1.7},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 2},
    "encoder_repetition_penalty": {"encoder_repetition_penalty": 1.5},
    "encoder_no_repeat_ngram_size": {"encoder_no_repeat_ngram_size": 2},
    "suppress_tokens": {"suppress_tokens": [5, 9, 17], "begin_suppress_tokens": [20, 31]},
    "bad_words_ids": {"bad_words_ids": [[7], [12, 13]]},
    "beams": {"num_beams": 4},
    "beams, early": {"num_beams": 3, "early_stopping": True, "length_penalty": 0.4},
    "beams, never": {"num_beams": 2, "early_stopping": "never", "length_penalty": 1.3, "no_repeat_ngram_size": 2},
    "beams, long": {"num_beams": 3, "repetition_penalty": 1.3, "min_new_tokens": 4},
}


def cut(tokens: list[int], end: int) -> list[int]:
    """Up to the first end token: transformers pads behind it."""
    return tokens[: tokens.index(end) + 1] if end in tokens else tokens


@pytest.mark.parametrize("engine", ["compiled", "plain"])
@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_answers_are_those_of_transformers_alone(
    family: str, engine: str, tiny_of: Of, monkeypatch: pytest.MonkeyPatch
):
    """The same tokens as `generate`, row by row, in any batch."""
    tiny = tiny_of(family)
    if engine == "plain":
        monkeypatch.setattr("seqtune.generation.compiled.can_run", lambda *_: False)
    elif native.kernels() is None:
        pytest.skip("no compiler here")
    answerer = Answerer(tiny.model, tiny.tokenizer)
    assert answerer.engine == engine
    expected = [cut(tokens, tiny.tokenizer.eos_token_id) for tokens in tiny.by_transformers(max_new_tokens=12)]
    assert len({tuple(tokens) for tokens in expected}) > 2
    for size in (1, 3, 10):
        assert answerer.tokens(tiny.sources, batch_size=size, random_state=0, max_new_tokens=12) == expected


@pytest.mark.parametrize("family", ["flan-t5", "bart", "pegasus"])
@pytest.mark.parametrize("search", SEARCHES)
def test_knobs_mean_what_they_mean_to_transformers(family: str, search: str, tiny_of: Of):
    tiny, knobs = tiny_of(family), {"max_new_tokens": 11, **SEARCHES[search]}
    found = Answerer(tiny.model, tiny.tokenizer).tokens(tiny.sources, batch_size=4, random_state=0, **knobs)
    expected = tiny.by_transformers(**knobs)
    assert found == [cut(tokens, tiny.tokenizer.eos_token_id) for tokens in expected]


def test_drawn_answers_depend_on_the_seed_alone(tiny_of: Of):
    tiny = tiny_of("flan-t5")
    answerer = Answerer(tiny.model, tiny.tokenizer)
    knobs = {"max_new_tokens": 9, "do_sample": True, "temperature": 0.7, "top_p": 0.95}
    before = torch.random.get_rng_state()
    found = {
        (seed, size): answerer.tokens(tiny.sources, batch_size=size, random_state=seed, **knobs)
        for seed in (1, 2)
        for size in (1, 4)
    }
    assert found[1, 1] == found[1, 4]
    assert found[2, 1] == found[2, 4]
    assert found[1, 1] != found[2, 1]
    assert torch.equal(before, torch.random.get_rng_state())


def test_drawn_tokens_have_the_probabilities_that_transformers_draws_with(tiny_of: Of):
    """A first token drawn 4,000 times: within four standard deviations of what the warped logits say."""
    tiny = tiny_of("flan-t5")
    answerer = Answerer(tiny.model, tiny.tokenizer)
    knobs = {"max_new_tokens": 1, "do_sample": True, "temperature": 3.0, "top_k": 8, "top_p": 0.9}
    source, n = tiny.sources[0], 4000
    drawn = answerer.tokens([source] * n, batch_size=64, random_state=5, **knobs)
    options = {**knobs, "return_dict_in_generate": True, "output_scores": True}
    with torch.inference_mode():
        scores = tiny.model.generate(input_ids=torch.tensor([source]), **options).scores[0][0]
    expected = scores.softmax(-1)
    assert 2 <= int((expected > 0).sum()) <= 8
    for token, p in enumerate(expected.tolist()):
        share = sum(tokens == [token] for tokens in drawn) / n
        assert abs(share - p) <= 4 * (p * (1 - p) / n) ** 0.5


def test_answers_come_and_go(tiny_of: Of):
    """Answers of different wishes, joined and dropped at random, are what each of them is alone."""
    tiny, dice = tiny_of("flan-t5"), random.Random(3)
    answerer = Answerer(tiny.model, tiny.tokenizer)
    wishes = [
        answerer.wishes(max_new_tokens=9),
        answerer.wishes(max_new_tokens=5, num_beams=3),
        answerer.wishes(max_new_tokens=7, do_sample=True, temperature=0.8),
        answerer.wishes(max_new_tokens=8, no_repeat_ngram_size=2),
    ]
    alone = {}
    for row, source in enumerate(tiny.sources):
        for kind, wish in enumerate(wishes):
            session, each = answerer.session(), Answer(source, wish, seed=row)
            session.join([each])
            while not each.finished:
                session.step()
            alone[row, kind] = each.tokens
    session = answerer.session()
    waiting = [(key, Answer(tiny.sources[key[0]], wishes[key[1]], seed=key[0])) for key in sorted(alone)]
    dice.shuffle(waiting)
    everything, dropped = list(waiting), set()
    while waiting or session.answers:
        count = dice.randrange(4)
        session.join([each for _, each in waiting[:count]])
        waiting = waiting[count:]
        if session.answers and dice.random() < 0.1:
            gone = dice.choice(session.answers)
            session.drop(gone)
            dropped.add(id(gone))
        session.step()
    assert len(session) == 0
    assert len(dropped) > 1
    assert all(each.tokens == alone[key] for key, each in everything if id(each) not in dropped)


def test_bf16_rows_do_not_depend_on_their_company(tiny_of: Of):
    tiny = tiny_of("t5")
    answerer = Answerer(tiny.model, tiny.tokenizer, "bf16")
    states = answerer.encode(tiny.sources)
    both = answerer.session()._decoder, answerer.session()._decoder
    with torch.inference_mode():
        for decoder, part in zip(both, (states, states[4:5]), strict=True):
            decoder.join(part, [6] * len(part), 1)
        for token in (3, 8, 21):
            together = both[0].step(torch.full((len(states),), token))
            assert torch.equal(together[4], both[1].step(torch.tensor([token]))[0])


def test_a_family_that_is_not_known_is_answered_by_transformers(tiny_of: Of, monkeypatch: pytest.MonkeyPatch):
    tiny, said = tiny_of("t5"), []
    monkeypatch.setattr(blueprints, "KINDS", {})
    monkeypatch.setattr("seqtune.generation.answering.say", said.append)
    answerer = Answerer(tiny.model, tiny.tokenizer)
    assert answerer.engine == "transformers"
    assert "T5ForConditionalGeneration is not known here" in said[0]
    found = answerer.tokens(tiny.sources, batch_size=3, random_state=0, max_new_tokens=6)
    end = tiny.tokenizer.eos_token_id
    assert [cut(tokens, end) for tokens in found] == [
        cut(tokens, end) for tokens in tiny.by_transformers(max_new_tokens=6)
    ]
    with pytest.raises(InputError, match="in whole batches"):
        answerer.session()


def test_a_decoder_that_has_changed_is_noticed(tiny_of: Of, monkeypatch: pytest.MonkeyPatch):
    tiny = tiny_of("t5")
    draw = blueprints.KINDS["T5Stack"]

    def changed(model: Any) -> blueprints.Blueprint:
        drawn = draw(model)
        drawn.layers[0] = blueprints.replace(drawn.layers[0], distance=None)
        return drawn

    monkeypatch.setitem(blueprints.KINDS, "T5Stack", changed)
    assert Answerer(tiny.model, tiny.tokenizer).engine == "transformers"


def test_knobs_that_only_transformers_has_are_left_to_it(tiny_of: Of, monkeypatch: pytest.MonkeyPatch):
    tiny, said = tiny_of("t5"), []
    monkeypatch.setattr("seqtune.generation.answering.say", said.append)
    answerer = Answerer(tiny.model, tiny.tokenizer)
    knobs = {"max_new_tokens": 6, "num_beams": 3, "do_sample": True}
    found = answerer.answer(tiny.sources, batch_size=4, random_state=1, **knobs)
    assert found == answerer.answer(tiny.sources, batch_size=4, random_state=1, **knobs)
    assert "do_sample with num_beams" in said[0]
    assert answerer.wishes(renormalize_logits=True).unhandled == ["renormalize_logits"]
    assert answerer.wishes(max_new_tokens=3).unhandled == []


@pytest.mark.parametrize("knobs", [{"temperature": -1.0, "do_sample": True}, {"num_beams": 0}])
def test_a_value_that_transformers_refuses_is_refused(knobs: dict[str, Any], tiny_of: Of):
    tiny = tiny_of("t5")
    with pytest.raises(InputError, match="does not take"):
        Answerer(tiny.model, tiny.tokenizer).wishes(**knobs)


@pytest.mark.parametrize(
    "knobs",
    [
        {"num_return_sequences": 2, "num_beams": 2},
        {"penalty_alpha": 0.6, "top_k": 4},
        {"num_beams": 2, "num_beam_groups": 2, "diversity_penalty": 0.5},
        {"dola_layers": "high"},
        {"num_beams": 2, "early_stopping": "often"},
    ],
)
def test_what_no_search_here_does_is_refused(knobs: dict[str, Any], tiny_of: Of):
    tiny = tiny_of("t5")
    with pytest.raises(InputError):
        Answerer(tiny.model, tiny.tokenizer).tokens(tiny.sources, batch_size=4, random_state=0, **knobs)


def test_texts_that_end_an_answer_are_transformers_work(tiny_of: Of):
    tiny = tiny_of("t5")
    answerer = Answerer(tiny.model, tiny.tokenizer)
    (plain,) = answerer.answer(tiny.sources[:1], batch_size=1, random_state=0, max_new_tokens=12)
    word = plain.split()[0]
    (found,) = answerer.answer(tiny.sources[:1], batch_size=1, random_state=0, max_new_tokens=12, stop_strings=[word])
    assert found.endswith(word)
    assert plain.startswith(found)


@pytest.mark.parametrize("family", ["t5", "pegasus"])
@pytest.mark.parametrize("knobs", [{}, {"do_sample": True, "num_beams": 2}])
def test_answers_that_nobody_waits_for_end_where_they_are(family: str, knobs: dict[str, Any], tiny_of: Of):
    tiny = tiny_of(family)
    answerer, asked = Answerer(tiny.model, tiny.tokenizer), []
    options = {"batch_size": 2, "random_state": 0, "max_new_tokens": 30, "min_new_tokens": 30, **knobs}
    found = answerer.tokens(tiny.sources[:2], stop=lambda: len(asked) >= 3 or bool(asked.append(0)), **options)
    assert max(map(len, found)) <= 5


def test_a_mistyped_knob_is_refused(tiny_of: Of):
    tiny = tiny_of("t5")
    with pytest.raises(InputError, match="num_beam   did you mean `num_beams`"):
        answer(tiny.model, tiny.tokenizer, [[5, 1]], batch_size=1, random_state=0, num_beam=4)


def test_no_rows_no_answers(tiny_of: Of):
    tiny = tiny_of("t5")
    assert answer(tiny.model, tiny.tokenizer, [], batch_size=4, random_state=0) == []


@pytest.mark.parametrize("family", ["t5", "bart"])  # BART forces an end on the answer at the limit
@pytest.mark.parametrize("beams", [1, 2])
def test_answers_that_are_cut_are_told_from_those_that_end(family: str, beams: int, tiny_of: Of):
    tiny = tiny_of(family)
    answerer = Answerer(tiny.model, tiny.tokenizer)
    knobs = {"num_beams": beams, "max_new_tokens": 2}
    found = answerer.tokens(tiny.sources, batch_size=3, random_state=0, **knobs)
    assert [answerer.wishes(**knobs).cut(tokens) for tokens in found] == [
        all(token not in answerer.wishes().ends for token in tokens[:1]) for tokens in found
    ]
    end = next(iter(answerer.wishes().ends))
    wishes = answerer.wishes(max_new_tokens=4)
    assert wishes.cut([7, 7, 7, 7])
    assert wishes.cut([7, 7, 7, end]) == (family == "bart")
    assert not wishes.cut([7, 7, end, 0]), "padded by transformers"
    assert not wishes.cut([7, end])


def test_what_transformers_writes_has_no_padding_behind_its_end(tiny_of: Of, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(blueprints, "draw", lambda _: None)
    tiny = tiny_of("t5")
    answerer, end = Answerer(tiny.model, tiny.tokenizer), tiny.tokenizer.eos_token_id
    ends = [tokens[2] for tokens in answerer.tokens(tiny.sources, batch_size=4, random_state=0, max_new_tokens=12)]
    found = answerer.tokens(tiny.sources, batch_size=4, random_state=0, max_new_tokens=12, eos_token_id=[end, ends[0]])
    assert len({len(tokens) for tokens in found}) > 1
    assert all(tokens[-1] in (end, ends[0]) or len(tokens) == 12 for tokens in found)
    assert all(end not in tokens[:-1] and ends[0] not in tokens[:-1] for tokens in found)


def test_more_than_the_decoder_can_write_is_refused(tiny_of: Of):
    tiny = tiny_of("bart")
    positions = tiny.model.config.max_position_embeddings
    answerer = Answerer(tiny.model, tiny.tokenizer)
    assert answerer.wishes(max_new_tokens=positions - 1).limit == positions - 1
    with pytest.raises(InputError, match=f"an answer of {positions} tokens: the decoder has {positions} positions"):
        answerer.wishes(max_new_tokens=positions)


def test_batches_of_nothing_are_refused(tiny_of: Of):
    tiny = tiny_of("t5")
    with pytest.raises(InputError, match="batch_size = 0"):
        Answerer(tiny.model, tiny.tokenizer).tokens(tiny.sources, batch_size=0, random_state=0)
