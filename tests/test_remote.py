"""The remote's configuration holds no credentials; what a store says is explained. tests/test_s3.py asks a real one."""

import configparser
import subprocess
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from botocore.exceptions import (
    ClientError,
    CredentialRetrievalError,
    EndpointConnectionError,
    LoginRefreshRequired,
    ProfileNotFound,
    ReadTimeoutError,
    SSLError,
    SSOTokenLoadError,
    TokenRetrievalError,
    UnauthorizedSSOTokenError,
)
from conftest import ROOT

from fusion_alpha import remote


def test_the_configuration_that_git_keeps_names_the_remote_and_no_way_in():
    parser = configparser.ConfigParser()
    parser.read(ROOT / ".dvc" / "config")
    assert parser["core"]["remote"] == remote.NAME
    assert dict(parser[f"'remote \"{remote.NAME}\"'"]) == {"url": "s3://ai-trading-data"}
    ignored = subprocess.run(["git", "check-ignore", ".dvc/config.local", ".dvc/cache", ".cache/s3"], cwd=ROOT)
    assert ignored.returncode == 0
    kept = subprocess.run(["git", "ls-files", ".dvc"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    assert ".dvc/config.local" not in kept


def answer(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "the store's words"}}, "ListObjectsV2")


def wrapped(code: str) -> OSError:
    """As s3fs gives it."""
    error = PermissionError("the store's words")
    error.__cause__ = answer(code)
    return error


@pytest.mark.parametrize(
    ("error", "problem", "remedy"),
    [
        (answer("InvalidAccessKeyId"), "wrong credentials", "AWS_ACCESS_KEY_ID"),
        (wrapped("SignatureDoesNotMatch"), "wrong credentials", "--local mine profile"),
        (wrapped("ExpiredToken"), "credentials that are over", "log in again"),
        (answer("RequestTimeTooSkewed"), "credentials that are over", "clock"),
        (wrapped("AccessDenied"), "not allowed", "s3:PutObject"),
        (wrapped("NoSuchBucket"), "the bucket does not exist", "--local mine url"),
        (ProfileNotFound(profile="me"), "no credentials", "--local mine profile"),
        (UnauthorizedSSOTokenError(), "a login that is over", "aws sso login"),
        (SSOTokenLoadError(error_msg="no token"), "a login that is over", "aws sso login"),
        (TokenRetrievalError(provider="sso", error_msg="over"), "a login that is over", "aws sso login"),
        (LoginRefreshRequired(), "a login that is over", "aws login"),
        (CredentialRetrievalError(provider="custom-process", error_msg="1"), "hands out", "credential_process"),
        (answer("AuthorizationHeaderMalformed"), "another region", "--local mine region REGION"),
        (wrapped("PermanentRedirect"), "another region", "--local mine region REGION"),
        (EndpointConnectionError(endpoint_url="http://x"), "no answer", "make s3"),
        (ReadTimeoutError(endpoint_url="http://x"), "no answer", "--local mine endpointurl"),
        (SSLError(endpoint_url="http://x", error="certificate"), "no answer", "proxy"),
        (answer("SlowDown"), "does not know", "endpointurl"),
        (OSError("something else"), "does not know", "endpointurl"),
    ],
)
def test_each_answer_has_its_problem_and_its_remedy(error, problem, remedy):
    said = str(remote.explained(error, "mine", "remote mine (s3://b at AWS)"))
    first, rule, last = said.splitlines()
    assert first.startswith("remote mine (s3://b at AWS): ")
    assert problem in first
    assert len(rule.removeprefix("  rule:")) > 5
    assert remedy in last


def test_unfinished_uploads_are_given_up_page_by_page_and_the_young_stay():
    old, young = datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 9, tzinfo=UTC)
    pages = [
        {
            "Uploads": [{"Key": "a", "UploadId": "1", "Initiated": old}],
            "IsTruncated": True,
            "NextKeyMarker": "a",
            "NextUploadIdMarker": "1",
        },
        {
            "Uploads": [
                {"Key": "b", "UploadId": "2", "Initiated": young},
                {"Key": "c", "UploadId": "3", "Initiated": old},
            ]
        },
    ]
    given_up = []

    def call_s3(method, **arguments):
        if method == "abort_multipart_upload":
            given_up.append((arguments["Key"], arguments["UploadId"]))
            return {}
        return pages[1 if arguments.get("KeyMarker") == "a" else 0]

    store = SimpleNamespace(path="bucket/folder", name="a", fs=SimpleNamespace(fs_args={}, fs=None))
    store.fs.fs = SimpleNamespace(call_s3=call_s3)
    assert remote.abort_uploads(store, datetime(2024, 1, 5, tzinfo=UTC)) == 2
    assert given_up == [("a", "1"), ("c", "3")]


def test_days_that_are_no_number_of_days_are_refused(capsys):
    for days in ("-1", "nan", "inf", "1e300", "soon"):
        with pytest.raises(SystemExit) as error:
            remote.main([f"--abort-uploads={days}"])
        assert error.value.code == 2
        assert "--abort-uploads" in capsys.readouterr().err


def test_a_remote_that_is_a_folder_needs_no_asking(tmp_path, monkeypatch, caplog):
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text(f"[core]\nremote = mine\n['remote \"mine\"']\nurl = {tmp_path}/store\n")
    monkeypatch.chdir(tmp_path)
    with caplog.at_level("INFO"):
        assert remote.main([]) == 0
    assert "no S3 store" in caplog.text


def test_a_remote_that_is_not_configured_is_named(capsys):
    assert remote.main(["--name", "nobody"]) == 2
    assert "nobody" in capsys.readouterr().err
