"""Downloads against a server on this machine: whole or absent, retried, refused with a remedy."""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from fusion_alpha.errors import InputError
from fusion_alpha.sources import download

CONTENT = bytes(range(256)) * 4096  # 1 MiB


@pytest.fixture
def server(monkeypatch):
    """Answers each request with the next of `answers`: a status, or bytes to send before hanging up, or a header."""
    monkeypatch.setattr(time, "sleep", lambda _: None)
    answers, seen = [], []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append(self.path)
            answer = answers.pop(0)
            changed = answer if isinstance(answer, dict) else {}
            self.send_response(200 if changed else answer)
            self.send_header("Content-Length", changed.get("length", str(len(CONTENT))))
            self.end_headers()
            self.wfile.write(CONTENT[: changed.get("bytes")])

        def log_message(self, *_):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}/file.zip", answers, seen
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def test_whole_file_arrives_after_a_refusal_and_a_cut(server):
    url, answers, seen = server
    answers += [503, {"bytes": 1000}, 200]
    assert download.content(url, remedy="none") == CONTENT
    assert len(seen) == 3


def test_a_length_that_is_no_number_is_passed_over(server):
    url, answers, _ = server
    answers += [{"length": "many"}]
    assert download.content(url, remedy="none") == CONTENT


def test_cut_every_time_is_refused(server):
    url, answers, _ = server
    answers += [{"bytes": 1000}] * 3
    with pytest.raises(InputError) as error:
        download.content(url, remedy="set the variable")
    assert url in str(error.value)
    assert "set the variable" in str(error.value)


def test_a_dead_network_is_named_in_a_few_words(monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda _: None)
    with pytest.raises(InputError, match=r"\(ConnectionError: [^()]*Connection refused\)"):
        download.content("http://127.0.0.1:9/file.zip", remedy="none")


def test_not_found_is_not_tried_again(server):
    url, answers, seen = server
    answers += [404]
    with pytest.raises(InputError, match="404"):
        download.content(url, remedy="none")
    assert len(seen) == 1
