"""The archive: found, checked, read under any packing; damage is refused with a remedy."""

import hashlib
import time

import pytest
from source_inputs import archive, configuration, days, stocknet_files, tweet

from fusion_alpha import config
from fusion_alpha.errors import InputError
from fusion_alpha.sources import download, stocknet


@pytest.fixture(autouse=True)
def _no_archive_of_the_machine(monkeypatch):
    monkeypatch.delenv(stocknet.VARIABLE, raising=False)


def read(tmp_path, contents, block=None, top="stocknet-dataset-master/"):
    archive(tmp_path / stocknet.ARCHIVE, contents, top)
    return stocknet.read(configuration("stocknet", block), tmp_path)


@pytest.mark.parametrize("top", ["stocknet-dataset-master/", "yumoxu-stocknet-dataset-330708b/", "", "a/b/"])
def test_rows_whatever_the_top_folder_is_called(tmp_path, top):
    rows = read(tmp_path, stocknet_files(), top=top)
    assert len(rows.prices) == 12
    assert rows.prices.iloc[0]["ticker"] == "AAPL"
    assert rows.prices.iloc[0]["source_file"] == "stocknet.zip!price/raw/AAPL.csv"
    assert rows.prices["line"].tolist() == list(range(2, 14))
    assert rows.benchmark["session"].is_monotonic_increasing
    assert len(rows.benchmark) == 11
    assert rows.rejected.empty


def test_tweets_keep_what_is_needed_and_drop_names(tmp_path):
    news = read(tmp_path, stocknet_files()).news
    assert news["source_id"].tolist() == ["91", "92", "93"]
    assert news["published_utc"].dt.strftime("%m-%d %H:%M").tolist() == ["01-05 15:00", "01-05 15:00", "01-05 23:30"]
    assert news["is_repost"].tolist() == [False, True, False]
    assert news["author"].tolist() == ["771", "772", "773"]
    assert news["followers"].tolist() == [5, 5, 5]
    assert news["text"].tolist()[1] == "RT @a: b &amp; c"
    assert not news.isin(["Jane Doe", "janedoe"]).any().any()


def test_repost_by_field_or_by_prefix(tmp_path):
    lines = [tweet(1, text="RT @a: b"), tweet(2, retweeted_status={"id_str": "1"}), tweet(3, text="RT if you like")]
    news = read(tmp_path, stocknet_files() | {"tweet/raw/AAPL/2015-01-05": "\n".join(lines)}).news
    assert news["is_repost"].tolist() == [True, True, False, False]


def test_a_tweet_in_two_folders_is_two_rows(tmp_path):
    contents = stocknet_files()
    news = read(tmp_path, contents | {"tweet/raw/MSFT/2015-01-05": contents["tweet/raw/AAPL/2015-01-05"]}).news
    assert news.groupby("source_id")["ticker"].nunique().to_dict() == {"91": 2, "92": 2, "93": 1}


def test_rows_outside_the_window_are_left_out_and_counted(tmp_path):
    block = {"first_session": days(3)[2], "last_session": "2015-01-07"}
    contents = stocknet_files() | {"tweet/raw/AAPL/2015-01-08": tweet(9, created="Thu Jan 08 00:00:00 +0000 2015")}
    rows = read(tmp_path, contents, block)
    assert rows.prices["session"].dt.strftime("%d").tolist() == ["06", "07"]
    assert rows.left_out == {"prices": 10, "news": 4}


def test_rows_that_cannot_be_parsed_have_their_place(tmp_path):
    contents = stocknet_files()
    contents["price/raw/AAPL.csv"] = contents["price/raw/AAPL.csv"].replace(days(2)[1] + ",100.0", days(2)[1] + ",null")
    lines = [tweet(1)[:40], tweet(2, id_str=None), tweet(3, created="2015-01-05"), tweet(4)]
    contents["tweet/raw/AAPL/2015-01-05"] = "\n".join(lines)
    rows = read(tmp_path, contents)
    found = set(zip(rows.rejected["source_file"], rows.rejected["line"], rows.rejected["column"], strict=True))
    file = "stocknet.zip!tweet/raw/AAPL/2015-01-05"
    assert found == {
        ("stocknet.zip!price/raw/AAPL.csv", 3, "open"),
        (file, 1, "line"),
        (file, 2, "id_str"),
        (file, 3, "created_at"),
    }
    assert rows.news["source_id"].tolist() == ["94", "93"]


def test_set_a_counts_days_of_files_not_of_utc(tmp_path):
    """Tweet 3 was sent on the 5th (UTC) and lies in the file of the 6th, which is the slot of session 7."""
    contents = stocknet_files()
    for day in ("2015-01-02", "2015-01-04"):
        contents[f"tweet/raw/AAPL/{day}"] = tweet(5)
    asked = read(tmp_path, contents).benchmark.set_index("session")["set_a"]
    assert bool(asked["2015-01-07"])
    del contents["tweet/raw/AAPL/2015-01-06"]
    asked = read(tmp_path, contents).benchmark.set_index("session")["set_a"]
    assert not asked["2015-01-07"]


def test_a_broken_benchmark_file_stops(tmp_path):
    contents = stocknet_files()
    contents["price/preprocessed/AAPL.txt"] = "2015-01-06\t0.01\n2015-01-05 0.01\n"
    with pytest.raises(InputError, match=r"preprocessed/AAPL\.txt, line 2"):
        read(tmp_path, contents)


def fetch(tmp_path, block, name="raw"):
    raw = tmp_path / name
    raw.mkdir()
    return stocknet.fetch(configuration("stocknet", block), raw)


def test_archive_from_parameter_variable_or_folder(tmp_path, monkeypatch):
    path = archive(tmp_path / stocknet.ARCHIVE_NAME, stocknet_files())
    (file,) = fetch(tmp_path, {"archive": str(path)}, "a")
    assert file.path.read_bytes() == path.read_bytes()
    assert file.url == f"file:{stocknet.ARCHIVE_NAME}"
    monkeypatch.setenv(stocknet.VARIABLE, str(tmp_path))
    (file,) = fetch(tmp_path, {}, "b")
    assert file.path.read_bytes() == path.read_bytes()


def test_missing_archive_names_who_named_it(tmp_path, monkeypatch):
    monkeypatch.setenv(stocknet.VARIABLE, str(tmp_path / "nowhere.zip"))
    with pytest.raises(InputError) as error:
        fetch(tmp_path, {})
    for word in ("nowhere.zip", stocknet.VARIABLE, "remedy"):
        assert word in str(error.value)


def test_no_archive_and_no_network(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda _: None)
    with pytest.raises(InputError) as error:
        fetch(tmp_path, {"url": "http://127.0.0.1:9/none.zip"})
    for word in ("cannot download http://127.0.0.1:9/none.zip", f"set ${stocknet.VARIABLE}"):
        assert word in str(error.value)
    assert list((tmp_path / "raw").iterdir()) == []


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda content: b"<html>not found</html>", ["not a readable zip", "fetch the archive again"]),
        (lambda content: content[: len(content) // 2], ["not a readable zip"]),
        (lambda content: content[:100] + bytes(40) + content[140:], ["damaged"]),
    ],
)
def test_corrupt_archives_are_refused(tmp_path, damage, words):
    path = archive(tmp_path / "a.zip", {"README.md": "x" * 5, **stocknet_files()})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError) as error:
        fetch(tmp_path, {"archive": str(path)})
    for word in ["a.zip", *words]:
        assert word in str(error.value)


def test_a_member_too_large_for_memory_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(stocknet, "_LARGEST_BYTES", 1000)
    bomb = archive(tmp_path / "a.zip", stocknet_files() | {"price/raw/A.csv": bytes(1001)})
    with pytest.raises(InputError, match=r"(?s)a\.zip: member .*price/raw/A\.csv has 1001 bytes.*at most 1000"):
        stocknet.fetch(configuration("stocknet", {"archive": str(bomb)}), tmp_path)


def test_an_archive_of_something_else_is_refused(tmp_path):
    path = archive(tmp_path / "a.zip", {"readme.txt": "hello"})
    with pytest.raises(InputError, match="yumoxu/stocknet-dataset"):
        fetch(tmp_path, {"archive": str(path)})


def test_wrong_checksums_are_refused_and_right_ones_pass(tmp_path):
    path = archive(tmp_path / "a.zip", stocknet_files())
    whole = hashlib.sha256(path.read_bytes()).hexdigest()
    with stocknet.opened(path, "a.zip") as source:
        prices = stocknet.price_sha256(source, stocknet.members(source, "a.zip"))
    fetch(tmp_path, {"archive": str(path), "sha256": whole, "price_sha256": prices}, "good")
    for number, block in enumerate(({"sha256": "0" * 64}, {"price_sha256": "0" * 64})):
        with pytest.raises(InputError) as error:
            fetch(tmp_path, {"archive": str(path), **block}, f"bad{number}")
        for word in ("SHA-256", f"data.stocknet.{next(iter(block))}", "a.zip", "remedy"):
            assert word in str(error.value)


def test_price_checksum_is_of_the_content_not_of_the_packing(tmp_path):
    def checksum(contents, top):
        with stocknet.opened(archive(tmp_path / "a.zip", contents, top), "a.zip") as source:
            return stocknet.price_sha256(source, stocknet.members(source, "a.zip"))

    contents = stocknet_files()
    reordered = dict(reversed(contents.items())) | {"tweet/raw/AAPL/2015-01-05": "{}"}
    first = checksum(contents, "one/")
    assert checksum(reordered, "two/") == first
    changed = contents | {"price/raw/AAPL.csv": contents["price/raw/AAPL.csv"].replace("100.0", "100.1", 1)}
    assert checksum(changed, "one/") != first


def test_pinned_checksum_is_that_of_the_archive_at_hand(shared_data, tmp_path):
    config.compose(tmp_path / "params.yaml", ["data=stocknet"])
    block = config.load(params=tmp_path / "params.yaml").data.stocknet
    path = stocknet.local_archive(configuration("stocknet", {"archive": str(shared_data / "stocknet")}).data.stocknet)
    with stocknet.opened(path, "archive") as source:
        assert stocknet.price_sha256(source, stocknet.members(source, "archive")) == block.price_sha256


@pytest.mark.slow
def test_the_archive_at_hand_in_full(shared_data, tmp_path):
    block = {"archive": str(shared_data / "stocknet"), "last_session": "2016-03-31"}
    cfg = configuration("stocknet", block)
    fetch(tmp_path, block)
    rows = stocknet.read(cfg, tmp_path / "raw")
    assert len(rows.news) + rows.left_out["news"] == 119_844
    assert rows.left_out["news"] == 0
    assert len(rows.rejected) == 3
    text = rows.news["text"].str.replace(r"https?://\S+|@\w+", "", regex=True).str.split().str.join(" ")
    assert text.str.replace(r"^RT\s*:?\s*", "", regex=True).nunique() == 81_779  # without links, handles and RT


def test_download_helper_is_what_fetch_uses(tmp_path, monkeypatch):
    source = archive(tmp_path / "a.zip", stocknet_files())
    asked = []
    monkeypatch.setattr(download, "content", lambda url, remedy: asked.append(url) or source.read_bytes())
    (file,) = fetch(tmp_path, {"url": "https://example.org/master.zip"})
    assert asked == [file.url] == ["https://example.org/master.zip"]
