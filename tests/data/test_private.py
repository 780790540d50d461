"""E-mail addresses, phone numbers and secrets: what is found, and above all what is not. No secret here is one."""

from __future__ import annotations

import pytest

from seqtune.data import private
from seqtune.data.checks import clean_rows

LETTERS = "aB3dE5gH7jK9mN1pQ2sT4vW6yZ8bC0dF" * 3

EMAILS = ["ann@example.com", "ann.o+x@mail.example.co.uk", "ANN@EXAMPLE.ORG", "x_1@a-b.museum"]
PHONES = [
    "+49 30 123456-78",
    "+1 (415) 555-0132",
    "(415) 555-0132",
    "415-555-0132",
    "415.555.0132",
    "0049 89 1234567",
    "030 12345678",
    "01234 567890",
    "+33 1 23 45 67 89",
    "+44 (0)20 7946 0958",
]
SECRETS = [
    "AKIA" + "IOSFODNN7" + "ABCDEFG",
    "ghp" + "_" + LETTERS[:36],
    "github" + "_pat_" + LETTERS[:50],
    "xox" + "b-123456789012-" + LETTERS[:20],
    "AIza" + LETTERS[:35],
    "hf" + "_" + LETTERS[:34],
    "sk" + "_live_" + LETTERS[:24],
    "sk" + "-" + LETTERS[:48],
    ".".join(["eyJ" + LETTERS[:20], "eyJ" + LETTERS[:30], LETTERS[:40]]),
    "-----BEGIN RSA " + "PRIVATE KEY-----\nMIIE" + LETTERS + "\n-----END RSA " + "PRIVATE KEY-----",
]
NAMED = [f"password: {LETTERS[:16]}", f'"api_key" = "{LETTERS[:20]}"', f"client-secret={LETTERS[:24]}"]

#: Texts in which nothing is to be found.
INNOCENT = [
    "Born on 12/05/2023, or 2023-05-12, or 12.05.2023.",
    "Version 1.2.3.4 of 2024.10.31; the address is 192.168.100.200:8080.",
    "Order 4711-0815-2342, invoice 20231105123, article 978-3-16-148410-0",
    "It costs 1,234,567.89 € or 12 345 678 $.",
    "From 10:15:00 to 2024-11-05T10:15:00+01:00, 1699180500 seconds.",
    "4,194,304 rows, 0.123456789, 3.14159265358979, 1e-123456, 100000000 of 123456789",
    "Card 4111 1111 1111 1111, IBAN DE89 3704 0044 0532 0130 00",
    "sha256 e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "550e8400-e29b-41d4-a716-446655440000",
    "user@localhost, @ann on the net, ann @ home, a@b, pip install x@1.2, git@github",
    "https://user@example.com/a or git@example.com:a/b",
    "How do I change my password: press Reset. The token: see below. password = correcthorsebattery",
    "api_key = YOUR_API_KEY_HERE, token: os.environ['TOKEN'], secret = xxxxxxxxxxxxxxxx",
    "task-force, desk-1234, risk-aversion, ask-me-anything-about-it-please-do-not-wait",
    "grep -E '^0[0-9]{5}' file | awk '{print $12345678}'; chmod 0644; seq 0 1000000",
    "Order 00123842 or 0012-38x, PIN 004712345678",
    "Model 0123-4567890X; 1/2/3/4/5/6/7/8; 1234567; 12-34-56-78",
]


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        *(("emails", each) for each in EMAILS),
        *(("phones", each) for each in PHONES),
        *(("secrets", each) for each in SECRETS),
    ],
)
@pytest.mark.parametrize("around", ["{}", "Write to {}, please.", "x: ({})", '"{}"', "«{}»\n", "日本 {} 語"])
def test_found_whole_and_masked(kind: str, text: str, around: str) -> None:
    assert private.found_in(around.format(text)) == {kind: [text]}
    assert private.masked_text(around.format(text), "all") == around.format(private.MASKS[kind])
    assert private.masked_text(around.format(text), "none") == around.format(text)
    left = around.format(private.MASKS[kind] if kind == "secrets" else text)
    assert private.masked_text(around.format(text), "secrets") == left


@pytest.mark.parametrize("text", NAMED)
def test_a_secret_by_its_name(text: str) -> None:
    (secret,) = private.found_in(text)["secrets"]
    assert secret in LETTERS
    assert private.masked_text(text, "secrets") == text.replace(secret, "[SECRET]")


@pytest.mark.parametrize("text", INNOCENT)
def test_innocent(text: str) -> None:
    assert private.found_in(text) == {}


def test_a_secret_is_not_shown() -> None:
    assert private.shown("secrets", SECRETS[1]) == "ghp_aB… (40 characters)"


def test_masked_rows() -> None:
    rows = [{"question": "a@example.com?", "reply": "Call 415-555-0132 or " + SECRETS[0], "by": "b@example.com"}]
    dataset = clean_rows(rows, [], "question", "reply")
    assert private.masked(dataset, "none") is dataset
    found = private.masked(dataset, "all")
    assert found.features == dataset.features
    assert found[0] == {
        "row": 1,
        "input": "[EMAIL]?",
        "reference": "Call [PHONE] or [SECRET]",
        "extra": '{"by": "b@example.com"}',
    }


@pytest.mark.parametrize(
    "text", ["0" * 100_000, "+1 " * 50_000, "a@" * 50_000, "a." * 50_000 + "@b.de", "sk-" * 50_000]
)
def test_hostile_texts_take_no_time(text: str) -> None:
    import time

    start = time.perf_counter()
    private.found_in(text)
    assert time.perf_counter() - start < 2


def test_real_answers_have_few(shared_data) -> None:
    """On encyclopaedic answers almost everything found would be wrong."""
    from seqtune.data import readers

    rows = readers.read(readers.identify(str(shared_data / "nl2bash.json"), "train"), "train")
    found = [each for row in rows for text in row.values() for each in private.found_in(text).get("phones", [])]
    assert len(found) < 15, found
