"""Every family through one table of what the rest of the project relies on."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    BartConfig,
    GenerationConfig,
    LEDConfig,
    M2M100Config,
    M2M100ForConditionalGeneration,
    MBart50Tokenizer,
    MBartTokenizer,
    T5Config,
)

import tiny_models
from seqtune.errors import InputError
from seqtune.models import families
from seqtune.models.sharing import shared_copy


@pytest.fixture(scope="module", params=tiny_models.FAMILIES)
def built(request):
    """Family, model and tokenizer."""
    return request.param, tiny_models.tiny_model(request.param), tiny_models.tiny_tokenizer(request.param)


def batch(tokenizer, rows=3):
    """Questions and answers of different lengths, the labels padded with -100."""
    source = tokenizer(tiny_models.SENTENCES[0 : 2 * rows : 2], padding=True, return_tensors="pt")
    target = tokenizer(text_target=tiny_models.SENTENCES[1 : 2 * rows : 2], padding=True, return_tensors="pt")
    labels = target["input_ids"].masked_fill(target["attention_mask"] == 0, -100)
    return source["input_ids"], source["attention_mask"], labels


def test_decoder_inputs_are_those_of_the_model_itself(built):
    _, model, tokenizer = built
    for rows in (1, 3):
        input_ids, mask, labels = batch(tokenizer, rows)
        assert rows == 1 or (labels == -100).any()
        inputs = families.decoder_input_ids(model, labels)
        assert inputs.shape == labels.shape
        assert inputs.dtype == torch.int64
        assert (inputs >= 0).all()
        with torch.no_grad():
            own = model(input_ids=input_ids, attention_mask=mask, labels=labels)
            ours = model(input_ids=input_ids, attention_mask=mask, decoder_input_ids=inputs)
        assert torch.equal(own.logits, ours.logits)
        loss = torch.nn.functional.cross_entropy(ours.logits.flatten(0, 1), labels.flatten())
        assert loss.item() == pytest.approx(own.loss.item(), abs=1e-6)


def test_decoder_inputs_of_a_model_that_hides_its_shift():
    config = M2M100Config(
        vocab_size=50, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16,
    )  # fmt: skip
    model = M2M100ForConditionalGeneration(config).eval()
    assert not hasattr(model, "prepare_decoder_input_ids_from_labels")
    labels = torch.tensor([[5, 6, 7, 2], [8, 2, -100, -100]])
    inputs = families.decoder_input_ids(model, labels)
    assert inputs.tolist() == [[2, 5, 6, 7], [2, 8, 2, 1]]
    with torch.no_grad():
        own = model(input_ids=torch.tensor([[4, 2], [9, 2]]), labels=labels).logits
        assert torch.equal(own, model(input_ids=torch.tensor([[4, 2], [9, 2]]), decoder_input_ids=inputs).logits)
    model.config.decoder_start_token_id = None
    with pytest.raises(InputError, match="decoder_start_token_id"):
        families.decoder_input_ids(model, labels)


@pytest.mark.parametrize("wanted", [None, "all-linear"])
def test_targets_take_an_adapter_and_nothing_else_is_trainable(built, wanted):
    family, model, _ = built
    targets = families.target_modules(model, wanted)
    if wanted is None:
        assert targets == (["q_proj", "v_proj"] if family in ("bart", "mbart", "pegasus") else ["q", "v"])
    tuned = get_peft_model(
        shared_copy(model.requires_grad_(False)), LoraConfig(task_type="SEQ_2_SEQ_LM", target_modules=targets, r=2)
    )
    trainable = [name for name, weight in tuned.named_parameters() if weight.requires_grad]
    assert trainable
    assert all("lora_" in name for name in trainable)
    # Self-attention of encoder and decoder and the decoder's cross-attention, two layers, two modules, A and B.
    assert len(trainable) == 24 if wanted is None else len(trainable) > 24
    assert not any("lm_head" in name for name in trainable)
    assert not any("lora_" in name for name, _ in model.named_parameters())


def test_wanted_targets_are_parsed(built):
    _, model, _ = built
    query = families.default_target_modules(model)[0]
    assert families.target_modules(model, f" {query} , lm_head,{query},") == [query, "lm_head"]
    assert families.target_modules(model, " All-Linear ") == "all-linear"


def test_a_target_that_matches_nothing_is_an_error_with_what_there_is(built):
    _, model, _ = built
    query, value = families.default_target_modules(model)
    with pytest.raises(InputError) as caught:
        families.target_modules(model, f"{query}_,{value},nothing_like_it")
    text = str(caught.value)
    assert f"{query}_ matches no module   did you mean" in text or len(query) == 1
    assert "nothing_like_it matches no module" in text
    assert f"\n  {value} matches" not in text
    assert f"{type(model).__name__} has: " in text
    assert {query, value, "lm_head", "shared"} <= set(text.split(" has: ")[1].split("\n")[0].split(", "))
    with pytest.raises(InputError, match="nothing given"):
        families.target_modules(model, " , ")


def test_position_limits(built):
    family, model, tokenizer = built
    limited = family in ("bart", "mbart", "pegasus")
    limit = tiny_models.POSITIONS if limited else None
    assert families.position_limits(model.config) == (limit, limit)
    longest = tiny_models.POSITIONS if limited else 300
    ids = torch.full((1, longest), tokenizer.convert_tokens_to_ids("?"))
    ids[ids < 0] = 5
    with torch.no_grad():  # the limit itself is usable, and without one any length is
        assert model(input_ids=ids, decoder_input_ids=ids).logits.shape[1] == longest


def test_position_limits_may_differ_for_source_and_target():
    config = LEDConfig(max_encoder_position_embeddings=16384, max_decoder_position_embeddings=1024)
    assert families.position_limits(config) == (16384, 1024)
    assert families.position_limits(T5Config()) == (None, None)
    assert families.position_limits(BartConfig()) == (1024, 1024)


def test_answers_are_greedy_whatever_the_checkpoint_likes(built, capfd):
    family, model, tokenizer = built
    options = families.generation_defaults(model, tokenizer)
    assert None not in options.values()
    input_ids, mask, labels = batch(tokenizer)
    given = {"input_ids": input_ids, "attention_mask": mask}
    new = 12
    with torch.no_grad():
        written = model.generate(**given, **options, max_new_tokens=new)
        configured = GenerationConfig(**options, max_new_tokens=new)
        assert torch.equal(model.generate(**given, generation_config=configured), written)
        # By hand: the likeliest token, one at a time, after the start that training shows the decoder.
        expected = families.decoder_input_ids(model, labels)[:, :1]
        ended = torch.zeros(len(expected), dtype=torch.bool)
        for step in range(new):
            token = model(**given, decoder_input_ids=expected).logits[:, -1].argmax(-1)
            if step == 0 and "forced_bos_token_id" in options:
                token[:] = options["forced_bos_token_id"]
            if step == new - 1 and model.generation_config.forced_eos_token_id is not None:
                token[:] = model.generation_config.forced_eos_token_id
            token[ended] = options["pad_token_id"]
            ended |= token == options["eos_token_id"]
            expected = torch.cat([expected, token[:, None]], dim=1)
    assert capfd.readouterr() == ("", "")
    assert torch.equal(written, expected[:, : written.shape[1]])
    assert written.shape[1] == new + 1 or bool(ended.all())
    assert (options["forced_bos_token_id"] == tokenizer.bos_token_id) if family == "bart" else True
    assert ("forced_bos_token_id" in options) == (family == "bart")
    if family == "mbart":
        assert options["decoder_start_token_id"] == tokenizer.convert_tokens_to_ids("en_XX")


@pytest.mark.filterwarnings("ignore:Unfeasible length constraints")
def test_the_checkpoint_would_not_have_been_greedy():
    model, tokenizer = tiny_models.tiny_model("bart"), tiny_models.tiny_tokenizer("bart")
    input_ids, mask, _ = batch(tokenizer)
    with torch.no_grad():
        tasteful = model.generate(input_ids=input_ids, attention_mask=mask, max_new_tokens=12)
        greedy = model.generate(
            input_ids=input_ids,
            attention_mask=mask,
            max_new_tokens=12,
            **families.generation_defaults(model, tokenizer),
        )
    assert not torch.equal(tasteful[:, : greedy.shape[1]], greedy)


@pytest.mark.parametrize(
    ("kind", "start", "first"), [(MBartTokenizer, "en_XX", None), (MBart50Tokenizer, "</s>", "en_XX")]
)
def test_answers_begin_with_their_language_as_training_did(kind, start, first):
    tokenizer = kind()  # with the special tokens and languages alone
    tokenizer.tgt_lang = tokenizer.src_lang
    model = tiny_models.tiny_model("mbart", max(tokenizer.get_vocab().values()) + 1)
    options = families.generation_defaults(model, tokenizer)
    assert options["decoder_start_token_id"] == tokenizer.convert_tokens_to_ids(start)
    assert options.get("forced_bos_token_id") == (first and tokenizer.convert_tokens_to_ids(first))
