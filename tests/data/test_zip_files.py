"""Zip files: what is read equals what was written, and hostile ones raise one line."""

import io
import warnings
import zipfile

import pytest

from smp.data.squad_file import most_unpacked
from smp.data.zip_files import open_zip, read_from_zip


def zip_of(files, path, method=zipfile.ZIP_DEFLATED):
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", method) as archive:
        warnings.simplefilter("ignore")  # a name that occurs twice
        for name, content in files:
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("packed, most", [
    (0, 64 * 2**20), (671_088, 64 * 2**20), (671_089, 67_108_900), (10**7, 10**9),
    (42_949_672, 4_294_967_200), (42_949_673, 4 * 2**30), (10**12, 4 * 2**30),
])
def test_a_file_unpacks_to_100_times_its_size_64_mib_to_4_gib(packed, most):
    assert most_unpacked(packed) == most


def test_the_content_of_a_zip_is_what_was_written(tmp_path):
    files = [("a", b"one"), ("folder/b..c", bytes(1000)), ("d/e", b"")]
    path = zip_of(files, tmp_path / "a.zip")
    for source in (path, str(path), io.BytesIO(path.read_bytes())):
        with open_zip(source) as archive:
            assert [(name, read_from_zip(archive, name, 1000)) for name, _ in files] == files


@pytest.mark.parametrize("name", [
    "/a", "\\a", "../a", "a/../../b", "..\\a", "a\\..\\..\\b", "C:/a", "C:\\a"])
def test_a_name_that_leads_out_of_the_zip_raises(name, tmp_path):
    path = zip_of([("good", b""), (name, b"")], tmp_path / "a.zip")
    with pytest.raises(ValueError) as error, open_zip(path):
        pass
    assert str(error.value) == f"the zip contains {name!r}, a path that leads out of it"


def test_a_name_that_occurs_twice_raises(tmp_path):
    path = zip_of([("a", b"1"), ("b", b"2"), ("b", b"3")], tmp_path / "a.zip")
    with pytest.raises(ValueError, match="^the zip contains 'b' twice, expected each file once$"):
        with open_zip(path):
            pass


def test_missing_and_corrupted_zips_raise(tmp_path):
    with pytest.raises(FileNotFoundError), open_zip(tmp_path / "none.zip"):
        pass
    (tmp_path / "text.zip").write_text("no zip")
    with pytest.raises(ValueError, match="cannot be read as a zip .*not a zip.*: expected a compl"):
        with open_zip(tmp_path / "text.zip"):
            pass
    path = zip_of([("a", bytes(range(256)) * 9)], tmp_path / "a.zip", zipfile.ZIP_STORED)
    path.write_bytes(path.read_bytes().replace(bytes(range(100)), bytes(100), 1))
    with pytest.raises(ValueError, match="cannot be read as a zip .*Bad CRC-32"):
        with open_zip(path) as archive:
            read_from_zip(archive, "a", 10**6)


def test_a_file_above_its_limit_raises(tmp_path, monkeypatch):
    path = zip_of([("a", bytes(1000))], tmp_path / "a.zip")
    with open_zip(path) as archive:
        assert read_from_zip(archive, "a", 1000) == bytes(1000)
        with pytest.raises(ValueError, match="^a unpacks to 1,000 bytes, expected at most 999$"):
            read_from_zip(archive, "a", 999)
        monkeypatch.setattr("smp.data.squad_file.ALWAYS_UNPACKED", 10)
        packed = archive.getinfo("a").compress_size
        with pytest.raises(ValueError, match=f"expected at most {100 * packed:,}$") as error:
            monkeypatch.setattr(archive.getinfo("a"), "file_size", 100 * packed + 1)
            read_from_zip(archive, "a", 10**6)
        assert "\n" not in str(error.value)
