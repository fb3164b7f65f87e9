"""Published folders by hf:// address, from a server of these tests."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from toys import quiet_progress, refusal

from components.backbones.hf_files import fetch_folder, locate
from components.backbones.inspect import licence_of
from components.backbones.prepare import prepare_backbone
from components.backbones.spec import parse_backbone
from components.report.model_card import describe_backbone
from components.storage import downloads
from pipeline.cli import main

FOLDER = Path(__file__).with_name("vit") / "dinov2"
ADDRESS = "hf://somebody/tiny-dinov2"
CARD = b"---\nlicense: cc-by-nc-4.0  # not for commercial use\ntags: [x]\n---\nlicense: none of these\n"


class Hub(ThreadingHTTPServer):
    """A hub with one model; requests keeps (path, Authorization, Range), cuts counts files that it breaks off."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.commit, self.token, self.requests, self.cuts = "1" * 40, None, [], 0
        self.files = {file.name: file.read_bytes() for file in FOLDER.iterdir()} | {"README.md": CARD}
        self.files |= {"pytorch_model.bin": b"a pickle", "../outside.safetensors": b"x"}

    def listing(self):
        siblings = []
        for name, content in self.files.items():
            is_large = name.endswith(".safetensors")
            lfs = {"lfs": {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}} if is_large else {}
            siblings.append({"rfilename": name, "size": len(content), **lfs})
        return json.dumps({"sha": self.commit, "siblings": siblings}).encode()


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        """Keep quiet."""

    def do_GET(self):  # noqa: N802
        hub, asked = self.server, self.headers["Range"]
        hub.requests.append((self.path, self.headers["Authorization"], asked))
        if hub.token and self.headers["Authorization"] != f"Bearer {hub.token}":
            return self.send_error(401)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        prefix = f"/somebody/tiny-dinov2/resolve/{hub.commit}/"
        if self.path == "/api/models/somebody/tiny-dinov2/revision/main?blobs=true":
            content = hub.listing()
        elif self.path.startswith(prefix) and self.path.removeprefix(prefix) in hub.files:
            content = hub.files[self.path.removeprefix(prefix)]
        else:
            return self.send_error(404)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("ETag", '"one"')
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        is_cut = hub.cuts > 0 and self.path.endswith("model.safetensors")
        hub.cuts -= is_cut
        self.wfile.write(content[start : len(content) // 2 if is_cut else None])
        return None


@pytest.fixture
def hub(tmp_path, monkeypatch):
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setenv("TOPGRAFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(downloads, "FIRST_DELAY", 0.01)
    yield server
    server.shutdown()
    server.server_close()


def fetch_here(address=ADDRESS):
    return fetch_folder(address, quiet_progress())


def test_an_address_gives_the_backbone_of_the_folder_and_its_name_pins_the_revision(hub, tmp_path):
    local = prepare_backbone(parse_backbone(str(FOLDER)), tmp_path / "made", quiet_progress())
    fetched = prepare_backbone(parse_backbone(ADDRESS), tmp_path / "made", quiet_progress())
    assert fetched.id == local.id
    assert fetched.name == f"{ADDRESS}@{hub.commit}"
    asked = [path.rpartition("/")[2] for path, *_ in hub.requests]
    assert sorted(asked) == sorted(
        ["main?blobs=true", "config.json", "preprocessor_config.json", "README.md", "model.safetensors"]
    )


def test_the_revision_and_files_of_the_first_use_hold_from_then_on(hub):
    folder, place = fetch_here()
    hub.requests.clear()
    hub.commit, hub.files["config.json"] = "2" * 40, b"{}"
    assert fetch_here() == (folder, place)
    assert not hub.requests
    (folder / "config.json").write_bytes(b"{}")
    assert "SHA-256" in (message := refusal(fetch_here)) or "bytes, expected" in message


def test_a_broken_download_resumes(hub):
    hub.cuts = 2
    folder, _ = fetch_here()
    assert (folder / "model.safetensors").read_bytes() == hub.files["model.safetensors"]
    ranges = [asked for path, _, asked in hub.requests if path.endswith("model.safetensors")]
    assert ranges[0] is None
    assert any(ranges[1:])


def test_a_file_with_another_checksum_than_the_listed_one_is_refused(hub):
    listed = hub.listing()
    hub.listing = lambda: listed
    content = hub.files["model.safetensors"]
    hub.files["model.safetensors"] = content[:-1] + bytes([content[-1] ^ 1])
    assert "has SHA-256" in refusal(fetch_here)


def test_the_token_goes_to_the_hub_and_into_no_file(hub, tmp_path, monkeypatch):
    hub.token = "hf_secret_of_this_test"
    assert "status 401 (Unauthorized) instead of the file: check the address, HF_TOKEN, or" in refusal(fetch_here)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    prepare_backbone(parse_backbone(ADDRESS), tmp_path / "made", quiet_progress())
    assert {token for _, token, _ in hub.requests} == {None, f"Bearer {hub.token}"}
    written = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert not any(hub.token.encode() in file.read_bytes() for file in written)


def test_a_gated_or_absent_model_and_a_bad_listing_are_one_sentence(hub, monkeypatch):
    assert "answered with status 404" in refusal(fetch_here, "hf://somebody/else")
    assert "expected hf://owner/name" in refusal(fetch_here, "hf://somebody/../../else")
    assert "expected hf://owner/name" in refusal(locate, "hf://just-a-name")
    hub.listing = lambda: b'{"sha": "main", "siblings": []}'
    assert "does not list the files" in refusal(fetch_here)


def test_the_command_fetches_it_and_the_card_has_the_licence_of_its_readme(hub, capsys):
    assert main(["backbones", "fetch", ADDRESS]) == 0
    assert hub.commit in capsys.readouterr().out
    (spec,) = parse_backbone(ADDRESS)
    assert licence_of(spec) == "cc-by-nc-4.0"
    assert describe_backbone(spec) == {"name": ADDRESS, "source": ADDRESS, "licence": "cc-by-nc-4.0"}
    (none,) = parse_backbone(str(FOLDER))
    assert licence_of(none) is None
