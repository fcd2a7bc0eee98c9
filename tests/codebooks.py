"""Codewords for random networks, such that no two of them are about equally near to what is coded."""

import torch


@torch.no_grad()
def settle(book: torch.Tensor, rows: torch.Tensor) -> None:
    """Fill `book [S, 1, K, d]` with some of the vectors `rows [N, d]` and noise, and of what they leave."""
    z = rows + 0.3 * rows.std() * torch.randn(4 * book.shape[2] // len(rows) + 1, *rows.shape)
    z = z.flatten(0, 1)
    for stage in range(len(book)):
        words = z[torch.randperm(len(z))[: book.shape[2]]]
        book[stage, 0] = words
        z = z - words[(z @ words.T - words.square().sum(1) / 2).argmax(1)]
