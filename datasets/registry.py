"""Names a recipe may write under `data.name`."""

from datasets.slices import SliceDataset

DATASETS = {
    "slices": SliceDataset,
}
