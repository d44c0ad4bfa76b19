"""Reads of single objects: packages that are missing, and errors of clients in words without secrets."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mvd_ds.data.manifests.manifest import read_manifest
from mvd_ds.data.remote.clients import _filesystem, require_backend
from mvd_ds.data.remote.store import FetchError, Store, judge
from mvd_ds.files import ConfigError
from object_servers import ObjectServer

aiohttp = pytest.importorskip("aiohttp")
exceptions = pytest.importorskip("botocore.exceptions")
yarl, multidict = pytest.importorskip("yarl"), pytest.importorskip("multidict")
CIMultiDict, CIMultiDictProxy = multidict.CIMultiDict, multidict.CIMultiDictProxy


@pytest.mark.parametrize(
    ("address", "module", "extra"),
    [
        ("s3://b/a", "s3fs", "s3"),
        ("gs://b/a", "gcsfs", "gs"),
        ("az://b/a", "adlfs", "az"),
        ("http://h/a", "aiohttp", "http"),
        ("https://h/a", "aiohttp", "http"),
        ("hf://datasets/o/n/a", "huggingface_hub", "hub"),
    ],
)
def test_a_package_that_is_missing_is_named_with_its_extra(
    address: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _filesystem.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    line = rf"needs the package {module}: pip install 'mvd_ds\[{extra}\]'$"
    with pytest.raises(ConfigError, match=line):
        require_backend(address)
    (tmp_path / "train.txt").write_text(f"{address}.mp4\n")
    for manifest in (f"{address}.txt", f"{address}-{{000..003}}.tar", tmp_path / "train.txt"):
        with pytest.raises(ConfigError, match=line) as caught:
            read_manifest(manifest)
        assert "\n" not in str(caught.value)


class _Answer(Exception):
    def __init__(self, **fields: Any) -> None:
        super().__init__("GET https://h/a?sig=c0ffee failed")
        self.__dict__.update(fields)


@pytest.mark.parametrize(
    ("error", "reason", "lasting"),
    [
        (FileNotFoundError("https://h/a?sig=c0ffee"), "no such object", True),
        (PermissionError("Access Denied"), "the server refuses access", True),
        (_Answer(status=403), "the server refuses access", True),
        (_Answer(code=404), "no such object", True),
        (_Answer(response=SimpleNamespace(status_code=416)), "the server answers 416", True),
        (_Answer(response={"ResponseMetadata": {"HTTPStatusCode": 503}}), "the server answers 503", False),
        (_Answer(status=429), "the server answers 429", False),
        (TimeoutError(), "no answer in time", False),
        (aiohttp.ClientPayloadError("http://h/a?sig=c0ffee"), "the connection ended before all bytes came", False),
        (_Answer(), "_Answer: GET https://h/a?... failed", False),
        (ConnectionRefusedError("refused"), "ConnectionRefusedError: refused", False),
    ],
)
def test_errors_are_told_in_words_and_known_to_last_or_not(error: Exception, reason: str, lasting: bool) -> None:
    told, lasts = judge(error)
    assert told.startswith(reason) and lasts is lasting and "c0ffee" not in told


def test_no_text_of_a_client_gives_a_secret_away() -> None:
    """Signed addresses, headers and bodies of answers in the errors of botocore and aiohttp."""
    secret = "c0ffee"
    signed = f"https://b.example/v/a.mp4?X-Amz-Signature={secret}&X-Amz-Credential=me"
    asked = aiohttp.RequestInfo(
        yarl.URL(signed), "GET", CIMultiDictProxy(CIMultiDict({"Authorization": f"Bearer {secret}"})), yarl.URL(signed)
    )
    answer = {"Error": {"Code": "InvalidObjectState", "Message": f"key {secret}"}, "ResponseMetadata": {}}
    errors = [
        exceptions.EndpointConnectionError(endpoint_url=signed),
        exceptions.HTTPClientError(error=f"x {signed}"),
        exceptions.ProxyConnectionError(proxy_url=f"http://u:{secret}@proxy:1"),
        exceptions.SSLError(endpoint_url=signed, error=signed),
        exceptions.ClientError(answer, "GetObject"),
        aiohttp.InvalidURL(signed),
        aiohttp.ClientResponseError(asked, (), status=0, message=signed),
        aiohttp.TooManyRedirects(asked, ()),
        OSError(5, "no", signed),
        ValueError(repr(asked)),
        RuntimeError(f"<Error><AWSAccessKeyId>{secret}</AWSAccessKeyId></Error>"),
        RuntimeError(f"Authorization: AWS4-HMAC-SHA256 Credential={secret}/2026, Signature={secret}"),
        RuntimeError(f"GET /v/a.mp4?sig={secret}"),
        RuntimeError(signed.upper()),
    ]
    for error in errors:
        told, _ = judge(error)
        assert secret not in told.lower() and "\n" not in told and type(error).__name__ in told, told
    assert judge(exceptions.ClientError(answer, "GetObject"))[0] == "ClientError: InvalidObjectState"


def test_an_object_has_a_size_and_a_mark_that_its_content_changes(server: ObjectServer) -> None:
    state = Store().state(f"{server.address}/00.mp4")
    assert state.size > 500 and state.tag and state != Store().state(f"{server.address}/01.mp4")
    with pytest.raises(FetchError, match="no such object"):
        Store().state(f"{server.address}/none.mp4")


def test_long_objects_come_in_pieces_of_their_bytes(server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mvd_ds.data.remote.store.PIECE_BYTES", 100)
    whole = Store().content(f"{server.address}/00.mp4")
    pieces = list(Store().pieces(f"{server.address}/00.mp4", 50, 320))
    assert [len(piece) for piece in pieces] == [100, 100, 70] and b"".join(pieces) == whole[50:320]
