"""Names a recipe may write under `data.name`: a class or a function that returns a dataset."""

from datasets.image_folder import image_folder
from datasets.isic import isic
from datasets.medmnist import medmnist
from datasets.slices import SliceDataset

DATASETS = {
    "image_folder": image_folder,
    "isic": isic,
    "medmnist": medmnist,
    "slices": SliceDataset,
}
