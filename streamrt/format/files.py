"""System calls of the reader and the writer: errors, the page cache, replacing a file in one step; a progress bar."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import BinaryIO, Self

from streamrt.errors import WeightsIOError

Buffer = bytes | memoryview
#: The most bytes that are written and not on the disk yet. The page cache holds them, and it counts against the memory
#: limit of a container.
SETTLE_EVERY = 256 << 20


@contextlib.contextmanager
def os_errors(path: str) -> Iterator[None]:
    """Turn an OSError of a system call into a `WeightsIOError` for ``path`` with the same errno."""
    try:
        yield
    except WeightsIOError:
        raise
    except OSError as error:
        raise WeightsIOError(error.errno, error.strerror, path) from error


@contextlib.contextmanager
def open_regular(path: str) -> Iterator[int]:
    """A descriptor of the regular file at ``path``, for reading at random offsets.

    Raises:
        WeightsIOError: it cannot be opened, or is not a regular file.
    """
    with os_errors(path):
        # Without O_NONBLOCK, opening a FIFO would wait for a writer.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(fd).st_mode
        if stat.S_ISDIR(mode):
            raise WeightsIOError(errno.EISDIR, "a directory, expected a file", path)
        if not stat.S_ISREG(mode):
            raise WeightsIOError(errno.EINVAL, "not a regular file", path)
        with contextlib.suppress(OSError):  # advice only
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        yield fd
    finally:
        os.close(fd)


def read_exactly(fd: int, path: str, buffer: memoryview, offset: int) -> None:
    """Fill ``buffer`` with the bytes from ``offset`` on; `WeightsIOError` if the file has too few."""
    done = 0
    with os_errors(path):
        while done < len(buffer):
            got = os.preadv(fd, [buffer[done:]], offset + done)
            if got == 0:
                raise WeightsIOError(errno.EIO, f"the file ends at {offset + done}: it was cut while being read", path)
            done += got


def expect_sequential(fd: int) -> None:
    """Tell the kernel that the file will be read in order, so that it reads ahead."""
    with contextlib.suppress(OSError):
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)


def drop_cache(fd: int, offset: int, length: int) -> None:
    """Remove a clean range from the page cache; length 0 means up to the end. A failure is ignored."""
    with contextlib.suppress(OSError):
        os.posix_fadvise(fd, offset, length, os.POSIX_FADV_DONTNEED)


def _take_access(fd: int, other: os.stat_result) -> None:
    """Give a new file the group and the permissions of another one. The group stays if this process may not change it.

    Raises:
        OSError: the permissions cannot be changed.
    """
    now = os.fstat(fd)
    if now.st_gid != other.st_gid:
        with contextlib.suppress(OSError):
            os.fchown(fd, -1, other.st_gid)
    if (mode := stat.S_IMODE(other.st_mode) & 0o777) != stat.S_IMODE(now.st_mode):
        os.fchmod(fd, mode)


class Replacement:
    """A file written beside ``dest``. It takes the name ``dest`` when it is complete, and is removed otherwise.

    If the filesystem allows it, the file has no name until then, so that a process that is killed leaves nothing
    behind. On other filesystems its name begins with a dot. All names are looked up in the folder that was opened when
    the object was entered. The file has the group and the permissions of the file that it replaces; without one, its
    permissions are 0666 less the umask. `commit` makes the content durable before the name.
    """

    def __init__(self, dest: str) -> None:
        self.path = dest
        self._folder, self._name = os.path.split(dest)
        self._temporary = f".streamrt-{os.urandom(8).hex()}.tmp"
        self._folder_fd = self._fd = -1
        self._named = False

    def __enter__(self) -> Self:
        try:
            with os_errors(self.path):
                self._folder_fd = os.open(self._folder or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                replaced = self._check_dest()
                self._fd = self._open_nameless()
                if self._fd < 0:
                    self._named = True
                    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                    self._fd = os.open(self._temporary, flags, 0o666, dir_fd=self._folder_fd)
                if replaced is not None:
                    _take_access(self._fd, replaced)
        except BaseException:
            self._discard()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._discard()

    def check_space(self, size: int) -> None:
        """Raise `WeightsIOError` if the filesystem says that ``size`` bytes do not fit."""
        with os_errors(self.path):
            space = os.fstatvfs(self._folder_fd)
        # Some filesystems report 0 blocks: they cannot tell.
        if space.f_blocks and space.f_bavail * space.f_frsize < size:
            free = space.f_bavail * space.f_frsize
            raise WeightsIOError(
                errno.ENOSPC,
                f"{size} bytes do not fit in the {free} that are free: free some space, or choose another folder",
                self.path,
            )

    def write(self, data: Buffer, offset: int) -> None:
        """Write all of ``data``, bytes in memory, at ``offset``."""
        view = memoryview(data)
        with os_errors(self.path):
            while view:
                written = os.pwrite(self._fd, view, offset)
                view, offset = view[written:], offset + written

    def stream(self) -> BinaryIO:
        """The file as a stream, from its beginning. Close it before `commit`."""
        return open(self._fd, "wb", closefd=False)

    def settle(self) -> None:
        """Write all data to the disk, and remove it from the page cache."""
        with os_errors(self.path):
            os.fdatasync(self._fd)
        drop_cache(self._fd, 0, 0)

    def commit(self) -> None:
        """Make the file durable and give it the name ``dest``, in one step for every reader."""
        with os_errors(self.path):
            os.fsync(self._fd)
            drop_cache(self._fd, 0, 0)
            if not self._named:  # a link cannot replace a file, a rename can
                self._give_name(self._fd)
            os.replace(self._temporary, self._name, src_dir_fd=self._folder_fd, dst_dir_fd=self._folder_fd)
        self._named = False
        # The file is complete and in place. Some filesystems cannot sync a folder; there is nothing to undo then.
        with contextlib.suppress(OSError):
            os.fsync(self._folder_fd)

    def _open_nameless(self) -> int:
        """A descriptor of a new file without a name; -1 if the filesystem has none that can be named later."""
        flags = os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC
        try:
            tried = os.open(".", flags, 0o666, dir_fd=self._folder_fd)
            try:
                self._give_name(tried)
                os.unlink(self._temporary, dir_fd=self._folder_fd)
            finally:
                os.close(tried)
            self._named = False
            # A second file, because the first was only linked as a test: a file whose name is removed gets no other.
            return os.open(".", flags, 0o666, dir_fd=self._folder_fd)
        except OSError:  # opening a file with a name will raise any other error
            return -1

    def _give_name(self, fd: int) -> None:
        self._named = True
        os.link(f"/proc/self/fd/{fd}", self._temporary, dst_dir_fd=self._folder_fd, follow_symlinks=True)

    def _check_dest(self) -> os.stat_result | None:
        """The status of the file that has the name, None if there is none."""
        # A device or a FIFO is never meant to be replaced by a file.
        if not self._name:
            raise WeightsIOError(errno.EISDIR, "a folder, expected the name of a file", self.path)
        try:
            status = os.stat(self._name, dir_fd=self._folder_fd)
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(status.st_mode):
            raise WeightsIOError(errno.EEXIST, "exists and is not a regular file", self.path)
        return status

    def _discard(self) -> None:
        if self._named:
            with contextlib.suppress(OSError):
                os.unlink(self._temporary, dir_fd=self._folder_fd)
            self._named = False
        for fd in (self._fd, self._folder_fd):
            if fd >= 0:
                os.close(fd)
        self._fd = self._folder_fd = -1


class Appender:
    """Writes data to a file, each piece behind the last, from ``offset`` on. The page cache stays small."""

    def __init__(self, file: Replacement, offset: int) -> None:
        self._file = file
        self._offset = offset
        self._unsettled = 0

    def write(self, data: Buffer) -> None:
        """Write all of ``data``."""
        self._file.write(data, self._offset)
        self._offset += len(data)
        self._unsettled += len(data)
        if self._unsettled >= SETTLE_EVERY:
            self._file.settle()
            self._unsettled = 0


@contextlib.contextmanager
def progress_bar(total: int, what: str, shown: bool) -> Iterator[Callable[[int], object]]:
    """A function to call with each number of bytes that are done. It draws a bar on stderr if ``shown``."""
    if not shown:
        yield lambda count: None
        return
    from tqdm import tqdm  # imported here, as most uses show no bar

    with tqdm(total=total, desc=what, unit="B", unit_scale=True, unit_divisor=1024) as bar:
        yield bar.update
