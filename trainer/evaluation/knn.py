"""Weighted k-nearest-neighbour classification on frozen features (Wu et al. 2018), the quick look at an encoder."""

import torch
import torch.nn.functional as F
from torch import Tensor

_CHUNK = 4096  # queries at a time


def knn_predict(
    queries: Tensor, bank: Tensor, labels: Tensor, classes: int, k: int = 20, temperature: float = 0.1
) -> Tensor:
    """Class scores [Q, classes] of `queries` [Q, d] from `bank` [B, d] with `labels` [B]; argmax is the prediction.

    Each of the k most similar (cosine) bank entries votes with exp(similarity / temperature).
    """
    queries, bank = F.normalize(queries.float(), dim=1), F.normalize(bank.float(), dim=1)
    k = min(k, len(bank))
    scores = []
    for part in queries.split(_CHUNK):
        similarity, nearest = (part @ bank.T).topk(k, dim=1)
        votes = torch.zeros(len(part), classes, device=part.device)
        scores.append(votes.scatter_add_(1, labels[nearest], (similarity / temperature).exp()))
    return torch.cat(scores) if scores else queries.new_zeros(0, classes)


def knn_accuracy(queries: Tensor, truth: Tensor, bank: Tensor, labels: Tensor, k: int = 20) -> float:
    """Share of queries whose class is predicted. ValueError without queries or without a bank."""
    if len(queries) == 0 or len(bank) == 0:
        raise ValueError("kNN needs at least one query and one bank entry")
    classes = int(max(int(labels.max()), int(truth.max()))) + 1
    predicted = knn_predict(queries, bank, labels, classes, k).argmax(1)
    return (predicted == truth).float().mean().item()
