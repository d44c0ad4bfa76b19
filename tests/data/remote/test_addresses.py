"""Addresses: which are remote, how names are joined to them, and that nothing secret in them is shown."""

from __future__ import annotations

import pytest

from mvd_ds.cli import main
from mvd_ds.config.base import without_secrets
from mvd_ds.data.remote.addresses import folder_of, is_remote, joined, name_below, name_in, why_no_protocol

SIGNED = "https://b.example/v/a.mp4?X-Amz-Signature=c0ffee&X-Amz-Credential=me"


@pytest.mark.parametrize(
    "path", ["s3://b/a.mp4", "gs://b/a.mp4", "az://c/a", "http://h/a", "https://h:8/a", "hf://datasets/o/n/a"]
)
def test_remote_are_the_protocols_of_the_table(path: str) -> None:
    assert is_remote(path)


@pytest.mark.parametrize("path", ["a.mp4", "/s3://b/a.mp4", "s3:/b", "ftp://h/a.mp4", "file:///a.mp4", "S3://b/a", "concat:a|b"])
def test_others_are_files(path: str) -> None:
    assert not is_remote(path)


@pytest.mark.parametrize(
    ("root", "name", "whole"),
    [
        ("/data", "a.mp4", "/data/a.mp4"),
        ("/data", "/b/a.mp4", "/b/a.mp4"),
        ("/data", "s3://b/a.mp4", "s3://b/a.mp4"),
        ("s3://b/v", "c/a.mp4", "s3://b/v/c/a.mp4"),
        ("s3://b/v/", "c/a.mp4", "s3://b/v/c/a.mp4"),
        ("https://h/v?sig=1", "a.mp4", "https://h/v/a.mp4"),
        ("https://h/v", "/b/a.mp4", "/b/a.mp4"),
        ("s3://b/v", "https://h/a.mp4", "https://h/a.mp4"),
        ("/data", "ftp://h/a.mp4", "/data/ftp://h/a.mp4"),
        ("/data", "a#?%.mp4", "/data/a#?%.mp4"),
        ("s3://b/what?", "a#?%20.mp4", "s3://b/what?/a#?%20.mp4"),
        ("https://h/a%20b", "a#b?%20.mp4", "https://h/a%20b/a%23b%3F%2520.mp4"),
        ("https://h/v", "a%20b.mp4?sig=1%2F2", "https://h/v/a%20b.mp4?sig=1%2F2"),
    ],
)
def test_names_are_joined_to_folders_and_addresses(root: str, name: str, whole: str) -> None:
    assert joined(root, name) == whole
    if is_remote(whole):
        assert joined(root, name_below(root, whole)) == whole


def test_a_name_below_an_address_is_that_of_the_file() -> None:
    assert name_below("https://h/v", "https://h/v/a%23b%3F%2520.mp4") == "a#b?%20.mp4"
    assert name_below("https://h/v", "https://h/v/a%20b.mp4") == "https://h/v/a%20b.mp4"
    assert name_below("s3://b/v", "s3://b/v/a%23b.mp4") == "a%23b.mp4"
    assert name_below("s3://b/v", "s3://c/a.mp4") == "s3://c/a.mp4"


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        (SIGNED, "https://b.example/v/a.mp4?..."),
        ("https://me:pw@h/a.mp4", "https://...@h/a.mp4"),
        ("https://token@h/a.mp4?x=1#y", "https://...@h/a.mp4?..."),
        (f"GET {SIGNED} failed, as http://u:p@h/b did", "GET https://b.example/v/a.mp4?... failed, as http://...@h/b did"),
        ("https://h/it's a b.mp4?sig=c0ffee", "https://h/it's a b.mp4?..."),
        ("HTTPS://h/a.mp4?sig=c0ffee", "HTTPS://h/a.mp4?..."),
        ("https://me:p@w@h/a.mp4", "https://...@h/a.mp4"),
        ("s3://b/a.mp4", "s3://b/a.mp4"),
        ("/data/what?.mp4", "/data/what?.mp4"),
    ],
)
def test_users_passwords_and_queries_are_never_shown(text: str, seen: str) -> None:
    assert without_secrets(text) == seen


def test_an_object_has_a_name_and_a_folder_without_its_query() -> None:
    assert name_in(SIGNED) == "https://b.example/v/a.mp4" and folder_of(SIGNED) == "https://b.example/v"


def test_a_time_in_a_name_is_no_protocol() -> None:
    assert why_no_protocol("/data/12:30.mp4") == ""
    assert "concat: is no protocol" in why_no_protocol("/data/concat:a|b")


@pytest.mark.parametrize(
    "command",
    [["classify", "model", "s3://b/a.mp4"], ["visualize", "model", "s3://b/a.mp4"], ["doctor", "--folder", "s3://b/a.mp4"]],
)
def test_commands_for_files_here_say_so_of_addresses(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command) == 2
    assert capsys.readouterr().err == "mvd_ds: s3://b/a.mp4: files of this machine alone are read here; fetch it first\n"
