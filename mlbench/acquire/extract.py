"""Archives unpacked into a folder of their own: nothing outside it, no links, no bombs; goes on where it stopped."""

from __future__ import annotations

import filecmp
import os
import shutil
from pathlib import Path
from typing import IO

from mlbench.acquire.archives import CHUNK, Limits, opened, require_size
from mlbench.errors import DataError, MlbenchError
from mlbench.inputs.cache import Advance


def extract(archive: Path, folder: Path, limits: Limits | None = None, advance: Advance | None = None) -> int:
    """Unpack a zip, tar or tar.gz into `folder`, where what an interrupted attempt has written is kept.

    Parameters
    ----------
    archive : the file; its suffix tells the kind.
    folder : made if it is not there. It must not be one that people put files in: see `merge`.
    limits : see `Limits`. The free space of the disk is a limit too.
    advance : told (bytes done, bytes in all).

    Returns
    -------
    Number of files.

    Raises
    ------
    As `mlbench.acquire.archives.opened`; DataError for a name that is both a file and a folder. MlbenchError if the
    disk has not the room.
    """
    count = 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with opened(archive, limits) as members:
            if isinstance(members, list):
                _require_room(folder, sum(m.size for m in members if not (folder / m.path).exists()))
            for member in members:
                place = folder / member.path
                if advance is not None:
                    advance(*member.progress)
                if member.is_folder:
                    place.mkdir(parents=True, exist_ok=True)
                    continue
                if not place.exists():
                    _require_room(folder, member.size)
                place.parent.mkdir(parents=True, exist_ok=True)
                with member.open() as packed:
                    require_size(member, _write(packed, place))
                count += 1
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise DataError(f"{archive}: a name is both a file and a folder ({error.filename})") from None
    except OSError as error:
        raise MlbenchError(f"{folder}: cannot unpack {archive.name} ({error.strerror or error})") from None
    return count


def _require_room(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if size > free:
        raise MlbenchError(f"{folder}: {size} bytes to unpack, but only {free} free")


def _write(packed: IO[bytes], place: Path) -> int:
    """Make the file `place` hold what `packed` does, and return how many bytes that is.

    A file that is there is compared byte by byte, and written only from where it differs: it may be of an earlier
    archive, of the same size or not.
    """
    done = 0
    with place.open("r+b" if place.exists() else "w+b") as file:
        while chunk := packed.read(CHUNK):
            if file.read(len(chunk)) != chunk:
                file.seek(done)
                file.truncate()
                file.write(chunk)
                shutil.copyfileobj(packed, file, CHUNK)
                return file.tell()
            done += len(chunk)
        if file.read(1):
            file.truncate(done)
    return done


def merge(unpacked: Path, root: Path) -> None:
    """Move all files under `unpacked` to the same place under `root`, where archives may share folders.

    A file already there is kept if it is the same, and a DataError if it is another: nothing is overwritten.
    Interrupted, it can be called again. `unpacked` is removed at the end.
    """
    for base, folders, files in os.walk(unpacked):
        target = root / Path(base).relative_to(unpacked)
        for name in list(folders):
            if not os.path.lexists(target / name):
                target.mkdir(parents=True, exist_ok=True)
                os.rename(Path(base) / name, target / name)
                folders.remove(name)
        target.mkdir(parents=True, exist_ok=True)
        for name in files:
            if os.path.lexists(target / name):
                if not (target / name).is_file() or not filecmp.cmp(Path(base) / name, target / name, shallow=False):
                    raise DataError(f"{target / name}: is there already, with other content than the archive's")
            else:
                os.rename(Path(base) / name, target / name)
    shutil.rmtree(unpacked)
