"""The formulas of Hendrycks & Dietterich's code in numpy and scipy, for one image [H,W,C] and drawn numbers."""

import math

import numpy as np
from scipy import ndimage


def cut_and_zoomed(image: np.ndarray, factor: float) -> np.ndarray:
    """clipped_zoom of a square image."""
    side = len(image)
    part = math.ceil(side / factor)
    start = (side - part) // 2
    inside = image[start : start + part, start : start + part]
    large = np.asarray(ndimage.zoom(inside, (factor, factor, 1), order=1, mode="nearest"))
    trim = (len(large) - side) // 2
    return large[trim : trim + side, trim : trim + side]


def zoom_blur(image: np.ndarray, end: float, step: float) -> np.ndarray:
    factors = np.arange(1, end, step)
    return (image + sum(cut_and_zoomed(image, factor) for factor in factors)) / (len(factors) + 1)


def defocus_blur(image: np.ndarray, radius: float, sigma: float) -> np.ndarray:
    reach, taps = (8, 1) if radius <= 8 else (int(radius), 2)
    x, y = np.meshgrid(*[np.arange(-reach, reach + 1)] * 2)
    kernel = (x**2 + y**2 <= radius**2) * 1.0
    kernel /= kernel.sum()
    weight = np.exp(-(np.arange(-taps, taps + 1.0) ** 2) / (2 * sigma**2))
    for axis in (0, 1):
        kernel = ndimage.correlate1d(kernel, weight / weight.sum(), axis, mode="mirror")
    return ndimage.correlate(image, kernel[..., None], mode="mirror")


def motion_blur(image: np.ndarray, radius: float, sigma: float, angle: float) -> np.ndarray:
    """ImageMagick's MotionBlurImage, tap by tap, of an image that goes on beyond its edges."""
    width = 2 * math.ceil(radius) + 1
    weight = np.exp(-(np.arange(width) ** 2) / (2 * sigma**2))
    down, across = math.sin(math.radians(angle)), math.cos(math.radians(angle))
    padded = np.pad(image, ((width, width), (width, width), (0, 0)), "edge")
    made = np.zeros_like(image)
    for i, share in enumerate(weight / weight.sum()):
        y, x = width + math.ceil(i * down - 0.5), width + math.ceil(i * across - 0.5)
        made += share * padded[y : y + len(image), x : x + image.shape[1]]
    return made


def glass_blur(image: np.ndarray, sigma: float, delta: int, moves: np.ndarray) -> np.ndarray:
    """moves: int [rounds,H,W,2], dx and dy of each pixel."""
    image = ndimage.gaussian_filter(image, (sigma, sigma, 0), mode="nearest")
    height, width = image.shape[:2]
    for turn in moves:
        for h in range(height - delta, delta, -1):
            for w in range(width - delta, delta, -1):
                dx, dy = turn[h, w]
                # numpy's rows are views: what is meant as a swap copies the second into the first
                image[h, w], image[h + dy, w + dx] = image[h + dy, w + dx], image[h, w]
    return ndimage.gaussian_filter(image, (sigma, sigma, 0), mode="nearest")


def plasma(size: int, decay: float, uniform) -> np.ndarray:
    """The diamond-square algorithm, each point by its four neighbours; uniform(low, high, h, w): random numbers."""
    field, step, wibble = np.zeros((size, size)), size, 100.0
    while step >= 2:
        half = step // 2
        shape = (size // step, size // step)
        for dy, dx, neighbours in (
            (half, half, [(-half, -half), (-half, half), (half, -half), (half, half)]),
            (0, half, [(-half, 0), (half, 0), (0, -half), (0, half)]),
            (half, 0, [(-half, 0), (half, 0), (0, -half), (0, half)]),
        ):
            drawn = wibble * uniform(-wibble, wibble, *shape)
            for i, j in np.ndindex(*shape):
                y, x = i * step + dy, j * step + dx
                field[y, x] = sum(field[(y + v) % size, (x + u) % size] for v, u in neighbours) / 4 + drawn[i, j]
        step, wibble = half, wibble / decay
    return (field - field.min()) / (field.max() - field.min())


def elastic_transform(image: np.ndarray, alpha: float, sigma: float, moved: np.ndarray, field: np.ndarray):
    """moved [3,2]: of the affine map's points; field [2,H,W]: dx and dy before they are smoothed."""
    side = len(image)
    third, middle = side // 3, side // 2
    old = np.array([[middle + third] * 2, [middle + third, middle - third], [middle - third] * 2], float)
    new = np.column_stack([old + moved, np.ones(3)])
    forth = np.linalg.solve(np.column_stack([old, np.ones(3)]), new)  # (x, y, 1) -> (x', y', 1)
    back = np.linalg.inv(forth)[:, :2]
    y, x = np.mgrid[:side, :side].astype(float)
    source = np.stack([x, y, np.ones_like(x)], -1) @ back
    warped = _read(image, source[..., 0], source[..., 1], "mirror")
    dx, dy = (ndimage.gaussian_filter(f, sigma, mode="reflect", truncate=3) * alpha for f in field)
    return _read(warped, x + dx, y + dy, "reflect")


def _read(image: np.ndarray, x: np.ndarray, y: np.ndarray, mode: str) -> np.ndarray:
    channels = [ndimage.map_coordinates(image[..., c], [y, x], order=1, mode=mode) for c in range(image.shape[2])]
    return np.stack(channels, -1)
