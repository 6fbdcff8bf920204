"""A hub id is asked for once: what a hub says, or that it says nothing, is a sentence and not five tries a file."""

import http.server
import os
import sys
import threading
import urllib.request
from types import SimpleNamespace

import pytest

from npo_core.errors import ConfigError, HubError
from npo_core.hub import require_reachable

NAME = "some/model"


class Hub(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.server.asked.append((self.path, self.headers.get("authorization")))
        code, error = self.server.says
        self.send_response(code)
        if error:
            self.send_header("X-Error-Code", error)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub that answers `says`: a status and the hub's own word for it."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN", "HF_HUB_CACHE", "HF_DATASETS_CACHE"):
        monkeypatch.delenv(name, raising=False)
    server = http.server.HTTPServer(("127.0.0.1", 0), Hub)
    server.asked, server.says = [], (200, None)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "*")
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def no_hub(hub, monkeypatch):
    """An address at which nobody listens."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")


def download(tmp_path, kind: str) -> None:
    folder = tmp_path / "hub" / f"{kind}s--some--model" / "snapshots" / "abc"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")


def test_what_is_there_is_asked_for_once(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    require_reachable("model", NAME)
    require_reachable("dataset", NAME)
    assert hub.asked == [
        (f"/{NAME}/resolve/main/config.json", "Bearer secret"),
        (f"/datasets/{NAME}/resolve/main/README.md", "Bearer secret"),
    ]


@pytest.mark.parametrize(
    ("says", "error", "said"),
    [
        ((401, "GatedRepo"), ConfigError, "gated: accept its terms at .*/some/model, and set HF_TOKEN"),
        ((403, None), ConfigError, "gated"),
        ((401, "RepoNotFound"), ConfigError, "check the name; for a private one set HF_TOKEN"),
        ((404, "RepoNotFound"), ConfigError, "There is no folder some/model.*none at http"),
        ((503, None), HubError, "refuses .*503.*again later, or copy the model's files here"),
    ],
)
def test_what_a_hub_says_is_a_sentence(hub, says, error, said):
    hub.says = says
    with pytest.raises(error, match=said):
        require_reachable("model", NAME)
    assert len(hub.asked) == 1


def test_a_data_set_without_a_readme_is_there(hub):
    hub.says = (404, "EntryNotFound")
    require_reachable("dataset", NAME)


@pytest.mark.parametrize(("kind", "remedy"), [("model", "name their folder"), ("dataset", "save_to_disk it")])
def test_without_a_network_it_is_one_try(no_hub, monkeypatch, kind, remedy):
    tries, urlopen = [], urllib.request.urlopen
    monkeypatch.setattr(urllib.request, "urlopen", lambda *a, **k: tries.append(a) or urlopen(*a, **k))
    with pytest.raises(HubError, match=f"does not answer .*refused.*with a network, or .*{remedy}") as caught:
        require_reachable(kind, NAME)
    assert len(tries) == 1 and caught.value.exit_code == 69


def test_what_was_downloaded_needs_no_network_and_libraries_are_told(no_hub, monkeypatch, tmp_path, capsys):
    download(tmp_path, "model")
    constants = SimpleNamespace(HF_HUB_OFFLINE=False)
    monkeypatch.setitem(sys.modules, "huggingface_hub.constants", constants)
    monkeypatch.setenv("HF_HUB_OFFLINE", "")
    require_reachable("model", NAME)
    assert os.environ["HF_HUB_OFFLINE"] == "1" and constants.HF_HUB_OFFLINE is True
    assert "does not answer: what was downloaded from it is used" in capsys.readouterr().err


def test_who_forbids_to_ask_is_told_so(hub, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match="HF_HUB_OFFLINE is set: unset it, or copy the model's files here"):
        require_reachable("model", NAME)
    download(tmp_path, "model")
    require_reachable("model", NAME)
    assert hub.asked == []
