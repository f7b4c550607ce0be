"""The partial AUC of the ISIC 2024 challenge."""

import numpy as np
from numpy.typing import NDArray


def partial_auc(score: NDArray[np.floating], target: NDArray[np.integer], min_tpr: float = 0.8) -> float:
    """Area between the ROC curve and the line TPR = `min_tpr`: 0 to 1 - min_tpr, by chance (1 - min_tpr)^2 / 2.

    score (N,) is higher where class 1 is likelier, target (N,) is 0 or 1 and has both. As the challenge computes it:
    labels and scores are flipped, so that a false positive rate up to 1 - min_tpr of the flipped problem is a true
    positive rate above min_tpr of the given one; scikit-learn's `max_fpr` area is McClish-scaled to 0.5..1, which is
    undone. The published `distill_reponse.py` leaves the flip out: it gives the area at a false positive rate of 0.2
    and less, which is another number.
    """
    from sklearn.metrics import roc_auc_score

    max_fpr = 1 - min_tpr
    scaled = roc_auc_score(1 - target, -score.astype(np.float64), max_fpr=max_fpr)
    chance = max_fpr**2 / 2
    return float(chance + (2 * scaled - 1) * (max_fpr - chance))
