"""Slices written by scripts/SliceMaker.py as samples for a segmentation network."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from datasets.batches.changes import scaled
from datasets.batches.draws import Draws
from datasets.batches.moves import VIEWS, exact_moves, filled, moved, on_device
from datasets.batches.pool import check_device_gb
from datasets.fingerprints import Digests
from datasets.slices.arguments import SPLITS, TASKS, check_cropping, check_shares, choice
from datasets.slices.augmentation import DRAWN, apply_changes
from datasets.slices.crops import central_corners
from datasets.slices.fingerprints import slice_digests
from datasets.slices.members import find_members
from datasets.slices.neighbors import channels_of, check_neighbors, stored_neighbors
from datasets.slices.store import SliceRecord, read_manifest
from datasets.slices.stored import StoredSlices
from datasets.slices.tasks import lookup_of, store_classes, window_of
from datasets.slices.taught import SoftTeacher, Taught
from datasets.slices.transforms import STRIDE, intensity_scale, next_multiple, pad_value, padded_size
from datasets.slices.views import Views

LISTS = ("case", "slice", "size", "view")  # of a batch, beside its tensors


class SliceDataset(Dataset):
    """Slices of one split as `{"image", "target", "case", "slice", "size"}`; whole slices in val and test.

    Training slices are cropped (and padded) to `crop` x `crop`, then augmented: a crop after a flip, as EMKD and HLFD
    have it, would cut away different anatomy each time. Val and test slices are never cropped, thinned or augmented:
    they are padded evenly to a multiple of 32, at least `crop`, and `unpad(tensor, sample["size"])` takes logits and
    target back to the slice. All slices of a case have one size.

    The random numbers of sample i in epoch e depend on (seed, e, i) only: the same for any number of workers, ranks and
    restarts. Set `epoch` before each epoch; it is shared with worker processes, persistent ones too.

    Args:
        root: Folder that scripts/SliceMaker.py wrote.
        split: `train`, `val` or `test`.
        task: `tumor` (1 where the label is a tumor), `organ` (1 where there is any label: tumor and cyst belong to the
            organ) or `all` (label values as consecutive classes). None: the task the slices were made for.
        window: (lower, upper) in HU, scaled to [-1, 1]; None: z-score with each case's mean and standard deviation;
            `auto`: (-200, 300) for CT, None for MR.
        crop: Side of a training sample in pixels, a multiple of 32. None: no crop, padded to the square that holds the
            largest training slice.
        crop_mode: `center`, or `foreground` (a random crop about a random foreground pixel, if the slice has one).
        augment: Training only, any of `flip`, `rot90`, `affine`, `intensity`.
        thin_background: Fraction of the slices without foreground that training keeps, 0 to 1; which ones depends on
            `seed` alone.
        labeled: Fraction of the training patients whose labels are known, for distillation on unlabeled images as well;
            the same ones whatever the seed. The target of the others is -1 everywhere, thinning and crops do not use
            their labels, and half of each training batch comes from each of the two groups. 0: nobody's, as in a store
            without labels, whose targets are -1 in val and test as well.
        class_names: What the classes are, for a store without labels; of one with labels they must be its own.
        pool: Another store, whose training slices are trained on as well, as those of unlabeled patients.
        neighbors: How many slices on each side, 0, 1 or 2, are channels of a sample's image as well: in order from
            inferior to superior, with its own in the middle, and a case's last slice again beyond its ends. Thinned
            slices, and those of unlabeled patients, are neighbors too.
        neighbor_mm: How far apart the neighbors are, of which the nearest slices are taken: where slices are thick that
            is the slice itself. None: the very next slices.
        cache: Keep decoded slices in memory if all of this split fits in `cache_mb` megabytes (per process started
            with DDP; forked loader workers share it).
        device_gb: Keep them on the GPU instead, where all of this split fits in so many gigabytes (10^9 bytes) of its
            memory; 0: never. None: half of what is free there. Without `cache` they are not kept there either.
        maps: Soft maps of a teacher: batches have its "teacher", log-probabilities as a network's logits, moved as the
            images are. Every training case must have them; of val and test those that do.
        seed: Seed of thinning, foreground crops and augmentation.

    Raises ValueError for a folder that is not a slice store, a split without slices, a task that the labels cannot
    serve, and arguments out of range.
    """

    views = 1
    sampling_weights: torch.Tensor | None = None  # every slice once an epoch
    labeled: torch.Tensor | None = None
    class_counts = None  # classes are per pixel

    def __init__(
        self,
        root: str | Path,
        split: str,
        task: str | None = None,
        window: tuple[float, float] | Literal["auto"] | None = "auto",
        crop: int | None = 384,
        crop_mode: str = "center",
        augment: Sequence[str] = ("flip", "rot90"),
        thin_background: float = 1.0,
        labeled: float = 1.0,
        class_names: Sequence[str] | None = None,
        pool: str | Path | None = None,
        neighbors: int = 0,
        neighbor_mm: float | None = None,
        cache: bool = True,
        cache_mb: int = 1024,
        device_gb: float | None = None,
        maps: SoftTeacher | None = None,
        seed: int = 0,
    ) -> None:
        self.root, self.split = Path(root), choice("split", split, SPLITS)
        check_cropping(crop, crop_mode)
        check_shares(thin_background, labeled)
        check_neighbors(neighbors, neighbor_mm)
        check_device_gb(device_gb)
        manifest = read_manifest(self.root)
        self.modality: str = manifest["modality"]
        self.task = choice("task", task or manifest["task"], TASKS)
        self.window = window_of(window, self.modality)
        self.crop, self.crop_mode, self.seed = crop, crop_mode, seed
        self.neighbors, self.neighbor_mm, self.in_channels = neighbors, neighbor_mm, channels_of(neighbors)
        self.split_sha256: str = manifest["split_sha256"]
        self.has_labels = bool(manifest["labels"])
        self.class_names, classes = store_classes(self.root, manifest, self.task, class_names)
        self.num_classes = len(self.class_names) + 1
        self._meaning = {value: self.class_names[number - 1] for value, number in classes.items()}
        self.lookup = lookup_of(classes)
        self._spacings = {key: manifest.get(key) for key in ("spacing", "slice_spacing")}

        shares = {"labeled": labeled, "thin_background": thin_background, "seed": seed}
        members = find_members(self.root, split, manifest, set(classes), Path(pool) if pool else None, **shares)
        self._all_records, self.records, self._patients = members.every, members.samples, members.patients
        self.cases = list(dict.fromkeys(record.case for record in members.every))
        self.patients, self.unlabeled, self.notes = self._patients[split], members.unlabeled, members.notes
        scales = [intensity_scale(self.window, record.mean, record.std) for record in self.records]
        self._scales = np.array(scales, np.float32)
        self._hidden = np.array([r.patient in self.unlabeled or not self.has_labels for r in self.records])
        if self.unlabeled and not self._hidden.all():
            self.labeled = torch.from_numpy(~self._hidden)
        finds = split == "train" and crop_mode == "foreground"
        needed, self._rows = stored_neighbors(self._all_records, self.records, neighbors, neighbor_mm)
        self.taught: Taught | None = None
        if maps is not None:
            named = {int(value): name for value, name in manifest["labels"].items()}
            labels = {named[value]: name for value, name in self._meaning.items()}
            self.taught = Taught(maps, self._all_records, self.class_names, labels, needed=split == "train")
        self._stored = StoredSlices(needed, self.lookup, self.unlabeled, finds, self.taught)
        if split == "train":
            side = crop or next_multiple(max(max(size) for size in self.sizes.values()))
            self._views = Views(side, crop_mode, augment)
            self.views = self._views.count
        self._draws = Draws(len(self.records), len(DRAWN), seed)
        self._device_gb = device_gb if cache else 0.0
        if cache and self._stored.nbytes <= cache_mb * 2**20:
            self._stored.keep(torch.device("cpu"))

    @property
    def epoch(self) -> int:
        """Epoch whose random crops and augmentations are drawn; in memory shared with the loader's workers."""
        return self._draws.epoch

    @epoch.setter
    def epoch(self, value: int) -> None:
        self._draws.epoch = value

    @property
    def preprocessing(self) -> dict[str, Any]:
        """All that is needed to feed a new volume to a network trained on this, as plain JSON values."""
        return {
            "modality": self.modality,
            "task": self.task,
            "class_names": list(self.class_names),
            "labels": {str(number): name for number, name in enumerate(self.class_names, start=1)},
            "window": None if self.window is None else list(self.window),
            "pad_value": pad_value(self.window),
            "crop": self.crop,
            "multiple": STRIDE,
            **self._spacings,
            "neighbors": self.neighbors,
            "neighbor_mm": self.neighbor_mm,
            "in_channels": self.in_channels,
        }

    @property
    def shown_classes(self) -> list[str]:
        """The classes that some slice of this split shows."""
        shown = {self._meaning.get(value) for record in self._all_records for value in record.labels}
        return [name for name in self.class_names if name in shown]

    @cached_property
    def digests(self) -> Digests:
        """What each case of this split holds, all of its slices; see `datasets.fingerprints`. "": it has no labels."""
        root = self.root.absolute() if self.has_labels else None
        scans = {r.case for r in self._all_records if r.root != root}
        digests = slice_digests(self._all_records, self._meaning)
        return {case: [image, "" if case in scans else label] for case, (image, label) in digests.items()}

    def split_patients(self, split: str) -> list[str]:
        """Patients of `split` whose slices are here."""
        return list(self._patients[choice("split", split, SPLITS)])

    def case_indices(self) -> dict[str, list[int]]:
        """Indices of each case's samples, from its lowest slice to its highest."""
        indices: dict[str, list[int]] = {case: [] for case in self.cases}
        for index, record in enumerate(self.records):
            indices[record.case].append(index)
        return indices

    @property
    def sizes(self) -> dict[str, tuple[int, int]]:
        return {case: size for case, (size, _) in self._stored.forms.items()}

    def around(self, index: int) -> list[SliceRecord]:
        """The stored slices that are the channels of a sample."""
        return [self._stored.records[row] for row in self._rows[index].tolist()]

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Each slice once; by index it would never end."""
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Image (C, H, W) float32, target (1, H, W) int64, case, slice number, and size: (H, W) of the stored slice.

        On the host, wherever the split is held. `i + n * len(self)` is sample i again, cropped and augmented anew.
        """
        batch = self.batch([index])
        sample = {key: batch[key][0].cpu() for key in ("image", "target")}
        return sample | {"case": batch["case"][0], "slice": batch["slice"][0], "size": batch["size"]}

    def batch(self, indices: Sequence[int]) -> dict[str, Any]:
        """These samples as a network takes them, see `finish`, on the device that holds the split, or the host."""
        return self.finish(self.gather(indices))

    def gather(self, indices: Sequence[int]) -> dict[str, Any]:
        """What is stored of these samples, cropped, padded, flipped and turned, and the numbers that `finish` needs.

        All of one padded size. Tensors where the split is held, or on the host: "image" (B, C, H, W), "target" uint8
        (B, 1, H, W), "codes" of soft maps uint8 (B, K, H, W), and small ones. Lists: "case", "slice" and "view", a
        number that is the same where sample, flips and turns are; "size": (H, W) of the first sample.
        """
        places = np.asarray(indices, np.int64) % len(self)
        pool, rows = self._stored.find(self._rows[places])
        own = rows[:, self.neighbors]
        lengths = np.stack((pool.heights[own], pool.widths[own]), axis=1)
        if self.split == "train":
            found = [self._stored.foreground[row] for row in self._rows[places, self.neighbors].tolist()]
            moves, small = self._views(self._draws(indices), lengths, found)
        else:
            size = padded_size(lengths[0].tolist(), self.crop)
            assert {padded_size(each, self.crop) for each in lengths.tolist()} == {size}, "one size in a batch"
            moves, small = exact_moves(lengths[:, 0], lengths[:, 1], central_corners(lengths, size), size), {}
        small["scale"] = self._scales[places]
        if moves.padded:
            small["inside"] = moves.inside
        if self._hidden[places].any():
            small["unlabeled"] = np.flatnonzero(self._hidden[places])
        records = [self.records[place] for place in places.tolist()]
        return {
            **({"view": (VIEWS * places + moves.view).tolist()} if self.views else {}),
            **moved(pool, rows, moves),
            **{name: on_device(array, pool.device) for name, array in small.items()},
            "case": [record.case for record in records],
            "slice": [record.slice for record in records],
            "size": tuple(lengths[0].tolist()),
        }

    def finish(self, raw: dict[str, Any]) -> dict[str, Any]:
        """Image (B, C, H, W) float32 and target (B, 1, H, W) int64 of what was gathered, on whatever device it is now.

        With soft maps also "teacher", log-probabilities float32 (B, num_classes, H, W).

        Intensities are scaled, samples warped and their intensities changed; it never waits for the device.
        """
        image, target, codes = scaled(raw["image"], raw["scale"]), raw["target"], raw.get("codes")
        if self.window is not None:
            image.clamp_(-1, 1)
        if "inside" in raw:
            image = filled(image, raw["inside"], pad_value(self.window))
            target = filled(target, raw["inside"], 0)
            codes = codes if codes is None else filled(codes, raw["inside"], 0)
        elif "affine" in raw:
            target = target.clone()  # what was gathered stays as it is
        soft = None if self.taught is None else self.taught.probabilities(codes)
        apply_changes(image, target, raw, soft)
        batch = {"image": image, "target": target.long()}
        if self.taught is not None:
            batch["teacher"] = self.taught.answers(soft, batch["target"])
        if "unlabeled" in raw:
            batch["target"].index_fill_(0, raw["unlabeled"], -1)
        return batch | {key: raw[key] for key in LISTS if key in raw}

    def hold(self, device: torch.device) -> bool:
        """Keep the decoded slices on a GPU, if they fit `device_gb`; False where they stay where they are.

        On a CPU it only says whether they are in memory: `cache_mb` decides that.
        """
        return self._stored.hold(device, self._device_gb)
