"""Trackio's dashboard beside the UI of `make serve`."""

import socket
import time
import urllib.error
import urllib.request
from contextlib import suppress

import pytest

from flows.serve import check_dashboard
from flows.server import free_port, start_process
from npo_core.errors import ConfigError


def test_where_it_is_not_installed_the_remedy_is_named(monkeypatch):
    monkeypatch.setattr("flows.serve.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="--trackio is given.* `pip install trackio`"):
        check_dashboard(free_port())


def test_its_port_in_use_is_named(monkeypatch):
    monkeypatch.setattr("flows.serve.find_spec", lambda name: name)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(ConfigError, match="cannot be used.* `make serve TRACKIO=7861`"):
            check_dashboard(other.getsockname()[1])


def test_it_answers_on_its_port(monkeypatch, tmp_path):
    pytest.importorskip("trackio", reason="trackio is not installed: pip install 'npo-core[tracking]'")
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    port, page = free_port(), b""
    process = start_process("flows.dashboard", [str(port)], "trackio.log")
    try:
        deadline = time.monotonic() + 120
        while b"rackio" not in page:
            assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "trackio.log").read_text()
            with suppress(urllib.error.URLError, OSError):
                page = urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=5).read()
            time.sleep(0.2)
        assert "token" not in (tmp_path / "trackio.log").read_text()
    finally:
        process.kill()
        process.wait()
