"""Names a recipe may write under `data.name`: a class or a function that returns a dataset."""

from datasets.images.folder import image_folder
from datasets.images.isic import isic
from datasets.images.medmnist import medmnist
from datasets.slices.dataset import SliceDataset

DATASETS = {
    "image_folder": image_folder,
    "isic": isic,
    "medmnist": medmnist,
    "slices": SliceDataset,
}
