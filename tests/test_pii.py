"""Personal data is found in its written forms, market language is left alone, and keys keep their promises."""

import hashlib
import re

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from source_inputs import configuration

from fusion_alpha import cleaning, pii
from fusion_alpha.errors import InputError

NOTHING = (0,) * len(pii.KINDS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("RT @StockTwits: up", "RT @user: up"),
        ("via .@CNBC, RT@Foo_1 and ＠bar", "via .@user, RT@user and @user"),
        ("@username @user @users", "@user @user @user"),
        ("see http://t.co/GUoph3R13c.", "see <url>."),
        ("(https://www.x.org/a?b=@c&d=2015551234)", "(<url>)"),
        ("http://t.co/UoYhtt…", "<url>"),
        ("cut off htt…", "cut off <url>"),
        ("www.example.com/?r=1 and bit.ly/1NJlAlo, ok", "<url> and <url>, ok"),
        ("いいね http://t.co/abcですね", "いいね <url>ですね"),
        ("mail Jane.Doe+x@mail.example.co.uk!", "mail <email>!"),
        ("jane [at] example [dot] com", "<email>"),
        ("jane at example dot com", "<email>"),
        ("call (212) 555-0123 now", "call <phone> now"),
        ("212-555-0123, 212.555.0123; 1-800-555-0199", "<phone>, <phone>; <phone>"),
        ("+44 20 7946 0958 or +34617893502", "<phone> or <phone>"),
        ("tel 020 7946 0958, 07911 123456, 0533181838", "tel <phone>, <phone>, <phone>"),
        ("Ligue (21)99691-6007", "Ligue <phone>"),
        ("WhatsApp me at 2125550123", "WhatsApp me at <phone>"),
        ("foo@bar.com@baz", "<email>@user"),
        ("jane@corp(dot)com, jane{at}corp.com", "<email>, <email>"),
        ("tel. 06 12 34 56 78, 089/1234567, 0151 1234567, (02) 9876 5432", "tel. <phone>, <phone>, <phone>, <phone>"),
        ("0044 20 7946 0958; WhatsApp: 6123 4567", "<phone>; WhatsApp: <phone>"),
        ("by u/jane-99 or /u/jane", "by @user or @user"),
        ("brand.xyz/r/Ab12", "<url>"),
        ("card 4111 1111 1111 1111, 378282246310005.", "card <account>, <account>."),
        ("IBAN DE89 3704 0044 0532 0130 00 TSLA", "IBAN <account> TSLA"),
        ("gb82west12345698765432 NL91-ABNA-0417-1643-00", "<account> <account>"),
    ],
)
def test_written_forms_are_replaced(text, expected):
    assert pii.scrub(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "$TSLA $BRK.A #earnings S&P 500 -0.35%",
        "bought $AAPL @ 120.50, sold @121.25, half @.27 and @2pm @50k @520",
        "+12.50% to $1,234,567.89 on 120,000,000 shares, vol 5551234567",
        "2014-01-02 10/12/2014 20150403 18:30 20150403 18",
        "$AAPL Jan 100 call 105 110 115; call 520.00 525.00",
        "levels 250 260 2700, 0.618-1.618, 101.25-102.50, +2906 4/2 $86 C, OI +30490",
        "EPS 0.15 v 0.13, 0001193125-15-173308",
        "and/or, U.S./China, Amazon.com, Q3/Q4, P/E 15.2",
        "either (at the open) or at noon",
        "DOW 17,100.18 -2.11% NASDAQ 4,500.123",
        "tracking 4111 1111 1111 1112, ISIN US0378331005, GB29NWBK60161331926818",
        "u/w by GS, U/S, w/u/c, T-Mobile 2015 10 15, mobile: 2015-10-15, cell: 100 200 3.5",
        "",
    ],
)
def test_market_language_is_left_alone(text):
    assert pii.scrub_counted(text) == (text, NOTHING)


PIECES = st.sampled_from(
    [
        "@",
        "user",
        "a",
        "a@b.co",
        "http://x.y/z",
        "<url>",
        "212",
        "-",
        "555-0123",
        "+44",
        " ",
        ".",
        "(",
        ")",
        "…",
        "at",
        "4111 1111 1111 1111",
        "DE89",
        "3704 0044 0532 0130 00",
        "tel. ",
        "u/",
        "0",
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, max_size=14).map("".join))
def test_scrubbing_twice_changes_nothing(text):
    once, _ = pii.scrub_counted(text)
    assert pii.scrub_counted(once) == (once, NOTHING)


def test_counts_are_over_all_rows_and_the_index_is_kept():
    texts = pd.Series(["@a http://b.c", "@a http://b.c", "x@y.zz 212-555-0123", "nothing"], index=[5, 6, 7, 9])
    scrubbed, counts = pii.scrub_all(texts)
    assert counts == {"links": 2, "emails": 1, "accounts": 0, "phones": 1, "handles": 2}
    assert scrubbed.to_dict() == {5: "@user <url>", 6: "@user <url>", 7: "<email> <phone>", 9: "nothing"}
    assert pii.scrub_all(scrubbed)[1] == dict.fromkeys(pii.KINDS, 0)


def test_a_rare_kind_is_named_in_metrics_only_where_there_is_any(tmp_path, monkeypatch):
    """So a source without any keeps the bytes of its metrics."""
    cfg = configuration("csv")
    news = pd.DataFrame({"text": ["a@b.co"], "source_id": ["1"], "author": pd.Series([None], dtype="str")})
    news = news.assign(
        ticker="A", published_utc=pd.Timestamp(0, tz="UTC"), lang=None, is_repost=False, followers=pd.NA, version=1
    )
    assert "accounts" not in cleaning._without_personal_data(news, cfg)[1]["before"]
    counts = cleaning._without_personal_data(news.assign(text="4111-1111-1111-1111"), cfg)[1]
    assert (counts["before"]["accounts"], counts["after"]["accounts"]) == (1, 0)


def test_no_rows():
    scrubbed, counts = pii.scrub_all(pd.Series([], dtype="str"))
    assert len(scrubbed) == 0
    assert counts == dict.fromkeys(pii.KINDS, 0)


def test_hashes_are_keyed_and_separate_kinds(monkeypatch):
    monkeypatch.delenv(pii.KEY_VARIABLE, raising=False)
    public = pii.key(public=True, has_authors=True)
    monkeypatch.setenv(pii.KEY_VARIABLE, "a secret of our own")
    secret = pii.key(public=True, has_authors=True)
    values = pd.Series(["123", None, "123", "456"], dtype="str", index=[3, 1, 4, 2])
    hashes = public.hash("author", values)
    assert hashes.index.tolist() == [3, 1, 4, 2]
    assert hashes.isna().tolist() == [False, True, False, False]
    assert hashes.loc[3] == hashes.loc[4] != hashes.loc[2]
    assert all(re.fullmatch("[0-9a-f]{32}", value) for value in hashes.dropna())
    assert secret.hash("author", values).loc[3] != hashes.loc[3]
    assert public.hash("news", values).loc[3] != hashes.loc[3]
    assert (public.private, secret.private) == (False, True)
    assert public.fingerprint != secret.fingerprint


def test_hash_is_blake2b_as_documented(monkeypatch):
    monkeypatch.delenv(pii.KEY_VARIABLE, raising=False)
    secret = hashlib.blake2b(pii.PUBLIC_KEY.encode()).digest()
    expected = hashlib.blake2b(b"42", key=secret, digest_size=16, person=b"author").hexdigest()
    assert pii.key(True, True).hash("author", pd.Series(["42"])).tolist() == [expected]


def test_private_source_with_authors_needs_a_key(monkeypatch):
    monkeypatch.delenv(pii.KEY_VARIABLE, raising=False)
    assert not pii.key(public=False, has_authors=False).private
    with pytest.raises(InputError, match=pii.KEY_VARIABLE) as error:
        pii.key(public=False, has_authors=True)
    assert "remedy" in str(error.value)
    monkeypatch.setenv(pii.KEY_VARIABLE, "short")
    with pytest.raises(InputError, match="5 characters"):
        pii.key(public=True, has_authors=False)
