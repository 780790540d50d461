import dataclasses
import json
import math

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from seqtune.errors import InputError
from seqtune.metrics import (
    ROUGE_TYPES,
    ROW_METRICS,
    SET_METRICS,
    Lift,
    UnicodeTokenizer,
    bits_per_byte,
    bleu_tokenizer,
    choose_tokenizer,
    lift,
    row_scores,
    set_scores,
    verdict,
    verdict_sentence,
)

PREDICTIONS = [
    "Hold the reset button for ten seconds, then let go.",
    "The warranty runs for 2 years.",
    "",
    "Open Settings.\nChoose Network.\nRestart the hub.",
    "i don't know",
]
REFERENCES = [
    "Press and hold the reset button for 10 seconds.",
    "Warranties run for two years from the day of delivery.",
    "Write to the support desk.",
    "Restart the hub.\nOpen the settings and choose the network.",
    "I don't know.",
]
SCRIPTS = {
    "japanese": ("東京は日本の首都です。", "東京は日本で一番大きな町です。"),
    "chinese": ("重新启动路由器，然后等待两分钟。", "请重新启动路由器。"),
    "hindi": ("राउटर को फिर से चालू करें", "राउटर को बंद करें"),
    "arabic": ("أعد تشغيل الجهاز ثم انتظر", "أعد تشغيل الجهاز الآن"),
    "thai": ("รีสตาร์ทเราเตอร์", "ปิดเราเตอร์"),
    "khmer": ("ភាសាខ្មែរ", "ភាសាថៃ"),
    "korean": ("라우터를 다시 시작하고 기다리세요", "라우터를 다시 끄세요"),
    "russian": ("Перезагрузите роутер и подождите", "Выключите роутер и подождите"),
    "greek": ("Επανεκκινήστε τον δρομολογητή τώρα", "Κλείστε τον δρομολογητή τώρα"),
}


def test_row_scores_equal_the_libraries_own():
    scorer = RougeScorer(list(ROUGE_TYPES), use_stemmer=True)
    for row, prediction, reference in zip(
        row_scores(PREDICTIONS, REFERENCES, "english"), PREDICTIONS, REFERENCES, strict=True
    ):
        expected = scorer.score(reference, prediction)
        assert tuple(row) == ROW_METRICS
        for name in ROUGE_TYPES:
            assert row[name] == pytest.approx(100 * expected[name].fmeasure, abs=1e-9)
        assert row["chrf"] == pytest.approx(sacrebleu.sentence_chrf(prediction, [reference]).score, abs=1e-9)


@pytest.mark.parametrize("tokenizer", ["english", "unicode"])
def test_set_scores_are_row_means_and_the_librarys_corpus_scores(tokenizer):
    rows = row_scores(PREDICTIONS, REFERENCES, tokenizer)
    scores = set_scores(PREDICTIONS, REFERENCES, tokenizer)
    assert tuple(scores) == SET_METRICS
    for name in (*ROUGE_TYPES, "exact_match"):
        assert scores[name] == pytest.approx(np.mean([row[name] for row in rows]), abs=1e-9)
    tokenize = {"english": "13a", "unicode": "intl"}[tokenizer]
    bleu = sacrebleu.corpus_bleu(PREDICTIONS, [REFERENCES], tokenize=tokenize).score
    assert scores["bleu"] == pytest.approx(bleu, abs=1e-9)
    assert scores["chrf"] == pytest.approx(sacrebleu.corpus_chrf(PREDICTIONS, [REFERENCES]).score, abs=1e-9)
    assert set_scores(PREDICTIONS, REFERENCES, tokenizer, rows) == scores


@pytest.mark.parametrize("tokenizer", ["english", "unicode"])
def test_values_worked_out_by_hand(tokenizer):
    # 5 words against 6: "the cat sat the mat" / "the cat sat on the mat". All 5 words match: precision 5/5, recall 5/6.
    # Pairs: 4 against 5, of which "the cat", "cat sat", "the mat" match: 3/4 and 3/5.
    (row,) = row_scores(["the cat sat the mat"], ["the cat sat on the mat"], tokenizer)
    assert row["rouge1"] == pytest.approx(100 * 10 / 11, abs=1e-9)
    assert row["rouge2"] == pytest.approx(100 * 6 / 9, abs=1e-9)
    assert row["rougeL"] == row["rougeLsum"] == pytest.approx(100 * 10 / 11, abs=1e-9)
    # The order of lines: L finds one line of two (2 of 4 words); Lsum matches line by line and finds all 4.
    (row,) = row_scores(["red apple\nblue plum"], ["blue plum\nred apple"], tokenizer)
    assert row["rougeL"] == pytest.approx(50, abs=1e-9)
    assert row["rougeLsum"] == pytest.approx(100, abs=1e-9)


def test_chrf_worked_out_by_hand():
    # "ab" / "abc": 1-grams 2 of 2 and 2 of 3, 2-grams 1 of 1 and 1 of 2; longer ones don't exist in "ab" and are left
    # out. Mean precision 1, mean recall 7/12; F with beta 2 = 5PR / (4P + R).
    (row,) = row_scores(["ab"], ["abc"], "english")
    recall = 7 / 12
    assert row["chrf"] == pytest.approx(100 * 5 * recall / (4 + recall), abs=1e-9)


def test_bleu_worked_out_by_hand():
    # 5 words against 6, the first 5 of them: every n-gram matches, so BLEU is the brevity penalty exp(1 - 6/5).
    scores = set_scores(["a b c d e"], ["a b c d e f"], "english")
    assert scores["bleu"] == pytest.approx(100 * math.exp(-0.2), abs=1e-9)


def test_english_is_stemmed_and_unicode_is_not():
    (english,) = row_scores(["restarting routers"], ["restart router"], "english")
    (unicode,) = row_scores(["restarting routers"], ["restart router"], "unicode")
    assert (english["rouge1"], unicode["rouge1"]) == (100, 0)


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("yes", "yes", 100),
        ("  yes \n", "yes", 100),
        ("two\t words", "two words", 100),
        ("Yes", "yes", 0),
        ("yes.", "yes", 0),
        ("", "", 100),
        (" \n", "", 100),
        ("", "yes", 0),
    ],
)
def test_exact_match_forgives_white_space_only(prediction, reference, expected):
    assert row_scores([prediction], [reference], "english")[0]["exact_match"] == expected


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_is_scored(script):
    text, other = SCRIPTS[script]
    same, partial = row_scores([text, other], [text, text], "unicode")
    assert same == pytest.approx(dict.fromkeys(ROW_METRICS, 100.0), abs=1e-9)
    assert 0 < partial["rouge1"] < 100
    assert 0 < partial["rougeL"] < 100
    google = RougeScorer(["rouge1"], use_stemmer=True).score(text, text)
    assert google["rouge1"].fmeasure == 0  # why the tokenizer exists
    assert set_scores([text], [text], "unicode") == pytest.approx(dict.fromkeys(SET_METRICS, 100.0), abs=1e-9)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("コーヒーABC", ["コ", "ー", "ヒ", "ー", "abc"]),
        ("ﾃｽﾄ２", ["テ", "ス", "ト", "2"]),
        ("東京2025年", ["東", "京", "2025", "年"]),
        ("น้องดี", ["น้", "อ", "ง", "ดี"]),
        ("नमस्ते, दुनिया!", ["नमस्ते", "दुनिया"]),
        ("Straße e\u0301té", ["strasse", "été"]),
        ("don't stop-me", ["don", "t", "stop", "me"]),
        ("한국어 입니다", ["한국어", "입니다"]),
        ("… — 🙂", []),
        ("", []),
    ],
)
def test_unicode_tokens(text, tokens):
    assert UnicodeTokenizer().tokenize(text) == tokens


@pytest.mark.parametrize(
    ("references", "expected"),
    [
        (["plain words", "more of them"], "english"),
        (["naïve " + "plain " * 100], "english"),  # 1 letter of 505
        (["a" * 995 + "é" * 5], "english"),  # 0.5 % exactly
        (["a" * 994 + "é" * 6], "unicode"),
        (["Où est la clé ?"], "unicode"),
        (["東京"], "unicode"),
        (["123 🙂 — “quoted”"], "english"),  # only letters count
        ([""], "english"),
        ([], "english"),
    ],
)
def test_choice_of_tokenizer_with_its_reason(references, expected):
    tokenizer, reason = choose_tokenizer(references)
    assert tokenizer == expected
    assert "% of the letters" in reason


@pytest.mark.parametrize(
    ("references", "tokenizer", "expected"),
    [
        (["plain"], "english", "13a"),
        (["Où est la clé ?"], "unicode", "intl"),
        (["東京は日本の首都です"], "unicode", "char"),
        (["ภาษาไทย"], "unicode", "char"),
        (["안녕하세요 세계"], "unicode", "intl"),
        ([""], "unicode", "intl"),
    ],
)
def test_tokenizer_of_bleu(references, tokenizer, expected):
    assert bleu_tokenizer(references, tokenizer) == expected


def test_empty_answers_score_nothing():
    scores = set_scores(["", ""], ["an answer", "another"], "english")
    assert scores == dict.fromkeys(SET_METRICS, 0.0)
    assert set_scores([""], [""], "unicode")["exact_match"] == 100
    assert row_scores([], [], "english") == []


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(InputError, match="no rows"):
        set_scores([], [], "english")
    with pytest.raises(ValueError, match="2 rows against 1"):
        row_scores(["a", "b"], ["a"], "english")
    with pytest.raises(ValueError, match="2 rows against 1"):
        set_scores(["a", "b"], ["a"], "english")
    with pytest.raises(ValueError, match="tokenizer is 'latin'"):
        row_scores(["a"], ["a"], "latin")  # pyright: ignore


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.text(max_size=40), st.text(max_size=40)), min_size=1, max_size=4),
    st.sampled_from(["english", "unicode"]),
)
def test_any_text_gives_plain_numbers_from_0_to_100(pairs, tokenizer):
    predictions, references = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    rows = row_scores(predictions, references, tokenizer)
    for scores in [*rows, set_scores(predictions, references, tokenizer, rows)]:
        assert all(type(value) is float and 0 <= value <= 100 + 1e-9 for value in scores.values())
    json.dumps(rows, allow_nan=False)


def test_bits_per_byte():
    assert bits_per_byte(8 * math.log(2), 4) == pytest.approx(2.0, abs=1e-12)
    assert bits_per_byte(0.0, 3) == 0
    with pytest.raises(ValueError, match="n_bytes"):
        bits_per_byte(1.0, 0)


def test_lift_of_the_same_gain_everywhere_has_no_width():
    result = lift([10.0, 20.0, 30.0], [15.0, 25.0, 35.0], samples=100, seed=0)
    assert result == Lift(mean=5.0, low=5.0, high=5.0, rows=3, confidence=0.95)


def test_lift_of_two_rows_worked_out_by_hand():
    # differences 0 and 10: a resampling gives 0, 5 or 10 with chances 1/4, 1/2, 1/4; so 95 % runs from 0 to 10,
    # and the middle 40 % (quantiles 0.3 and 0.7) is 5 alone
    assert lift([0.0, 0.0], [0.0, 10.0], samples=4000, seed=1) == Lift(5.0, 0.0, 10.0, 2)
    assert lift([0.0, 0.0], [0.0, 10.0], samples=4000, seed=1, confidence=0.4) == Lift(5.0, 5.0, 5.0, 2, 0.4)


def test_lift_is_seeded_plain_and_paired():
    rng = np.random.default_rng(7)
    base = rng.uniform(0, 100, 80)
    tuned = base + rng.normal(2, 3, 80)
    first = lift(base.tolist(), tuned.tolist(), samples=2000, seed=3)
    assert first == lift(base.tolist(), tuned.tolist(), samples=2000, seed=3)
    assert first != lift(base.tolist(), tuned.tolist(), samples=2000, seed=4)
    assert first.low < first.mean < first.high
    assert first.high - first.low < 2  # unpaired, the spread of the rows (29 points) would make it about 12
    assert all(type(value) in (float, int) for value in dataclasses.asdict(first).values())
    swapped = lift(tuned.tolist(), base.tolist(), samples=2000, seed=3)
    assert (swapped.mean, swapped.low, swapped.high) == pytest.approx((-first.mean, -first.high, -first.low))


def test_lift_takes_as_many_rows_as_there_are_without_holding_all_resamplings():
    import tracemalloc

    rng = np.random.default_rng(0)
    base, tuned = rng.uniform(0, 100, (2, 500))
    tracemalloc.start()
    lift(base.tolist(), tuned.tolist(), samples=10_000, seed=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6  # all at once: 80 MB


def test_interval_holds_the_true_difference_as_often_as_it_says():
    rng = np.random.default_rng(11)
    true, held, repeats = 3.0, 0, 300
    for repeat in range(repeats):
        base = rng.uniform(0, 100, 60)
        tuned = base + rng.normal(true, 15, 60)
        result = lift(base.tolist(), tuned.tolist(), samples=1000, seed=repeat)
        held += result.low <= true <= result.high
    assert 0.90 <= held / repeats <= 0.98


def test_lift_refuses_what_it_cannot_compare():
    with pytest.raises(InputError, match="no rows"):
        lift([], [], samples=10, seed=0)
    with pytest.raises(ValueError, match="1 rows against 2"):
        lift([1.0, 2.0], [1.0], samples=10, seed=0)
    with pytest.raises(ValueError, match="finite"):
        lift([1.0, 2.0], [1.0, math.nan], samples=10, seed=0)
    with pytest.raises(ValueError, match="samples=0"):
        lift([1.0], [1.0], samples=0, seed=0)
    with pytest.raises(ValueError, match="confidence=95"):
        lift([1.0], [1.0], samples=10, seed=0, confidence=95)


@pytest.mark.parametrize(
    ("low", "high", "rows", "expected"),
    [
        (0.1, 5.0, 50, "better"),
        (-5.0, -0.1, 50, "worse"),
        (-1.0, 1.0, 50, "no clear difference"),
        (0.0, 5.0, 50, "no clear difference"),
        (-5.0, 0.0, 50, "no clear difference"),
        (0.0, 0.0, 50, "no clear difference"),
        (0.1, 5.0, 5, "better"),
        (0.1, 5.0, 4, "no clear difference"),
        (-5.0, -0.1, 4, "no clear difference"),
        (9.0, 9.0, 1, "no clear difference"),
    ],
)
def test_verdict(low, high, rows, expected):
    assert verdict(Lift((low + high) / 2, low, high, rows)) == expected


@pytest.mark.parametrize(
    ("metric", "result", "expected"),
    [
        (
            "rougeL",
            Lift(31.24, 27.5, 34.81, 53),
            "better: ROUGE-L +31.2 points over the base (95 % interval 27.5 to 34.8, 53 hold-out rows)",
        ),
        (
            "chrf",
            Lift(-3.0, -4.5, -1.5, 20, 0.9),
            "worse: chrF -3.0 points over the base (90 % interval -4.5 to -1.5, 20 hold-out rows)",
        ),
        (
            "exact_match",
            Lift(0.0, 0.0, 0.0, 8),
            "no clear difference: exact match +0.00 points over the base (95 % interval 0.00 to 0.00, 8 hold-out rows)",
        ),
        (
            "rouge1",
            Lift(0.3, 0.02, 0.6, 400),
            "better: ROUGE-1 +0.30 points over the base (95 % interval 0.02 to 0.60, 400 hold-out rows)",
        ),
        (
            "my_metric",
            Lift(20.0, 10.0, 30.0, 1),
            "no clear difference: my_metric +20.0 points over the base "
            "(95 % interval 10.0 to 30.0, 1 hold-out row, too few to tell)",
        ),
    ],
)
def test_verdict_sentence(metric, result, expected):
    assert verdict_sentence(metric, result) == expected
    assert verdict_sentence(metric, result, "validation") == expected.replace("hold-out", "validation")
