"""Does the data remote answer, and does it let us in? `make remote`; `make pull` and `make push` ask first.

    python -m fusion_alpha.remote [--write] [--name REMOTE] [--abort-uploads DAYS]

DVC says what went wrong in the words of its libraries, after up to twenty seconds of trying; this asks once, with DVC's
own settings and credentials, and says what to do. It stores nothing: `--write` opens an upload and gives it up.
"""

import argparse
import contextlib
import logging
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    LoginError,
    NoAuthTokenError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
    TokenRetrievalError,
)
from botocore.exceptions import ConnectionError as NoConnectionError

from fusion_alpha.errors import InputError
from fusion_alpha.stage import set_up

if TYPE_CHECKING:
    from dvc.data_cloud import Remote

log = logging.getLogger(__name__)

NAME = "ai-trading-data"
_TIMEOUT_S = 10
_LONGEST_DAYS = 36500
_LET_IN = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a profile of ~/.aws: `dvc remote modify --local {name}"
    " profile PROFILE`; keys in .dvc/config.local go before both"
)
_AGAIN = "log in again: `aws sso login`, or `aws login`, with --profile PROFILE for one of ~/.aws; "
_ADDRESS = "`dvc remote modify --local {name} endpointurl URL`"
# What a store's answer means: its codes, the problem, the remedy.
_CODES = (
    (
        ("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken"),
        "wrong credentials",
        _LET_IN,
    ),
    (
        ("AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraintException"),
        "another region than the bucket's, or a key that is none",
        "where the answer names a region: `dvc remote modify --local {name} region REGION`; where it does not, copy the"
        " access key again, whole",
    ),
    (
        ("ExpiredToken", "RequestExpired", "RequestTimeTooSkewed"),
        "credentials that are over",
        "log in again (`aws sso login`, or a new session token); if you did, is this machine's clock right?",
    ),
    (
        ("NoSuchBucket",),
        "the bucket does not exist",
        "ask its owner to make it; or is the URL wrong? `dvc remote modify --local {name} url s3://BUCKET`",
    ),
    (
        ("AccessDenied",),
        "not allowed",
        "the keys are known, their rights do not suffice: ask the bucket's owner for s3:ListBucket and s3:GetObject,"
        " to push also for s3:PutObject and s3:AbortMultipartUpload, for --abort-uploads also for"
        " s3:ListBucketMultipartUploads",
    ),
)
# The same for what went wrong before there was an answer.
_ERRORS = (
    ((NoCredentialsError, PartialCredentialsError, ProfileNotFound), "no credentials", _LET_IN),
    (
        (SSOError, LoginError, TokenRetrievalError, NoAuthTokenError),
        "a login that is over, or was never made",
        _AGAIN + "or " + _LET_IN,
    ),
    (
        (CredentialRetrievalError,),
        "the program or service that hands out the credentials failed",
        "run the credential_process of your profile in ~/.aws/config by hand and see what it says; or " + _LET_IN,
    ),
    (
        (NoConnectionError, HTTPClientError),
        "no answer",
        f"is the network up, a proxy in the way, `make s3` running? {_ADDRESS} sets the address",
    ),
)


def explained(error: Exception, name: str, place: str) -> InputError:
    """What to do about what a store, or the way to it, said; `name` is the remote's."""
    cause = error if isinstance(error, ClientError) else error.__cause__  # s3fs turns some into an OSError
    said = cause.response.get("Error", {}) if isinstance(cause, ClientError) else {}
    rule = f"{said.get('Code')}: {said.get('Message')}" if said else str(error)
    problem, remedy = "an answer that this does not know", f"is it an S3 server, and the right one? {_ADDRESS} sets it"
    for codes, *meaning in _CODES:
        if said.get("Code") in codes:
            problem, remedy = meaning
    for kinds, *meaning in _ERRORS:
        if isinstance(error, kinds):
            problem, remedy = meaning
    return InputError(f"{place}: {problem}", rule=rule, remedy=remedy.format(name=name))


def check(remote: "Remote", write: bool = False) -> str:
    """One line about an S3 remote that answers. Raises InputError with the remedy for one that does not."""
    bucket, _, prefix = remote.path.partition("/")
    settings: dict[str, Any] = remote.fs.fs_args
    once = {"connect_timeout": _TIMEOUT_S, "read_timeout": _TIMEOUT_S, "retries": {"total_max_attempts": 1}}
    settings["config_kwargs"] = {**settings.get("config_kwargs", {}), **once}
    with _explaining(remote) as place:
        store = remote.fs.fs
        store.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=1)
        if write:
            key = f"{prefix}/.write-check".lstrip("/")
            upload = store.call_s3("create_multipart_upload", Bucket=bucket, Key=key)
            store.call_s3("abort_multipart_upload", Bucket=bucket, Key=key, UploadId=upload["UploadId"])
    return f"{place} answers{' and takes uploads' if write else ''}"


@contextlib.contextmanager
def _explaining(remote: "Remote") -> Iterator[str]:
    """Gives the place of a remote; what goes wrong there is raised as `explained` says it."""
    endpoint = remote.fs.fs_args.get("client_kwargs", {}).get("endpoint_url") or "AWS"
    place = f"remote {remote.name} (s3://{remote.path} at {endpoint})"
    try:
        yield place
    except (BotoCoreError, ClientError, OSError) as error:
        raise explained(error, remote.name, place) from None


def abort_uploads(remote: "Remote", before: datetime) -> int:
    """Give up the uploads that were begun `before` then and never ended; how many. Whole objects are not touched.

    Raises InputError with the remedy where the store does not let us list them or give one up.
    """
    with _explaining(remote):
        return _abort_uploads(remote, before)


def _abort_uploads(remote: "Remote", before: datetime) -> int:
    bucket, _, prefix = remote.path.partition("/")
    call = remote.fs.fs.call_s3
    given_up, marker = 0, dict[str, str]()
    while True:
        page = call("list_multipart_uploads", Bucket=bucket, Prefix=prefix, **marker)
        for upload in page.get("Uploads", []):
            if upload["Initiated"] < before:
                call("abort_multipart_upload", Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
                given_up += 1
        if not page.get("IsTruncated"):
            return given_up
        marker = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}


def _days(text: str) -> float:
    days = float(text)
    if not 0 <= days <= _LONGEST_DAYS:
        raise argparse.ArgumentTypeError(f"{text} is not in [0, {_LONGEST_DAYS}]")
    return days


def main(arguments: list[str]) -> int:
    from dvc.config import NoRemoteError, RemoteNotFoundError
    from dvc.repo import Repo

    set_up("remote")
    for library in ("botocore", "aiobotocore"):  # they log tracebacks of what `explained` says in a line
        logging.getLogger(library).setLevel(logging.CRITICAL)
    parser = argparse.ArgumentParser(prog="python -m fusion_alpha.remote", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="ask whether uploads are taken, too")
    parser.add_argument("--name", help="a remote other than the default one")
    parser.add_argument(
        "--abort-uploads", type=_days, metavar="DAYS", help="give up uploads that were begun longer ago and never ended"
    )
    options = parser.parse_args(arguments)
    with Repo() as repo:
        try:
            remote = repo.cloud.get_remote(options.name)
            if remote.fs.protocol != "s3":
                log.info("remote %s is no S3 store: %s; nothing to ask", remote.name, remote.path)
                return 0
            log.info(check(remote, options.write))
            if options.abort_uploads is not None:
                before = datetime.now(UTC) - timedelta(days=options.abort_uploads)
                log.info("%d unfinished uploads given up", abort_uploads(remote, before))
        except (InputError, NoRemoteError, RemoteNotFoundError) as error:
            sys.stderr.write(f"{error}\n")
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
