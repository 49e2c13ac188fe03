"""The identity of a path differs once another file takes its place, or the file changes."""

import os

from streamrt._core import Mapping
from streamrt.format.identity import FileIdentity


def test_a_path_a_descriptor_and_a_mapping_have_one_identity(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"weights")
    identity = FileIdentity.of(path)
    with path.open("rb") as file, Mapping(path) as mapping:
        assert FileIdentity.of_status(os.fstat(file.fileno())) == FileIdentity(*mapping.identity) == identity
        assert FileIdentity.of_status(os.fstat(file.fileno())) == identity
    status = path.stat()
    assert identity == FileIdentity(status.st_dev, status.st_ino, len(b"weights"), status.st_mtime_ns)


def test_another_file_a_change_and_a_missing_file_are_noticed(tmp_path):
    path, other = tmp_path / "file", tmp_path / "other"
    path.write_bytes(b"weights")
    identity = FileIdentity.of(path)
    assert identity.is_at(path)
    (tmp_path / "link").symlink_to(path)
    assert identity.is_at(tmp_path / "link")

    os.utime(path, ns=(0, identity.modified + 1))
    assert not identity.is_at(path)
    os.utime(path, ns=(0, identity.modified))
    assert identity.is_at(path)

    other.write_bytes(b"WEIGHTS")
    os.utime(other, ns=(0, identity.modified))
    other.replace(path)  # of the same size and time, with another inode
    assert not identity.is_at(path)
    path.unlink()
    assert not identity.is_at(path)
