import json
import math

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU

from seqtune.errors import InputError
from seqtune.metrics import (
    ROUGE_TYPES,
    ROW_METRICS,
    SET_METRICS,
    UnicodeTokenizer,
    bits_per_byte,
    bleu_tokenizer,
    choose_tokenizer,
    row_scores,
    set_scores,
    signatures,
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
    for name in (*ROUGE_TYPES, "exact_match", "f1", "identical"):
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
    ("prediction", "reference", "identical", "exact"),
    [
        ("yes", "yes", 100, 100),
        ("  yes \n", "yes", 100, 100),
        ("two\t words", "two words", 100, 100),
        ("Yes", "yes", 0, 100),
        ("yes.", "yes", 0, 100),
        ("the yes", "yes", 0, 100),
        ("ls -a", "ls", 0, 100),
        ("", "", 100, 100),
        (" \n", "", 100, 100),
        ("", "yes", 0, 0),
        ("no", "yes", 0, 0),
    ],
)
def test_identical_forgives_white_space_only_and_exact_match_what_squad_does(prediction, reference, identical, exact):
    (row,) = row_scores([prediction], [reference], "english")
    assert (row["identical"], row["exact_match"]) == (identical, exact)


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


class TestSeveralReferences:
    def test_each_row_metric_takes_the_best(self):
        wanted = ["Press and hold the reset button.", "Unplug the device.", "Hold the button for ten seconds."]
        answer = "Hold the button for 10 seconds."
        (row,) = row_scores([answer], [wanted])
        each = row_scores([answer] * 3, wanted)
        assert row == {name: max(one[name] for one in each) for name in row}
        scorer = RougeScorer(list(ROUGE_TYPES), use_stemmer=True)
        expected = scorer.score_multi(wanted, answer)
        assert all(row[name] == pytest.approx(100 * expected[name].fmeasure, abs=1e-9) for name in ROUGE_TYPES)

    def test_corpus_scores_are_sacrebleus_where_rows_have_one_two_and_three(self):
        answers = ["the cat sat on the mat", "a dog ran home", "birds sing in the morning light"]
        wanted = [["the cat sat on a mat", "there is a cat on the mat"], "the dog ran home", ["birds sing", "b", "c d"]]
        found = set_scores(answers, wanted)
        streams = [
            ["the cat sat on a mat", "the dog ran home", "birds sing"],
            ["there is a cat on the mat", None, "b"],
            [None, None, "c d"],
        ]
        assert found["bleu"] == pytest.approx(sacrebleu.corpus_bleu(answers, streams).score, abs=1e-9)
        assert found["chrf"] == pytest.approx(sacrebleu.corpus_chrf(answers, streams).score, abs=1e-9)
        assert "nrefs:var" in signatures(wanted, "english")["bleu"]

    def test_a_row_without_a_reference_is_refused(self):
        with pytest.raises(ValueError, match="without a reference"):
            row_scores(["a"], [[]])


def test_signatures_are_sacrebleus_own():
    found = signatures(["a b", "c"], "unicode")
    metric = BLEU(tokenize="intl", force=True)
    metric.corpus_score(["x", "y"], [["a b", "c"]])
    assert found["bleu"] == metric.get_signature().format()
    assert found["bleu"] == f"nrefs:1|case:mixed|eff:no|tok:intl|smooth:exp|version:{sacrebleu.__version__}"
    assert found["chrf"].startswith("nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:")


class TestPublishedExamples:
    """Our use of the libraries, against figures that others have printed."""

    def test_rouge_of_the_readme_of_rouge_score(self):
        # https://pypi.org/project/rouge-score: ROUGE-1 precision 0.75, recall 0.667; ROUGE-L 0.625 and 0.556
        (row,) = row_scores(["The quick brown dog jumps on the log."], ["The quick brown fox jumps over the lazy dog"])
        assert row["rouge1"] == pytest.approx(100 * 2 * (6 / 8) * (6 / 9) / (6 / 8 + 6 / 9), abs=1e-9)
        assert row["rougeL"] == pytest.approx(100 * 2 * (5 / 8) * (5 / 9) / (5 / 8 + 5 / 9), abs=1e-9)

    def test_rouge_l_of_lins_paper(self):
        # Lin 2004, section 3.1: "police killed the gunman" against "police kill the gunman" 3/4, and "the gunman kill
        # police" 2/4; ROUGE-2 is the same for both (1/3). Without stemming, for "killed" is another word there.
        wanted = "police killed the gunman"
        kill, gunman = row_scores(["police kill the gunman", "the gunman kill police"], [wanted] * 2, "unicode")
        assert (kill["rougeL"], gunman["rougeL"]) == (75, 50)
        assert kill["rouge2"] == gunman["rouge2"] == pytest.approx(100 / 3)

    def test_bleu_and_chrf_of_the_readme_of_sacrebleu(self):
        # https://github.com/mjpost/sacrebleu, "Using SacreBLEU from Python": BLEU = 48.53, chrF2 = 59.73
        answers = ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."]
        first = ["The dog bit the man.", "It was not unexpected.", "The man bit him first."]
        second = ["The dog had bit the man.", "No one was surprised.", "The man had bitten the dog."]
        found = set_scores(answers, list(zip(first, second, strict=True)))
        assert found["bleu"] == pytest.approx(48.53, abs=0.005)
        assert found["chrf"] == pytest.approx(59.73, abs=0.005)


def test_japanese_text_of_real_data(shared_data):
    """ROUGE's own tokenizer makes nothing of it; ours tells the same text from another. (The answers of this file are
    in Latin letters, so its questions are the text.)"""
    rows = json.loads((shared_data / "multilingual_qa.json").read_text(encoding="utf-8"))
    japanese = [row["question"] for row in rows if row["language"] == "ja"]
    own = RougeScorer(["rougeL"], use_stemmer=True)
    texts = [text for text in japanese if not any(c.isascii() and c.isalnum() for c in text)][:300]
    assert len(texts) == 300
    assert {own.score(text, text)["rougeL"].fmeasure for text in texts} == {0}
    assert {row["rougeL"] for row in row_scores(texts, texts, "unicode")} == {100}
    wrong = set_scores(texts, [*texts[1:], texts[0]], "unicode")
    assert 0 < wrong["rougeL"] < 60
    assert 0 < wrong["f1"] < 70
    assert choose_tokenizer(japanese)[0] == "unicode"
