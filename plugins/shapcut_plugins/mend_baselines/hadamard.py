"""Orthogonal matrices whose entries all have about the same size."""

import math

import torch
from torch import Tensor


def rotation(size: int) -> Tensor:
    """A normalised Hadamard matrix, where Paley's and Sylvester's constructions give one of that size.

    Elsewhere the Kronecker product of the largest one whose size divides it and a discrete cosine transform.

    Returns:
        Float64, orthogonal, shape (size, size).
    """
    matrix, left = torch.ones((1, 1), dtype=torch.float64), size
    for factor in _orders(size):
        while left % factor == 0 and _is_composable(left // factor):
            matrix, left = torch.kron(matrix, _hadamard(factor)), left // factor
    while left % 2 == 0:
        matrix, left = torch.kron(matrix, _hadamard(2)), left // 2
    return torch.kron(matrix, _cosines(left)) / math.sqrt(size // left)


def _orders(size: int) -> list[int]:
    """Orders that divide a size and have a construction of their own, smallest first."""
    found = [order for order in range(4, size + 1, 4) if size % order == 0]
    return [order for order in found if order & (order - 1) and _prime_of(order)]


def _is_composable(size: int) -> bool:
    """Whether the rest of a size is a power of two or has a factor with a construction."""
    return size & (size - 1) == 0 or bool(_orders(size))


def _prime_of(order: int) -> int:
    """The prime for Paley's first construction, its negative for the second, or 0 if neither applies."""
    if _is_prime(order - 1):
        return order - 1
    half = order // 2 - 1
    return -half if half % 4 == 1 and _is_prime(half) else 0


def _hadamard(order: int) -> Tensor:
    """A Hadamard matrix with entries 1 and -1, of order 2 or one of `_orders`."""
    if order == 2:  # noqa: PLR2004 - the smallest one
        return torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    prime = _prime_of(order)
    core = _jacobsthal(abs(prime))
    ones = torch.ones((1, abs(prime)), dtype=torch.float64)
    corner = torch.zeros((1, 1), dtype=torch.float64)
    identity = torch.eye(abs(prime) + 1, dtype=torch.float64)
    if prime > 0:
        return identity + torch.cat([torch.cat([corner, ones], 1), torch.cat([-ones.t(), core], 1)])
    conference = torch.cat([torch.cat([corner, ones], 1), torch.cat([ones.t(), core], 1)])
    two = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    other = torch.tensor([[1.0, -1.0], [-1.0, -1.0]], dtype=torch.float64)
    return torch.kron(conference, two) + torch.kron(identity, other)


def _jacobsthal(prime: int) -> Tensor:
    """Whether the differences of residues are squares: 1, not: -1, or 0; shape (prime, prime)."""
    symbols = torch.full((prime,), -1.0, dtype=torch.float64)
    symbols[[number * number % prime for number in range(prime)]] = 1.0
    symbols[0] = 0.0
    places = torch.arange(prime)
    return symbols[(places[:, None] - places) % prime]


def _cosines(size: int) -> Tensor:
    """The orthogonal discrete cosine transform."""
    places = torch.arange(size, dtype=torch.float64)
    matrix = torch.cos(math.pi / size * (places + 0.5) * places[:, None]) * math.sqrt(2 / size)
    matrix[0] = math.sqrt(1 / size)
    return matrix


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, math.isqrt(number) + 1))
