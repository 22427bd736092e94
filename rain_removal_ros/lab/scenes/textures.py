"""Procedural textures (asphalt, brick, facades, shop fronts, ...) and the atlas that samples them without
aliasing.

Knows pictures only: not where on a street they hang. Textures are uint8 (H, W, 4): display-referred RGB and
gloss.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import ArrayLike

BAYS = 4  # facade textures show BAYS x BAYS window bays and storeys; shop fronts BAYS x 1
BAY_PIXELS = 128


def fractal_noise(rng: np.random.Generator, size: int, roughness: float = 1.2) -> np.ndarray:
    """Periodic noise with an amplitude spectrum of 1/f^roughness, float32 (size, size), mean 0, deviation
    1."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :])
    frequency[0, 0] = 1.0
    spectrum = np.fft.rfft2(rng.standard_normal((size, size))) / frequency**roughness
    spectrum[0, 0] = 0.0
    noise = np.fft.irfft2(spectrum, (size, size))
    return (noise / noise.std()).astype(np.float32)


def _with_gloss(rgb: np.ndarray, gloss: np.ndarray | float = 0.0) -> np.ndarray:
    alpha = np.broadcast_to(np.asarray(gloss, np.float32) * 255, rgb.shape[:2])[..., None]
    return np.clip(np.concatenate([rgb, alpha], axis=2) + 0.5, 0, 255).astype(np.uint8)


def _grey(level: np.ndarray, tint: tuple[float, float, float] = (1, 1, 1)) -> np.ndarray:
    return level[..., None] * np.asarray(tint, np.float32)


def _rgb(colour: tuple[float, float, float]) -> np.ndarray:
    return np.asarray(colour, np.float32)


def asphalt(rng: np.random.Generator) -> np.ndarray:
    """Speckled tarmac with cracks and patches; 8 m a tile."""
    size = 512
    level = 92 + 4 * fractal_noise(rng, size, 0.8) + 8 * rng.standard_normal((size, size)).astype(np.float32)
    cracks = np.abs(fractal_noise(rng, size, 1.7))
    level -= 26 * np.clip(1 - cracks / 0.022, 0, 1) * (fractal_noise(rng, size, 1.6) > 0.6)
    for _ in range(2):
        x, y = rng.integers(0, size - 120, 2)
        level[y : y + rng.integers(40, 120), x : x + rng.integers(30, 100)] -= rng.uniform(5, 12)
    return _with_gloss(_grey(level, (1.0, 0.995, 0.985)), 0.03)


def paving(rng: np.random.Generator) -> np.ndarray:
    """Concrete slabs with joints; 3 m a tile."""
    size, rows, columns = 512, 5, 4
    level = 150 + 6 * fractal_noise(rng, size, 1.1) + 4 * rng.standard_normal((size, size)).astype(np.float32)
    height, width = size / rows, size / columns
    for row in range(rows):
        shift = (row % 2) * width / 2
        y0, y1 = round(row * height), round((row + 1) * height)
        for column in range(columns):
            x0 = round(column * width + shift)
            columns_of_slab = np.arange(x0, x0 + round(width)) % size
            level[y0:y1, columns_of_slab] += rng.normal(0, 6)
            level[y0:y1, columns_of_slab[:3]] -= 42
        level[y0 : y0 + 3] -= 42
    return _with_gloss(_grey(level, (1.0, 0.985, 0.96)))


def brickwork(
    rng: np.random.Generator, colour: tuple[float, float, float], size: int = 512, courses: int = 128
) -> np.ndarray:
    """A wall of bricks, float32 RGB, with `courses` (a divisor of `size`) rows of them."""
    per_course, height = courses // 3, size // courses
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    course = y.astype(int) // height
    along = x * (per_course / size) + 0.5 * (course % 2)
    brick = np.floor(along).astype(int) % per_course
    shade = rng.normal(1.0, 0.11, (courses, per_course)).astype(np.float32)[course, brick]
    wall = np.asarray(colour, np.float32) * (shade * (1 + 0.05 * fractal_noise(rng, size, 1.3)))[..., None]
    joint = max(1, height // 7)
    mortar = (np.mod(y, height) < joint) | (np.mod(along, 1.0) * (size / per_course) < joint)
    wall[mortar] = 0.62 * wall[mortar] + 0.38 * _rgb((168, 160, 150))
    return wall


def plaster(rng: np.random.Generator, colour: tuple[float, float, float], size: int = 512) -> np.ndarray:
    """Weathered render, float32 RGB."""
    stains = cv2.GaussianBlur(rng.standard_normal((1, size)).astype(np.float32), (0, 0), 3)
    level = (
        1 + 0.025 * fractal_noise(rng, size, 1.6) + 0.012 * rng.standard_normal((size, size)) + 0.035 * stains
    )
    return np.asarray(colour, np.float32) * level.astype(np.float32)[..., None]


def stonework(rng: np.random.Generator, colour: tuple[float, float, float], size: int = 512) -> np.ndarray:
    """Ashlar blocks, float32 RGB."""
    wall = plaster(rng, colour, size)
    course = size // 16
    for row in range(16):
        wall[row * course : row * course + 2] *= 0.8
        for x in range((row % 2) * course, size, 2 * course):
            block = wall[row * course : (row + 1) * course, x : x + 2 * course]
            block *= rng.normal(1.0, 0.035)
            block[:, :2] *= 0.82
    return wall


def wall(
    rng: np.random.Generator, kind: str, colour: tuple[float, float, float], size: int = 512
) -> np.ndarray:
    """Float32 RGB (size, size, 3) of a wall of `kind` brick, plaster or stone."""
    return {"brick": brickwork, "plaster": plaster, "stone": stonework}[kind](rng, colour, size)


def _rectangle(picture: np.ndarray, x0: float, y0: float, x1: float, y1: float, colour: ArrayLike) -> None:
    picture[max(0, round(y0)) : max(0, round(y1)), max(0, round(x0)) : max(0, round(x1))] = colour


def _window(
    rng: np.random.Generator,
    picture: np.ndarray,
    gloss: np.ndarray,
    area: tuple[int, int, int, int],
    panes: tuple[int, int],
    frame: ArrayLike,
) -> None:
    """One window: recess shadow, frame, panes with what can be seen behind them."""
    x0, y0, x1, y1 = area
    _rectangle(picture, x0, y0, x1, y1, np.asarray(frame, np.float32) * 0.55)  # recess in its own shadow
    _rectangle(picture, x0 + 3, y0 + 4, x1, y1, frame)
    columns, rows = panes
    inside = np.float32(rng.choice([30, 38, 48, 60])) * _rgb((0.92, 1.0, 1.06))
    curtain = rng.random()
    bar = 3
    left, top, right, bottom = x0 + 6, y0 + 7, x1 - 3, y1 - 3
    ramp = np.linspace(1.25, 0.8, max(1, bottom - top), dtype=np.float32)[:, None, None]
    picture[top:bottom, left:right] = inside * ramp
    if curtain < 0.28:  # curtains at both sides
        width = (right - left) * rng.uniform(0.15, 0.3)
        cloth = np.float32(rng.choice([150, 185, 120])) * _rgb((1.0, 0.96, 0.9))
        _rectangle(picture, left, top, left + width, bottom, cloth)
        _rectangle(picture, right - width, top, right, bottom, cloth * 0.93)
    elif curtain < 0.5:  # a blind
        _rectangle(
            picture,
            left,
            top,
            right,
            top + (bottom - top) * rng.uniform(0.2, 0.8),
            _rgb((168, 165, 156)),
        )
    elif curtain < 0.56:  # a lamp is on
        picture[top:bottom, left:right] = _rgb((190, 160, 105)) * ramp
    gloss[top:bottom, left:right] = 0.75
    for column in range(1, columns):
        x = left + (right - left) * column / columns
        _rectangle(picture, x - bar / 2, top, x + bar / 2 + 1, bottom, frame)
        _rectangle(gloss, x - bar / 2, top, x + bar / 2 + 1, bottom, 0)
    for row in range(1, rows):
        y = top + (bottom - top) * row / rows
        _rectangle(picture, left, y - bar / 2, right, y + bar / 2 + 1, frame)
        _rectangle(gloss, left, y - bar / 2, right, y + bar / 2 + 1, 0)


def facade(rng: np.random.Generator, kind: str, colour: tuple[float, float, float]) -> np.ndarray:
    """BAYS x BAYS window bays on a wall of `kind` (brick, plaster, stone, or glass for a curtain wall)."""
    size = BAYS * BAY_PIXELS
    gloss = np.zeros((size, size), np.float32)
    if kind == "glass":
        picture = np.tile(_rgb(colour) * 0.5, (size, size, 1))
        for row in range(BAYS):
            for column in range(BAYS):
                x, y = column * BAY_PIXELS, row * BAY_PIXELS
                spandrel = _rgb(colour) * rng.normal(1.0, 0.03)
                _rectangle(picture, x, y + 84, x + BAY_PIXELS, y + BAY_PIXELS, spandrel)
                _window(rng, picture, gloss, (x + 2, y + 4, x + BAY_PIXELS - 2, y + 86), (2, 1), (88, 90, 94))
        return _with_gloss(picture, gloss)

    picture = wall(rng, kind, colour, size)
    light_trim = rng.random() < 0.6
    frame = (226, 224, 216) if rng.random() < 0.7 else (84, 66, 54)
    trim = _rgb((214, 208, 196)) if light_trim else _rgb(colour) * 0.75
    shutters = kind == "plaster" and rng.random() < 0.35
    shutter_colour = _rgb([(70, 92, 74), (92, 66, 52), (74, 84, 104)][rng.integers(3)])
    width = rng.uniform(0.36, 0.46) if shutters else rng.uniform(0.40, 0.62)
    height = rng.uniform(0.50, 0.66)
    panes = [(2, 1), (2, 2), (1, 2), (2, 3)][rng.integers(4)]
    surround = rng.random() < 0.55
    band = rng.random() < 0.5
    for row in range(BAYS):
        for column in range(BAYS):
            x0 = round((column + 0.5 - width / 2) * BAY_PIXELS)
            x1 = round((column + 0.5 + width / 2) * BAY_PIXELS)
            y0 = round((row + 0.17) * BAY_PIXELS)
            y1 = round((row + 0.17 + height) * BAY_PIXELS)
            if surround:
                _rectangle(picture, x0 - 8, y0 - 9, x1 + 8, y1 + 4, trim)
            else:
                _rectangle(picture, x0 - 6, y0 - 11, x1 + 6, y0, trim * 0.92)  # lintel
            _window(rng, picture, gloss, (x0, y0, x1, y1), panes, frame)
            _rectangle(picture, x0 - 9, y1, x1 + 9, y1 + 6, trim)  # sill and its shadow
            picture[y1 + 6 : y1 + 14, max(0, x0 - 7) : x1 + 9] *= 0.72
            if shutters:
                for side in (x0 - (x1 - x0) // 2 - 2, x1 + 2):
                    _rectangle(picture, side, y0, side + (x1 - x0) // 2, y1, shutter_colour)
                    for y in range(y0 + 3, y1 - 2, 5):
                        _rectangle(
                            picture, side + 3, y, side + (x1 - x0) // 2 - 3, y + 2, shutter_colour * 0.7
                        )
        if band:
            y = (row + 1) * BAY_PIXELS - 9
            _rectangle(picture, 0, y, size, y + 6, trim * 0.97)
            picture[y + 6 : y + 9] *= 0.75
    return _with_gloss(picture, gloss)


SHOP_NAMES = (
    "CAFE",
    "BAKERY",
    "BOOKS",
    "PIZZA",
    "FLOWERS",
    "OPTIK",
    "BARBER",
    "PHARMACY",
    "BIKES",
    "MARKET",
    "WINE",
)


def shop_front(rng: np.random.Generator, kind: str, colour: tuple[float, float, float]) -> np.ndarray:
    """The ground storey of a house, BAYS bays wide: shops, doors, windows, a garage."""
    width, height = BAYS * BAY_PIXELS, BAY_PIXELS
    red, green, blue = (_rgb(colour) * 0.92).tolist()
    picture = wall(rng, kind, (red, green, blue), width)[:height].copy()
    gloss = np.zeros((height, width), np.float32)
    picture[-10:] *= 0.6  # plinth
    door_bay = rng.integers(BAYS)
    shops = rng.random() < 0.6
    for bay in range(BAYS):
        x = bay * BAY_PIXELS
        paint = rng.uniform(40, 170, 3).astype(np.float32)
        if bay == door_bay:
            _rectangle(picture, x + 38, 22, x + 92, height, (206, 200, 190))
            _rectangle(picture, x + 44, 28, x + 86, height, paint * 0.7)
            for y in (56, 92):
                _rectangle(picture, x + 49, y, x + 63, y + 26, paint * 0.5)
                _rectangle(picture, x + 67, y, x + 81, y + 26, paint * 0.5)
            _rectangle(picture, x + 47, 32, x + 83, 50, (52, 58, 64))
            _rectangle(gloss, x + 47, 32, x + 83, 50, 0.7)
        elif shops:
            _rectangle(picture, x + 4, 8, x + 124, 34, paint)
            name = SHOP_NAMES[rng.integers(len(SHOP_NAMES))]
            board = picture[8:34, x + 4 : x + 124].astype(np.uint8)
            cv2.putText(board, name, (6, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.62, (235, 232, 220), 2, cv2.LINE_AA)
            picture[8:34, x + 4 : x + 124] = board
            _window(rng, picture, gloss, (x + 6, 36, x + 122, height - 18), (2, 1), paint * 0.45)
            _rectangle(picture, x + 6, height - 18, x + 122, height, paint * 0.55)
            for _ in range(9):  # things on display
                left, size = x + int(rng.integers(14, 104)), int(rng.integers(6, 15))
                top = height - 22 - int(rng.integers(size, 3 * size))
                _rectangle(picture, left, top, left + size, height - 22, rng.uniform(40, 200, 3))
        elif rng.random() < 0.2:
            _rectangle(picture, x + 10, 34, x + 118, height, paint * 0.4 + 70)
            for y in range(40, height, 14):
                _rectangle(picture, x + 10, y, x + 118, y + 2, paint * 0.3 + 40)
        else:
            _window(rng, picture, gloss, (x + 34, 30, x + 94, 98), (2, 2), (220, 218, 210))
            _rectangle(picture, x + 26, 98, x + 102, 104, (204, 198, 188))
    return _with_gloss(picture, gloss)


def roof_tiles(rng: np.random.Generator) -> np.ndarray:
    """Rows of tiles, grey, to be tinted; 4 m a tile."""
    size, rows = 256, 16
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    step = size / rows
    level = 205 - 55 * (1 - np.mod(y, step) / step) ** 3 + 14 * np.cos(x * 2 * np.pi * 20 / size)
    shade = rng.normal(1.0, 0.07, (rows, 20)).astype(np.float32)
    level *= shade[(y // step).astype(int), (x * 20 / size).astype(int)]
    return _with_gloss(_grey(level * (1 + 0.04 * fractal_noise(rng, size, 1.5))))


def grass(rng: np.random.Generator) -> np.ndarray:
    """Mown grass with bare spots; 4 m a tile."""
    noise = fractal_noise(rng, 256, 0.7)
    patches = fractal_noise(rng, 256, 1.8)[..., None]
    green = _rgb((86, 108, 52)) * (1 + 0.16 * noise[..., None])
    return _with_gloss(green + patches * _rgb((8, 3, 2)))


def foliage(rng: np.random.Generator) -> np.ndarray:
    """The clipped leaves of a hedge; 1.5 m a tile."""
    noise = fractal_noise(rng, 256, 0.55)
    return _with_gloss(_rgb((70, 98, 44)) * np.clip(1 + 0.36 * noise, 0.25, 1.9)[..., None])


def bark(rng: np.random.Generator) -> np.ndarray:
    """Furrowed bark; 1 m a tile."""
    noise = np.tile(fractal_noise(rng, 128, 0.5), (3, 1))
    furrows = cv2.GaussianBlur(noise, (0, 0), sigmaX=0.8, sigmaY=6)[128:256]
    return _with_gloss(_rgb((96, 80, 66)) * (1 + 0.8 * furrows)[..., None])


def concrete(rng: np.random.Generator) -> np.ndarray:
    """Bare concrete, nearly white, to be tinted; 4 m a tile."""
    return _with_gloss(plaster(rng, (212, 209, 202), 256))


def fence(rng: np.random.Generator) -> np.ndarray:
    """Upright boards, nearly white, to be tinted; 1.6 m a tile."""
    boards = np.repeat(rng.normal(200, 14, 12).astype(np.float32), 11)[:128]
    level = boards[None, :] * (1 + 0.05 * fractal_noise(rng, 128, 1.0))
    level[:, ::11] *= 0.4
    return _with_gloss(_grey(level))


def round_sign(text: str) -> np.ndarray:
    """A speed limit's face, filling the square."""
    picture = np.full((64, 64, 3), 245, np.uint8)
    cv2.circle(picture, (32, 32), 28, (196, 26, 30), 8, cv2.LINE_AA)
    cv2.putText(picture, text, (12, 42), cv2.FONT_HERSHEY_SIMPLEX, 1.0, (20, 20, 20), 3, cv2.LINE_AA)
    return _with_gloss(picture.astype(np.float32))


def square_sign(symbol: str) -> np.ndarray:
    """A blue or white information sign's face: `P`, or a pedestrian crossing."""
    picture = np.full((64, 64, 3), (24, 70, 165), np.uint8)
    if symbol == "P":
        cv2.putText(picture, "P", (17, 48), cv2.FONT_HERSHEY_SIMPLEX, 1.6, (240, 240, 240), 5, cv2.LINE_AA)
    else:
        cv2.fillPoly(picture, [np.array([[32, 8], [6, 56], [58, 56]])], (240, 240, 240), cv2.LINE_AA)
        cv2.line(picture, (32, 26), (32, 42), (20, 20, 20), 5, cv2.LINE_AA)
        cv2.line(picture, (32, 42), (24, 52), (20, 20, 20), 4, cv2.LINE_AA)
        cv2.line(picture, (32, 42), (40, 52), (20, 20, 20), 4, cv2.LINE_AA)
    return _with_gloss(picture.astype(np.float32))


def _halved(texture: np.ndarray, axis: int) -> np.ndarray:
    """The texture at half its size along one axis, or itself where there is but one texel."""
    if texture.shape[axis] == 1:
        return texture
    height, width = texture.shape[0] >> (axis == 0), texture.shape[1] >> (axis == 1)
    return cv2.resize(texture, (width, height), interpolation=cv2.INTER_AREA)


class TextureAtlas:
    """Every texture of a scene with its rip map: reduced separately in width and height, so that walls and
    roads seen at a grazing angle neither flicker nor blur."""

    REDUCTIONS = 8  # halvings kept in each direction

    def __init__(self) -> None:
        self._textures: list[np.ndarray] = []
        self.add(np.full((1, 1, 4), (255, 255, 255, 0), np.uint8))

    def add(self, texture: np.ndarray) -> int:
        """Take a uint8 (H, W, 4) texture (sides powers of two); gives its index."""
        self._textures.append(texture)
        return len(self._textures) - 1

    def freeze(self) -> None:
        """Compute the rip maps. Nothing can be added afterwards."""
        count, reductions = len(self._textures), self.REDUCTIONS
        self._size = np.array([t.shape[:2] for t in self._textures], np.float32)
        self._offset = np.zeros((count, reductions, reductions), np.int64)
        self._width = np.zeros((count, reductions, reductions), np.int32)
        self._height = np.zeros((count, reductions, reductions), np.int32)
        pieces, offset = [], 0
        for index, texture in enumerate(self._textures):
            for down in range(reductions):
                texture = _halved(texture, 0) if down else texture
                piece = texture
                for across in range(reductions):
                    piece = _halved(piece, 1) if across else piece
                    height, width = piece.shape[:2]
                    self._offset[index, down, across] = offset
                    self._height[index, down, across] = height
                    self._width[index, down, across] = width
                    pieces.append(piece.reshape(-1, 4))
                    offset += height * width
        self._texels = np.concatenate(pieces)

    def sample(self, texture: np.ndarray, uv: np.ndarray, footprint: np.ndarray) -> np.ndarray:
        """Float32 (N, 4), 0-1: RGB and gloss of textures (N,) at uv (N, 2), averaged over footprint (N, 2),
        in tiles.

        v runs upwards: v = 0 is the texture's lower edge."""
        size = self._size[texture]
        texels = np.maximum(footprint * size[:, ::-1], 1.0)
        level = np.clip(np.rint(np.log2(texels)), 0, self.REDUCTIONS - 1).astype(np.int32)
        across, down = level[:, 0], level[:, 1]
        width, height = self._width[texture, down, across], self._height[texture, down, across]
        offset = self._offset[texture, down, across]
        x = (uv[:, 0] - np.floor(uv[:, 0])) * width - np.float32(0.5)
        y = (1 - (uv[:, 1] - np.floor(uv[:, 1]))) * height - np.float32(0.5)
        x_floor, y_floor = np.floor(x), np.floor(y)
        fraction_x, fraction_y = (x - x_floor)[:, None], (y - y_floor)[:, None]
        x0, y0 = x_floor.astype(np.int32), y_floor.astype(np.int32)
        x1, y1 = x0 + 1, y0 + 1
        x0, x1 = np.where(x0 < 0, width - 1, x0), np.where(x1 >= width, 0, x1)
        y0, y1 = np.where(y0 < 0, height - 1, y0), np.where(y1 >= height, 0, y1)
        row0, row1 = offset + y0 * width, offset + y1 * width
        upper = self._texels[row0 + x0] * (1 - fraction_x) + self._texels[row0 + x1] * fraction_x
        lower = self._texels[row1 + x0] * (1 - fraction_x) + self._texels[row1 + x1] * fraction_x
        return (upper * (1 - fraction_y) + lower * fraction_y) * np.float32(1 / 255)
