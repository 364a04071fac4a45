"""A hub that does not answer is asked once, and files that are here are used without it."""

from __future__ import annotations

import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import LocalEntryNotFoundError

from c2s_cache import hub as module
from c2s_cache.hub import hub, hub_answers


@pytest.fixture(autouse=True)
def unasked(monkeypatch, tmp_path):
    """No answer is known yet, no file is here, and no other machine is ever asked."""
    hub_answers.cache_clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    yield
    hub_answers.cache_clear()


@pytest.fixture
def port():
    """A port that is bound; nobody answers there unless a test listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound


def endpoint(bound: socket.socket, monkeypatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{bound.getsockname()[1]}")


def test_a_closed_port_is_no_answer(port, monkeypatch):
    endpoint(port, monkeypatch)
    assert not hub_answers()


def test_silence_is_no_answer(port, monkeypatch):
    """Connections are taken and nothing comes back."""
    port.listen()
    endpoint(port, monkeypatch)
    monkeypatch.setattr(module, "PATIENCE", 0.2)
    assert not hub_answers()


def test_a_name_that_is_looked_up_for_ever_is_no_answer(monkeypatch):
    released = threading.Event()
    monkeypatch.setattr(module, "PATIENCE", 0.2)
    monkeypatch.setattr(module, "_head", lambda url: released.wait())
    assert not hub_answers()
    released.set()


def test_a_refusal_is_an_answer(monkeypatch):
    class Refuses(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_error(503)

        def log_message(self, *args):
            pass

    with HTTPServer(("127.0.0.1", 0), Refuses) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint(server.socket, monkeypatch)
        try:
            assert hub_answers()
            with hub():
                assert not constants.is_offline_mode()
        finally:
            server.shutdown()


def test_libraries_do_not_ask_a_hub_that_is_silent(port, monkeypatch):
    endpoint(port, monkeypatch)
    asked = []
    head = module._head
    monkeypatch.setattr(module, "_head", lambda url: (asked.append(url), head(url))[1])
    for _ in range(2):
        with hub(), pytest.raises(LocalEntryNotFoundError):
            hf_hub_download("a/b", "c.bin")
    assert len(asked) == 1
    assert not constants.is_offline_mode()
