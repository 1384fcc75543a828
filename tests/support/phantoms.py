"""Images of nobody: slices of an invented chest and head."""

from typing import Any

import numpy as np


def chest_slice(side: int, height: float, seed: int) -> Any:
    """Return a slice of an invented chest in Hounsfield units."""
    y, x = grid(side)
    size = 0.82 + 0.1 * np.sin(np.pi * height)
    skin = disc(x, y, 0, 0, size, size * 0.72)
    levels = np.where(skin, -90.0, -1000.0)
    levels = np.where(disc(x, y, 0, 0, size * 0.93, size * 0.65), 45.0, levels)
    lung = 0.32 * np.sin(np.pi * (0.15 + 0.7 * height))
    for where in (-0.38, 0.38):
        inside = disc(x, y, where, -0.02, lung, lung * 1.45)
        levels = np.where(inside, -870.0, levels)
        chance = np.random.default_rng(int(where * 100) + 500)
        for _ in range(14):
            a, b = where + chance.normal(0, lung * 0.4), chance.normal(0, lung * 0.6)
            vessel = disc(x, y, a + 0.02 * height, b, 0.012 + 0.02 * chance.random(), 0.014)
            levels = np.where(inside & vessel, -50.0, levels)
    levels = np.where(disc(x, y, 0.08, -0.1, 0.24, 0.2 + 0.1 * height), 55.0, levels)
    levels = np.where(disc(x, y, -0.02, 0.22, 0.055, 0.055), 140.0, levels)
    levels = np.where(disc(x, y, 0, 0.44, 0.11, 0.09), 420.0, levels)
    levels = np.where(disc(x, y, 0, 0.54, 0.035, 0.035), 10.0, levels)
    ring = np.hypot(x / (size * 0.86), y / (size * 0.61))
    angle = np.arctan2(y, x) * 7 + height * 5
    levels = np.where((np.abs(ring - 1) < 0.035) & (np.sin(angle) > 0.35), 500.0, levels)
    return (levels + 18 * (noise(side, seed) - 0.5)).astype(np.int16)


def head_slice(side: int, height: float, seed: int) -> Any:
    """Return a slice of an invented head, T1-like."""
    y, x = grid(side)
    size = 0.55 + 0.25 * np.sin(np.pi * height)
    levels = 700.0 * disc(x, y, 0, 0, size, size * 1.15)
    levels = np.where(disc(x, y, 0, 0, size * 0.92, size * 1.07), 120.0, levels)
    brain = disc(x, y, 0, 0, size * 0.86, size)
    folds = 60 * np.sin(14 * np.hypot(x, y) + 3 * np.sin(6 * np.arctan2(y, x)))
    levels = np.where(brain, 430.0 + folds, levels)
    levels = np.where(disc(x, y, 0, 0, size * 0.6, size * 0.72), 560.0, levels)
    for where in (-0.1, 0.1):
        levels = np.where(disc(x, y, where, -0.02, 0.06, 0.2 * np.sin(np.pi * height)), 90.0, levels)
    return (levels + 50 * noise(side, seed)).astype(np.uint16)


def grid(side: int) -> Any:
    """Return rows and columns from -1 to 1."""
    return np.meshgrid(np.linspace(-1, 1, side), np.linspace(-1, 1, side), indexing="ij")


def disc(x: Any, y: Any, a: float, b: float, wide: float, high: float) -> Any:
    """Return where an ellipse is."""
    return ((x - a) / max(wide, 1e-6)) ** 2 + ((y - b) / max(high, 1e-6)) ** 2 < 1


def noise(side: int, seed: int) -> Any:
    """Return noise from 0 to 1."""
    return np.random.default_rng(seed).random((side, side))
