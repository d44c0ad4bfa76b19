"""The ground floor: files that are whole or not there, text that comes from outside, errors of one line.

Whatever comes from outside (paths, class names, messages of libraries) leaves through here: ``printable`` and ``one_line`` for
people, ``json_text``, ``encoded`` and ``evaluation.csv_files`` for files. None of them can fail on a name, and what the last
three wrote comes back as it was.

Every room may import this file, and it imports nothing but the standard library.
"""

from __future__ import annotations

import codecs
import difflib
import errno
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_CREDENTIAL_NAME = re.compile(
    r"TOKEN(?!I)|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|API_?KEY|(?:^|_)(?:KEY|PAT|AUTH|COOKIE)(?:_|$)", re.IGNORECASE
)
#: A URL with a password, or a token of Hugging Face, GitHub, GitLab, AWS, OpenAI, Slack or Google, by its prefix.
_CREDENTIAL_VALUE = re.compile(
    r"://[^/@\s]*:[^/@\s]+@|(?:^|[\s=,;\"'])(?:hf_|gh[pousr]_|github_pat_|glpat-|AKIA|sk-|xox[abprs]-|AIza)[A-Za-z0-9_-]{12,}"
)

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
"""Error numbers that blame the disk, not the file that was being read or written."""


_SURROGATE = re.compile("[\ud800-\udfff]")


class ConfigError(ValueError):
    """A setting, recipe or file that the user gave is wrong; the message is all that the user sees: one clear line a fault."""


def one_line(text: object, limit: int | None = None) -> str:
    """Return ``text`` printable and on one line, cut to ``limit`` characters if a limit is given.

    Control characters, which could move the cursor of a terminal, and bytes that are no text are shown as escapes.
    """
    line = printable(" ".join(str(text).split()))
    return line if limit is None or len(line) <= limit else line[: limit - 3] + "..."


def printable(text: object) -> str:
    """Return ``text`` for people: a terminal, a page, a figure, TensorBoard. It keeps line breaks and tabs.

    Control characters and bytes of file names that are not UTF-8 are shown as escapes, so that any encoder takes the result.
    """
    return "".join(letter if letter.isprintable() or letter in _HARMLESS else _escaped(letter) for letter in str(text))


_HARMLESS = "\n\t\u00a0\u202f\u200c\u200d"
"""Line breaks, hard spaces, and the joiners of Persian, Indic scripts and emoji, none of which counts as printable."""


def _escaped(letter: str) -> str:
    is_byte = "\udc80" <= letter <= "\udcff"  # how Python holds a byte of a name that is not UTF-8
    return f"\\x{ord(letter) - 0xDC00:02x}" if is_byte else ascii(letter)[1:-1]


def encoded(text: str) -> bytes:
    """Return ``text`` as UTF-8, the bytes of file names as they were; it cannot fail. ``decoded`` gives the text back."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half of a pair, as JSON may hold one
        return printable(text).encode()


def decoded(content: bytes) -> str:
    """Return the text of UTF-8 ``content``; bytes that are not UTF-8 are kept as Python keeps them in file names."""
    return content.decode("utf-8", "surrogateescape")


def counted(count: int, thing: str) -> str:
    """Return ``1 video`` or ``2,000 videos``."""
    return f"{count:,} {thing}{'s' * (count != 1)}"


def did_you_mean(name: object, known: Iterable[str], otherwise: str = "") -> str:
    """Return ``did you mean 'NAME'?`` with the known name nearest to ``name``, or ``otherwise`` if none is near."""
    near = difflib.get_close_matches(str(name), list(known), n=1)
    return f"did you mean '{near[0]}'?" if near else otherwise


def looks_like_credential(name: str, value: str = "") -> bool:
    """Return whether an environment variable looks like a secret by its name (``HF_TOKEN``) or its value."""
    return bool(_CREDENTIAL_NAME.search(name) or _CREDENTIAL_VALUE.search(value))


_LFS = b"version https://git-lfs.github.com/spec/"
_MAGIC = (
    (b"\xff\xfe\x00\x00", "text in UTF-32"),
    (b"\x00\x00\xfe\xff", "text in UTF-32"),
    (b"\xff\xfe", "text in UTF-16"),
    (b"\xfe\xff", "text in UTF-16"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ\x00", "an xz archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!", "a rar archive"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"\x89PNG\r\n", "a PNG picture"),
    (b"GIF8", "a GIF picture"),
    (b"\x1aE\xdf\xa3", "a Matroska or WebM video"),
    (b"FLV\x01", "an FLV video"),
    (b"OggS", "an Ogg video"),
    (b"0&\xb2u\x8ef\xcf\x11", "a Windows Media video"),
    (b"\x00\x00\x01\xba", "an MPEG video"),
    (b"\x00\x00\x01\xb3", "an MPEG video"),
    (b"%PDF-", "a PDF document"),
    (b"\x89HDF\r\n", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x7fELF", "a program"),
    (b"SQLite format 3\x00", "an SQLite database"),
)


def describe_foreign(head: bytes) -> str:
    """Return a few words that say what a file seems to be, by its first bytes; empty for plain text.

    Args:
        head: the first bytes of the file, 512 or more of them if it has as many.
    """
    if head.startswith(_LFS):
        return "a git-LFS pointer, not the file itself: fetch it with `git lfs pull`"
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:512].lower()
    if start.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")) or (start.startswith(b"<") and b"<html" in start):
        return "a web page or XML document"
    if _is_plain_text(head):
        return ""
    for magic, words in _MAGIC:
        if head.startswith(magic):
            return words
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return "an MP4 or MOV video"
    if head[:4] == b"RIFF":
        return {b"AVI ": "an AVI video", b"WEBP": "a WebP picture"}.get(head[8:12], "a RIFF file")
    if head[257:262] == b"ustar":
        return "a tar archive"
    if len(head) > 188 and head[0] == head[188] == 0x47:
        return "an MPEG transport stream"
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "a Python pickle"
    if 0 not in head:
        return ""  # text of another encoding, such as cp1252
    return "text in UTF-16" if _is_utf16(head) else "binary data"


def _is_plain_text(head: bytes) -> bool:
    """Return whether ``head`` is UTF-8, but for a character that its end may cut, and holds no zeros and few control bytes."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return sum(byte < 32 and byte not in b"\t\n\v\f\r" for byte in head) * 20 <= len(head) and 0 not in head


def _is_utf16(head: bytes) -> bool:
    """Return whether there are many zeros, almost all at even or almost all at odd places: text without a byte order mark."""
    even, odd = head[::2].count(0), head[1::2].count(0)
    return max(even, odd) * 4 >= len(head) and min(even, odd) * 10 <= max(even, odd)


@contextmanager
def written_aside(path: Path, sync: bool = True) -> Iterator[Path]:
    """Yield a path beside ``path`` to write to; it takes the name ``path`` when the block ends and is removed when it fails.

    Whoever reads ``path`` sees the old file or the whole new one. The file gets the mode that the umask says, whatever a
    library that writes it would choose.

    Args:
        path: the file to write; its folder exists.
        sync: wait until the content is on disk before it gets its name.

    Raises:
        OSError: if the folder is gone or the disk refuses.
    """
    aside = path.with_name(f".{path.name[:100]}.{os.getpid()}.partial")
    try:
        aside.open("wb").close()
        mode = aside.stat().st_mode & 0o777
        yield aside
        aside.chmod(mode)
        if sync:
            sync_file(aside)
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def sync_file(path: Path) -> None:
    """Wait until the content of ``path`` is on disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def write_bytes(path: Path, content: bytes, sync: bool = True) -> None:
    """Write ``content`` to ``path`` as ``written_aside`` does.

    Raises:
        OSError: if the folder is not there or the disk refuses.
    """
    with written_aside(path, sync) as aside:
        aside.write_bytes(content)


def write_text(path: Path, text: str, sync: bool = True) -> None:
    """Write ``text`` to ``path`` in UTF-8 as ``written_aside`` does; bytes of file names that are not UTF-8 stay as they are.

    Raises:
        OSError: if the folder is not there or the disk refuses.
    """
    write_bytes(path, encoded(text), sync)


def json_text(values: Any) -> str:
    """Return ``values`` as indented JSON that ends with a line break."""
    return json_line(values, indent=2) + "\n"


def json_line(values: Any, indent: int | None = None) -> str:
    """Return ``values`` as JSON that people can read and every encoder takes: only what is not Unicode is escaped."""
    return _SURROGATE.sub(lambda found: ascii(found[0])[1:-1], json.dumps(values, indent=indent, ensure_ascii=False))


def write_json(path: Path, values: Any, sync: bool = True) -> None:
    """Write ``values`` to ``path`` as ``json_text``, whole or not at all.

    Raises:
        OSError: if the folder is not there or the disk refuses.
    """
    write_text(path, json_text(values), sync)


def read_json(path: Path) -> Any:
    """Return the values of the JSON file ``path``.

    Raises:
        ConfigError: in one line, if the file cannot be read or is not JSON.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{one_line(path)}: cannot be read: {error.strerror or error}") from None
    try:
        return json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        seems = describe_foreign(content[:4096])
        raise ConfigError(
            f"{one_line(path)}: is {seems}" if seems else f"{one_line(path)}: is not JSON: {one_line(error, 100)}"
        ) from None


@contextmanager
def folder_written_aside(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``folder`` to fill; it takes the place of ``folder`` when the block ends.

    If the block fails, what was at ``folder`` stays. Its files get the mode that the umask says. A link at ``folder`` stays
    one: the folder that it leads to is replaced.

    Raises:
        OSError: if the disk refuses.
    """
    folder = folder.resolve() if folder.is_symlink() else folder
    aside, replaced = (folder.with_name(f".{folder.name}.{word}") for word in ("partial", "replaced"))
    try:
        for leftover in (aside, replaced):
            shutil.rmtree(leftover, ignore_errors=True)
        aside.mkdir(parents=True)
        mode = aside.stat().st_mode & 0o666
        yield aside
        for path in aside.rglob("*"):
            if path.is_file():
                path.chmod(mode)
                sync_file(path)
        if folder.exists():
            folder.rename(replaced)
        aside.rename(folder)
    except BaseException:
        if replaced.exists() and not folder.exists():
            replaced.rename(folder)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)
