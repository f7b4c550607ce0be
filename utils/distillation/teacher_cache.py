"""What a teacher answers, kept on disk by the exact image it was asked, and in memory by the number of its view."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from utils.distillation.known_answers import KnownAnswers

log = logging.getLogger(__name__)

Ask = Callable[[Tensor, Sequence[str]], dict[str, Tensor]]
GRANT = 0.02  # of the limit: what a process writes before it counts again what all have written
STALE_S = 3600.0


class TeacherCache:
    """Features of a frozen teacher by image: computed once, read afterwards.

    An image's name is the hash of its pixels as the teacher receives them: window, crop, flips and turns are all in it,
    so what is read is never what another slice, view or preprocessing gave. With flips and quarter turns a slice has
    eight views and after a few epochs (or in the next run with the same teacher) all are there. Continuous
    augmentation gives a new image each time: ask the teacher online then.

    Files appear whole or not at all, and several processes may share the folder. A file that cannot be read is written
    again; where none can be written any more (a full disk), the teacher is asked each time. Features are kept in the
    precision the teacher computed them in. What was read or computed once is kept in the memory of the device as well,
    where the answers to all views fit there.

    Args:
        folder: Holds a folder for each teacher.
        identity: Of the teacher and of how it computes (its file's hash, precision, device): other words, other folder.
        limit_gb: Of all files in `folder`, of all processes (each counts again after 2 % of it); what does not fit is
            computed each time.
        views: How many different images a run sees; 0 keeps none in memory.
        room: Returns the bytes that the answers to all of them may take in the memory of the device.
    """

    def __init__(
        self, folder: Path, identity: Sequence[str], limit_gb: float, views: int = 0, room: Callable[[], float] = float
    ) -> None:
        name = hashlib.sha256("\n".join((*identity, torch.__version__)).encode()).hexdigest()[:16]
        self.folder = folder / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self._home, self._limit = folder, limit_gb * 1e9
        self._granted, self._full = 0.0, False
        self._remove_abandoned()
        self._memory = KnownAnswers(views, room)
        self.hits = self.misses = 0
        self._asking_s = self._reading_s = 0.0

    def __call__(
        self, image: Tensor, taps: Sequence[str], ask: Ask, views: Sequence[int] | None = None
    ) -> dict[str, Tensor]:
        """Features by tap, each (B, ...), of images (B, C, H, W); `ask` computes those that are not there.

        views: The number of each image among all those that the run can see; None where they have none.
        """
        if views is None:
            return self._from_disk(image, taps, ask)
        unknown = self._memory.unknown(views)
        self.hits += len(views) - len(unknown)
        if unknown:
            found = self._from_disk(image[unknown] if len(unknown) < len(views) else image, taps, ask)
            if not self._memory.keep([views[position] for position in unknown], found):
                return found
        return self._memory.read(views)

    def _from_disk(self, image: Tensor, taps: Sequence[str], ask: Ask) -> dict[str, Tensor]:
        started = time.perf_counter()
        names = [_name(each) for each in image.detach().cpu()]
        answers = [{tap: self._read(name, tap) for tap in taps} for name in names]
        self._reading_s += time.perf_counter() - started
        missing = [index for index, answer in enumerate(answers) if None in answer.values()]
        self.hits, self.misses = self.hits + len(names) - len(missing), self.misses + len(missing)
        if missing:
            started = time.perf_counter()
            computed = ask(image[missing], taps)
            if image.is_cuda:
                torch.cuda.synchronize(image.device)  # else the time is that of asking, not of the answer
            self._asking_s += time.perf_counter() - started
            for row, index in enumerate(missing):
                for tap in taps:
                    if answers[index][tap] is None:
                        self._write(names[index], tap, computed[tap][row])
                    answers[index][tap] = computed[tap][row]
        return {tap: torch.stack([answer[tap].to(image.device) for answer in answers]) for tap in taps}

    def summary(self) -> str:
        """How many answers were known, and what time that saved, in one line."""
        line = f"teacher cache: {self.hits} of {self.hits + self.misses} answers were known"
        if not self.misses:
            return f"{line}, read in {self._reading_s:.1f} s; the teacher was never asked"
        each = self._asking_s / self.misses
        return f"{line}, read in {self._reading_s:.1f} s; asking costs {each * 1e3:.1f} ms, so {self.hits * each:.1f} s"

    def _file(self, name: str, tap: str) -> Path:
        return self.folder / f"{name}.{tap.replace('/', '.')}.safetensors"

    def _read(self, name: str, tap: str) -> Tensor | None:
        """A feature of one image, or None where it is not there."""
        try:
            with safe_open(self._file(name, tap), "pt") as content:
                return content.get_tensor(tap)
        except (FileNotFoundError, SafetensorError):
            return None

    def _write(self, name: str, tap: str, feature: Tensor) -> None:
        """Write a feature, unless the disk's share is used up.

        Each has a file of its own, which is never written with other content: `safe_open` opens a file twice, for its
        header and for its data, and another process may replace it in between.
        """
        feature = feature.detach().cpu().contiguous()
        size = feature.numel() * feature.element_size()
        if not self._has_room(size):
            return
        file = self._file(name, tap)
        partial = file.with_name(f".{file.stem}.{os.getpid()}.partial")
        try:
            save_file({tap: feature}, partial)
            partial.replace(file)
        except (OSError, SafetensorError) as error:  # safetensors has its own for a full disk
            partial.unlink(missing_ok=True)
            self._full = True
            log.warning("teacher cache %s: %s; goes on without keeping more answers", self.folder, error)
        self._granted -= size

    def _has_room(self, size: int) -> bool:
        """Whether `size` more bytes fit, by what all processes have written; once they do not, never again."""
        if size > self._granted and not self._full:
            used = sum(file.stat().st_size for file in self._home.rglob("*.safetensors"))
            self._granted = min(self._limit - used, max(size, GRANT * self._limit))
            self._full = size > self._granted
        return not self._full

    def _remove_abandoned(self) -> None:
        """Remove half files of processes that were killed; a file that is being written is young."""
        for partial in self._home.rglob(".*.partial"):
            with suppress(FileNotFoundError):  # another process was faster
                if time.time() - partial.stat().st_mtime > STALE_S:
                    partial.unlink()


def _name(image: Tensor) -> str:
    name = hashlib.blake2b(f"{tuple(image.shape)} {image.dtype}".encode(), digest_size=16)
    name.update(image.contiguous().view(torch.uint8).numpy())
    return name.hexdigest()
