"""A codebook that vectors are rounded to, and that follows them by running averages (VQ-VAE, van den Oord et al. 2017).

Rounding has no gradient: what comes out passes its own on to what went in. The entries have none either: each is the
running average of the vectors it was nearest to, as in the PyTorch release of VQ-VAE-2, whose names of tensors, start
and smoothing these are.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed import get_rank
from torch.nn.functional import embedding

from networks.processes import mean_over_processes, processes, rows_of_all

ROWS = 8192  # measured: in pieces a CPU finds the nearest entries in 3/4 of the time; all at once may be gigabytes


class Quantised(NamedTuple):
    """What a codebook makes of a map of vectors.

    Attributes:
        codes: (N, D, ...) the nearest entries; their gradient is that of the vectors.
        commitment: scalar, mean over positions and channels of (entry - vector)^2; its gradient moves the vectors only.
        indices: (N, ...) int64 in [0, K), which entries.
    """

    codes: Tensor
    commitment: Tensor
    indices: Tensor


class Codebook(nn.Module):
    """K entries of D numbers.

    Each ``quantise`` in training mode moves the entries after it has used them, also without gradients: validate in
    ``eval()``. With n_j vectors of sum s_j nearest to entry j, over all processes, which must hold as many each,

        N_j <- d N_j + (1 - d) n_j        m_j <- d m_j + (1 - d) s_j
        e_j <- m_j / Nbar_j               Nbar_j = n (N_j + eps) / (n + K eps),  n = sum of N

    N starts at 0, as in the release: the first step makes every entry that it does not use about 1 / eps times as long,
    and some 1200 steps pass until d^steps has shortened it again. ``restart_below`` is the cure.

    Input that is not finite, on any process, moves nothing.

    Args:
        dim: D.
        codes: K.
        decay: d, in [0, 1).
        eps: of the smoothing, above 0.
        restart_below: an entry with N_j below it, in vectors a step, becomes a random vector of the batch, N_j with it
            the threshold: unless the next step uses it, it moves again. 0, as in the release, is never.

    Raises:
        ValueError: an argument is out of its range.
    """

    embed: Tensor
    cluster_size: Tensor
    embed_avg: Tensor

    def __init__(
        self, dim: int, codes: int, decay: float = 0.99, eps: float = 1e-5, restart_below: float = 0.0
    ) -> None:
        super().__init__()
        if dim < 1 or codes < 1:
            raise ValueError(f"A codebook needs dim and codes of 1 or more, not {dim} and {codes}.")
        if not (0 <= decay < 1 and eps > 0 and restart_below >= 0):
            raise ValueError(
                "A codebook needs decay in [0, 1), eps above 0 and restart_below of 0 or more, "
                f"not {decay}, {eps} and {restart_below}."
            )
        self.decay, self.eps, self.restart_below = decay, eps, restart_below
        entries = torch.randn(dim, codes)
        self.register_buffer("embed", entries)
        self.register_buffer("cluster_size", torch.zeros(codes))  # N
        self.register_buffer("embed_avg", entries.clone())  # m

    def quantise(self, z: Tensor) -> Quantised:
        """Round vectors to their nearest entries, the first of equals; in training mode let the entries follow.

        Args:
            z: (N, D, ...), of any type; the codes and all arithmetic have the type of the entries.

        Raises:
            ValueError: the vectors have not D numbers.
        """
        dim = len(self.embed)
        if z.ndim < 2 or z.shape[1] != dim:
            raise ValueError(
                f"The codebook has entries of {dim} numbers; z must be (N, {dim}, ...), not {tuple(z.shape)}."
            )
        with torch.autocast(z.device.type, enabled=False):  # rounded distances would find other entries
            wide = z.to(self.embed.dtype)
            rows = wide.detach().movedim(1, -1).reshape(-1, dim)
            indices = self.nearest(rows)
            places = indices.view(len(z), *z.shape[2:])
            off = self._entries(places) - wide
            if self.training:
                self._follow(rows, indices)
            return Quantised(wide + off.detach(), off.square().mean(), places)

    @torch.no_grad()
    def nearest(self, rows: Tensor) -> Tensor:
        """(M, D) to (M,) int64: argmin over j of |z|^2 - 2 z e_j + |e_j|^2.

        |z|^2 decides nothing but how the sum is rounded, and with it which of two entries as near is found: the
        release's.
        """
        lengths = self.embed.square().sum(0)
        found = []
        for part in rows.split(ROWS):
            distances = (2 * part) @ self.embed
            distances = distances.neg_().add_(part.square().sum(1, keepdim=True)).add_(lengths)
            found.append(distances.argmin(1))
        return torch.cat(found)

    def lookup(self, indices: Tensor) -> Tensor:
        """Entries by their numbers, (N, ...) int64 in [0, K) to (N, D, ...).

        Raises:
            ValueError: the indices are no integers, or one is not in [0, K).
        """
        codes = self.embed.shape[1]
        if indices.dtype not in (torch.int64, torch.int32):
            raise ValueError(f"indices must be integers (int64 or int32), not {indices.dtype}.")
        if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < codes:
            raise ValueError(
                f"indices must be in [0, {codes}), the entries of the codebook, but go from "
                f"{int(indices.min())} to {int(indices.max())}."
            )
        return self._entries(indices)

    def draw(self, rows: int) -> Tensor:
        """(K,) int64 in [0, rows): the one door by which the vectors for restarts are chosen, with replacement."""
        return torch.randint(rows, self.cluster_size.shape, device=self.embed.device)

    def _entries(self, indices: Tensor) -> Tensor:
        return embedding(indices, self.embed.T.contiguous()).movedim(-1, 1)

    @torch.no_grad()
    def _follow(self, rows: Tensor, indices: Tensor) -> None:
        """Move the entries towards the means of the (M, D) rows that were nearest to them; (M,) says to which."""
        codes = len(self.cluster_size)
        sums = rows.new_zeros(codes, rows.shape[1]).index_add_(0, indices, rows)
        here = torch.cat((count(indices, codes).to(rows.dtype)[:, None], sums), 1)
        n, s = (mean_over_processes(here) * processes()).T.split((1, rows.shape[1]))
        sizes = self.decay * self.cluster_size + (1 - self.decay) * n[0]
        averages = self.decay * self.embed_avg + (1 - self.decay) * s
        if self.restart_below > 0:
            dead = sizes < self.restart_below
            sizes = torch.where(dead, self.restart_below, sizes)
            averages = torch.where(dead, self.restart_below * self._drawn(rows).T, averages)
        total = sizes.sum()
        smoothed = (sizes + self.eps) / (total + codes * self.eps) * total
        finite = s.isfinite().all()  # the sum over processes: all of them see what one had
        for now, new in (
            (self.cluster_size, sizes),
            (self.embed_avg, averages),
            (self.embed, averages / smoothed),
        ):
            now.copy_(torch.where(finite, new, now))

    def _drawn(self, rows: Tensor) -> Tensor:
        """(K, D): rows of all processes, one after the other, that the first process drew."""
        world = processes()
        if world == 1:
            return rows[self.draw(len(rows))]
        drawn = rows_of_all(self.draw(world * len(rows)))[: len(self.cluster_size)]
        place = drawn - get_rank() * len(rows)
        mine = (place >= 0) & (place < len(rows))
        found = torch.where(mine[:, None], rows[place.clamp(0, len(rows) - 1)], 0)
        return mean_over_processes(found) * world


class Usage(NamedTuple):
    """How many entries are in use.

    Attributes:
        perplexity: scalar in [1, K], as many entries used equally often would be as uncertain.
        used: scalar int64 in [1, K], entries that occur.
    """

    perplexity: Tensor
    used: Tensor


def count(indices: Tensor, codes: int) -> Tensor:
    """How often each of ``codes`` entries occurs: (...) int64 in [0, codes) to (codes,) int64.

    Counts of batches, and of processes, add up to those of all.
    """
    flat = indices.reshape(-1)
    return flat.new_zeros(codes).index_add_(0, flat, torch.ones_like(flat))  # bincount would ask the device


def perplexity(counts: Tensor) -> Tensor:
    """exp(-sum of p log p), p the frequencies of (K,) counts; scalar in [1, K], NaN where nothing was counted."""
    return torch.special.entr(counts / counts.sum()).sum().exp()


def usage(indices: Tensor, codes: int) -> Usage:
    """Perplexity and number of used entries, of (...) int64 indices in [0, codes)."""
    counts = count(indices, codes)
    return Usage(perplexity(counts), (counts > 0).sum())
