"""Draws faces and writes them as a data set in CelebA's official layout.

The faces stand in for photographs where none may be had: in the demo and in the tests. They are flat
illustrations with soft light, made to be read at 32x32 pixels as well as at CelebA's 178x218, with the
eyes about where CelebA's alignment puts them. Image `i` depends on the seed and on `i` alone.
"""

import colorsys
import contextlib
import json
import math
import multiprocessing
import os
import re
import shutil
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import repeat
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from latentfaces.common import storage
from latentfaces.common.errors import UserError
from latentfaces.common.options import Option
from latentfaces.common.progress import Progress
from latentfaces.preprocessing.sources.celeba import (
    ATTRIBUTE_FILES,
    ATTRIBUTES,
    IMAGES_FOLDER,
    PARTITION_FILES,
)

WIDTH, HEIGHT = 178, 218
CELEBA_PARTITION = (162_770, 19_867, 19_962)  # images in CelebA's partitions 0, 1 and 2
DRAWN = (
    "Bald", "Bangs", "Black_Hair", "Blond_Hair", "Brown_Hair", "Eyeglasses", "Gray_Hair", "Male", "No_Beard",
    "Pale_Skin", "Smiling", "Wavy_Hair", "Wearing_Hat", "Wearing_Lipstick",
)  # fmt: skip

_SCALE = 2  # drawn at twice the size, then averaged 2x2: soft edges
_MARK = "drawn_faces.json"
_UNFINISHED = ".img_align_celeba"
_LISTS = (ATTRIBUTE_FILES[0], PARTITION_FILES[0])
_CHUNK = 50  # images that a worker draws at a time: a quarter of a second's work

Colour = tuple[int, ...]  # red, green, blue: 0 to 255
Point = tuple[float, float]
Points = np.ndarray | Sequence[Point]  # [number, 2]: x, y

_SKINS = np.array(
    [(247, 214, 188), (237, 194, 158), (220, 170, 130), (194, 140, 99), (160, 108, 73), (118, 77, 54)], float
)
_HAIR = {
    "Black_Hair": (36, 30, 36),
    "Blond_Hair": (240, 201, 104),
    "Brown_Hair": (122, 72, 40),
    "Gray_Hair": (196, 195, 190),
    "red": (196, 82, 36),
}
_IRISES = ((88, 56, 34), (70, 120, 170), (76, 128, 84), (120, 92, 48), (90, 110, 120))
_LIPSTICKS = ((204, 22, 48), (176, 18, 84), (226, 54, 110), (146, 16, 50))
_FRAMES = ((20, 20, 24), (24, 22, 30), (54, 28, 22), (22, 32, 66), (84, 14, 26))


@dataclass(frozen=True)
class Look:
    """All that chance decides about one face, before a line of it is drawn."""

    present: frozenset[str]
    skin: Colour
    hair: Colour
    hair_style: str
    hat: str
    hat_colour: Colour
    clothes: str
    clothes_colour: Colour
    glasses: str
    frame: Colour
    tinted: bool
    iris: Colour
    lipstick: Colour
    parting: float
    sky: np.ndarray
    light: float
    yaw: float
    tilt: float
    size: float
    centre: Point


def _mix(a: Colour, b: Colour, share: float) -> Colour:
    return tuple(round(p + (q - p) * share) for p, q in zip(a, b, strict=True))


def _dark(colour: Colour, share: float) -> Colour:
    # Red falls least: shadows are warm.
    return tuple(round(c * (1 - share * fall)) for c, fall in zip(colour, (0.76, 0.88, 0.84), strict=True))


def _lit(colour: Colour, share: float) -> Colour:
    return _mix(colour, (255, 248, 232), share)


def _hsv(hue: float, saturation: float, value: float) -> Colour:
    return tuple(round(255 * c) for c in colorsys.hsv_to_rgb(hue % 1, saturation, value))


def choose_look(rng: np.random.Generator) -> Look:
    """Chooses the attributes, each by a coin of its own, and all else that varies.

    Only what cannot be seen together is exclusive: a bald head has no bangs, no waves and no hair colour, and
    other heads have one colour (a tenth are red, for which CelebA has no name). Beards, all full and with a
    moustache, and lipstick come to men and women alike; `Male` shows in jaw, brows, lashes, neck, shoulders
    and the length of the hair.
    """
    rates = {
        "Smiling": 0.5, "Eyeglasses": 0.35, "Male": 0.5, "Wearing_Lipstick": 0.4, "Wearing_Hat": 0.15,
        "No_Beard": 0.7, "Pale_Skin": 0.15, "Bald": 0.1, "Bangs": 0.4, "Wavy_Hair": 0.35,
    }  # fmt: skip
    present = {name for name, rate in rates.items() if rng.random() < rate}
    colour_name = str(rng.choice(list(_HAIR), p=(0.27, 0.25, 0.24, 0.14, 0.1)))
    if "Bald" in present:
        present -= {"Bangs", "Wavy_Hair"}
    elif colour_name != "red":
        present.add(colour_name)

    tone = rng.uniform(0, len(_SKINS) - 1)
    low = min(int(tone), len(_SKINS) - 2)
    skin = _mix(tuple(_SKINS[low]), tuple(_SKINS[low + 1]), tone - low)
    if "Pale_Skin" in present:
        skin = (255, 233, 221)
    hair = _mix(_HAIR[colour_name], (0, 0, 0), rng.uniform(0, 0.14))
    hue, saturation, value = rng.random(), rng.uniform(0.2, 0.45), rng.uniform(0.66, 0.9)
    sky = [
        _hsv(
            hue + rng.uniform(-0.07, 0.07),
            saturation + rng.uniform(-0.1, 0.1),
            value + rng.uniform(-0.1, 0.1),
        )
        for _ in range(9)
    ]
    return Look(
        present=frozenset(present),
        skin=skin,
        hair=hair,
        hair_style=str(
            rng.choice(("crop", "quiff") if "Male" in present else ("long", "long", "bob", "bun"))
        ),
        hat=str(rng.choice(("cap", "beanie", "fedora"))),
        hat_colour=_hsv(rng.random(), rng.uniform(0.55, 0.9), rng.uniform(0.45, 0.9)),
        clothes=str(rng.choice(("crew", "v", "collar"))),
        clothes_colour=_hsv(rng.random(), rng.uniform(0.2, 0.8), rng.uniform(0.3, 0.9)),
        glasses=str(rng.choice(("round", "square"))),
        frame=_FRAMES[rng.integers(len(_FRAMES))],
        tinted=bool(rng.random() < 0.3),
        iris=_IRISES[rng.integers(len(_IRISES))],
        lipstick=_LIPSTICKS[rng.integers(len(_LIPSTICKS))],
        parting=rng.uniform(-24, 24),
        sky=np.array(sky, np.uint8).reshape(3, 3, 3),
        light=float(rng.choice((-1, 1))) * rng.uniform(0.4, 1),
        yaw=rng.uniform(-6, 6),
        tilt=rng.uniform(-0.09, 0.09),
        size=rng.uniform(0.94, 1.05),
        centre=(WIDTH / 2 + rng.uniform(-3, 3), 109 + rng.uniform(-3, 3)),
    )


@lru_cache
def _spline(controls: int, closed: bool) -> np.ndarray:
    """Returns the matrix that takes `controls` points to points on a Catmull-Rom curve through them."""
    steps = 8
    t = (np.arange(steps) / steps)[:, None]
    weights = (
        np.hstack([-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2]) / 2
    )
    spans = controls if closed else controls - 1
    matrix = np.zeros((spans * steps + (not closed), controls))
    for span in range(spans):
        for k in range(4):
            at = span + k - 1
            at = at % controls if closed else min(max(at, 0), controls - 1)
            matrix[span * steps : (span + 1) * steps, at] += weights[:, k]
    if not closed:
        matrix[-1, -1] = 1
    return matrix


def _curve(points: Points, closed: bool = True) -> np.ndarray:
    return _spline(len(points), closed) @ np.asarray(points, float)


def _mirrored(half: Sequence[Point]) -> list[Point]:
    """Completes the right half of a closed outline, given from the top down, with its mirror image."""
    return [*half, *((-x, y) for x, y in reversed(half) if x > 0)]


def _oval(x: float, y: float, rx: float, ry: float) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, 33)[:-1]
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], 1)


def _wavy(points: np.ndarray) -> np.ndarray:
    """Puts round lobes on the left of a line, which is the outside of a clockwise outline."""
    distance = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
    lobes = round(distance[-1] / 25)
    turn = np.linspace(0, lobes, lobes * 8 + 1)
    x, y = (np.interp(turn / lobes * distance[-1], distance, points[:, k]) for k in (0, 1))
    outward = np.stack([np.gradient(y), -np.gradient(x)], 1)
    outward /= np.hypot(*outward.T)[:, None] + 1e-9
    return np.stack([x, y], 1) + outward * (8 * np.abs(np.sin(np.pi * turn)) - 2)[:, None]


@lru_cache
def _soft_spot() -> Image.Image:
    y, x = np.mgrid[-1:1:48j, -1:1:48j]
    return Image.fromarray((255 * np.clip(1 - x**2 - y**2, 0, 1) ** 1.5).astype(np.uint8))


class _Canvas:
    """A picture drawn in head coordinates: CelebA's pixels from between the eyes, x to the right, y down."""

    def __init__(self, look: Look) -> None:
        self.look = look
        size = (WIDTH * _SCALE, HEIGHT * _SCALE)
        self.image = Image.fromarray(look.sky).resize(size, Image.Resampling.BICUBIC, (0.5, 0.5, 2.5, 2.5))
        cos, sin = np.cos(look.tilt), np.sin(look.tilt)
        self.turn = look.size * _SCALE * np.array([[cos, sin], [-sin, cos]])
        self.origin = np.array(look.centre) * _SCALE

    def place(self, points: Points, depth: float = 0) -> np.ndarray:
        """Head coordinates to the picture's; `depth` is how far a turn of the head moves the points."""
        return (np.asarray(points, float) + (self.look.yaw * depth, 0)) @ self.turn + self.origin

    def mask(self, points: Points, depth: float = 0) -> tuple[Image.Image, tuple[int, int]]:
        placed = self.place(points, depth)
        low = np.clip(np.floor(placed.min(0)), 0, np.array(self.image.size) - 1).astype(int)
        high = np.clip(np.ceil(placed.max(0)) + 1, low + 1, self.image.size).astype(int)
        mask = Image.new("L", tuple((high - low).tolist()))
        ImageDraw.Draw(mask).polygon((placed - low).ravel().tolist(), fill=255)
        return mask, tuple(low.tolist())

    def flat(self, points: Points, colour: Colour, depth: float = 0) -> None:
        ImageDraw.Draw(self.image).polygon(self.place(points, depth).ravel().tolist(), fill=colour)

    def line(self, points: Points, colour: Colour, width: float, depth: float = 0) -> None:
        placed = self.place(points, depth)
        thick = width * _SCALE * self.look.size
        draw = ImageDraw.Draw(self.image)
        draw.line(placed.ravel().tolist(), fill=colour, width=round(thick), joint="curve")
        for x, y in placed[[0, -1]].tolist():
            draw.ellipse((x - thick / 2, y - thick / 2, x + thick / 2, y + thick / 2), fill=colour)

    def shaded(self, points: Points, colour: Colour, depth: float = 0, shade: float = 0.22) -> None:
        """Fills an outline as if it were round: lighter on the side the light is on and above."""
        mask, corner = self.mask(points, depth)
        tones = []
        for y in (-1, 0, 1):
            for x in (-1, 0, 1):
                light = 0.75 * x * self.look.light - 0.5 * y - 0.35 * x * x + 0.1
                tones.append(_lit(colour, shade * light) if light > 0 else _dark(colour, -shade * light))
        light_on_it = Image.fromarray(np.array(tones, np.uint8).reshape(3, 3, 3))
        self.image.paste(light_on_it.resize(mask.size, Image.Resampling.BICUBIC), corner, mask)

    def glow(self, at: Point, radii: Point, colour: Colour, strength: float, depth: float = 0) -> None:
        """Lays a spot of colour that fades outwards; `strength` is its opacity in the middle."""
        half = np.array(radii) * _SCALE * self.look.size
        spot = _soft_spot().point([round(v * strength) for v in range(256)])
        spot = spot.resize(tuple((2 * half).astype(int).tolist()), Image.Resampling.BILINEAR)
        self.image.paste(colour, tuple((self.place([at], depth)[0] - half).astype(int).tolist()), spot)


def _back_hair(c: _Canvas, look: Look) -> None:
    if "Bald" in look.present or "Male" in look.present:
        return
    if look.hair_style == "bun":
        if "Wearing_Hat" not in look.present:
            c.shaded(_oval(0, -76, 20, 17), look.hair)
        return
    foot = 104 if look.hair_style == "long" else 58
    top = (
        [(0, -50), (40, -46), (58, -26)]
        if "Wearing_Hat" in look.present
        else [(0, -74), (40, -62), (60, -28)]
    )
    outline = _curve(_mirrored(top + [(65, 20), (68, foot - 20), (56, foot), (0, foot)]))
    if "Wavy_Hair" in look.present:
        outline = _wavy(np.vstack([outline, outline[:1]]))
    c.shaded(outline, _dark(look.hair, 0.28))


def _body(c: _Canvas, look: Look) -> None:
    skin, wide, shoulder = _dark(look.skin, 0.25), *((27, 96) if "Male" in look.present else (20, 82))
    half = [(0, 80), (wide, 80), (wide + 20, 86), (shoulder, 108), (140, 180)]
    c.shaded(
        _curve([(-x, y) for x, y in half[:0:-1]] + half[1:], closed=False), look.clothes_colour, shade=0.3
    )
    c.shaded(_curve(_mirrored([(0, 40), (wide, 40), (wide + 1, 78), (wide + 8, 90), (0, 104)])), skin)
    if look.clothes == "v":
        c.flat([(-wide - 6, 84), (wide + 6, 84), (0, 118)], skin)
    elif look.clothes == "collar":
        for side in (-1, 1):
            flap = np.array([(wide - 2, 76), (wide + 18, 86), (wide + 6, 108), (2, 100)]) * (side, 1)
            c.flat(flap, _lit(look.clothes_colour, 0.55))


def _head(c: _Canvas, look: Look) -> None:
    for side in (-1, 1):
        c.shaded(_oval(side * 51, 6, 9, 15), _dark(look.skin, 0.06), -0.4)
        c.flat(_oval(side * 52, 7, 4, 9), _dark(look.skin, 0.25), -0.4)
    if "Male" in look.present:
        half = [(0, -64), (30, -56), (48, -30), (51, 4), (49, 34), (36, 58), (16, 71), (0, 73)]
    else:
        half = [(0, -64), (29, -56), (46, -31), (49, 2), (43, 32), (27, 55), (10, 67), (0, 69)]
    c.shaded(_curve(_mirrored(half)), look.skin)
    for side in (-1, 1):
        strength = 0.55 if "Smiling" in look.present else 0.35
        c.glow((side * 31, 25), (17, 14), _mix(look.skin, (226, 70, 70), 0.5), strength, 0.8)
    c.glow((0, -38), (30, 20), _lit(look.skin, 0.6), 0.35, 0.6)
    c.glow((0, 60), (14, 9), _lit(look.skin, 0.5), 0.3, 0.7)
    if "Bald" in look.present:
        c.glow((look.light * 14, -50), (22, 12), (255, 255, 255), 0.45)


def _beard(c: _Canvas, look: Look) -> None:
    if "No_Beard" in look.present:
        return
    wide = 50 if "Male" in look.present else 46
    cheek = [(0, 27), (14, 28), (27, 35), (37, 28), (44, 10)]
    jaw = [(wide, 2), (wide, 36), (36, 64), (17, 77), (0, 80)]
    c.shaded(_curve(_mirrored(cheek + jaw)), _dark(look.hair, 0.36), 0.5)


def _nose(c: _Canvas, look: Look) -> None:
    side = -1 if look.light > 0 else 1
    bridge = np.array([(4, -6), (6, 8), (12, 20), (9, 26), (0, 27), (3, 16)]) * (side, 1)
    c.flat(_curve(bridge), _dark(look.skin, 0.2), 1.3)
    c.flat(_curve([(-11, 22), (0, 24), (11, 22), (9, 27), (0, 29), (-9, 27)]), _dark(look.skin, 0.3), 1.3)
    c.glow((-side, 16), (7, 9), _lit(look.skin, 0.7), 0.6, 1.4)


def _eyes(c: _Canvas, look: Look) -> None:
    male = "Male" in look.present
    lash = (34, 20, 22)
    lid = np.array([(-13, 1), (-7, -7), (3, -9), (14, -1)])
    low = 5.5 if "Smiling" in look.present else 7
    if male:
        brow = np.array([(-15, -17), (-4, -22), (10, -23), (20, -15), (10, -16), (-3, -15), (-14, -13)])
    else:
        brow = np.array([(-14, -19), (-3, -24), (9, -24), (19, -16), (8, -20), (-3, -20), (-13, -16)])
    for side in (-1, 1):
        flip, at = (side, 1), (side * 24, 0)
        c.glow((side * 24, -1), (20, 14), _dark(look.skin, 0.4), 0.4, 1)
        c.flat(_curve(np.vstack([lid, [(7, low), (-6, low)]]) * flip + at), (252, 250, 246), 1)
        x = side * 24 + look.yaw * 0.25
        c.flat(_oval(x, -1, 7, 7), _dark(look.iris, 0.4), 1)
        c.flat(_oval(x, -0.5, 5.8, 5.8), look.iris, 1)
        c.flat(_oval(x, -1, 3.2, 3.2), (16, 12, 16), 1)
        c.flat(_oval(x - 2.5, -3.5, 2, 2), (255, 255, 255), 1)
        c.line(_curve(lid * flip + at, closed=False), lash, 2.6 if male else 3.6, 1)
        if not male:
            c.flat(_curve(np.array([(8, -7), (20, -9), (13, 0)]) * flip + at), lash, 1)
        c.flat(_curve(brow * flip + at), _mix(_dark(look.hair, 0.35), (60, 40, 34), 0.25), 0.9)


def _mouth(c: _Canvas, look: Look) -> None:
    natural = _mix(_dark(look.skin, 0.15), (196, 96, 92), 0.4)
    lips = look.lipstick if "Wearing_Lipstick" in look.present else natural
    if "Smiling" in look.present:
        c.flat(_curve(_mirrored([(0, 37), (6, 36), (25, 32), (26, 35), (19, 51), (0, 60)])), lips, 1)
        c.flat(_curve(_mirrored([(0, 41), (12, 40), (22, 37), (15, 49), (0, 55)])), (104, 22, 34), 1)
        c.flat(_curve(_mirrored([(0, 41), (12, 40), (21, 37.5), (16, 46), (0, 49)])), (255, 253, 248), 1)
        c.glow((4, 57), (8, 4), _lit(lips, 0.6), 0.6, 1)
    else:
        c.flat(_curve(_mirrored([(0, 40), (5, 38), (18, 42.5), (10, 51), (0, 53.5)])), lips, 1)
        seam = _curve([(-18, 42.5), (-7, 45), (0, 46), (7, 45), (18, 42.5)], closed=False)
        c.line(seam, _dark(lips, 0.5), 2, 1)
        c.glow((4, 50), (8, 4), _lit(lips, 0.6), 0.6, 1)


def _front_hair(c: _Canvas, look: Look) -> None:
    if "Bald" in look.present:
        return
    if "Wearing_Hat" in look.present:
        crown: list[Point] = [(-40, -50), (0, -56), (40, -50)]
    else:
        crown = [(-44, -60), (16, -82) if look.hair_style == "quiff" else (0, -76), (44, -60)]
    foot = 30 if look.hair_style in ("long", "bob") else 2
    if "Bangs" in look.present:
        line = _mirrored([(46, -8), (43, -24), (29, -20), (21, -25), (10, -20), (0, -25)])
    else:
        p = look.parting
        line = [(47, -8), (43, -32), (p / 2 + 22, -46), (p, -54), (p / 2 - 22, -46), (-43, -32), (-47, -8)]
    outer = _curve([(-53, foot), (-59, -22), *crown, (59, -22), (53, foot)], closed=False)
    inner = _curve(line, closed=False)
    if "Wavy_Hair" in look.present:
        outer = _wavy(outer)
    c.flat(np.vstack([inner + (0, 4), inner[::-1]]), _dark(look.skin, 0.3), 0.4)
    c.shaded(np.vstack([outer, inner + (look.yaw * 0.4, 0)]), look.hair)
    side = 1 if look.light > 0 else -1
    gleam = np.array([(4, -68), (28, -63), (48, -36), (34, -47), (18, -57)]) * (side, 1)
    c.flat(_curve(gleam), _lit(look.hair, 0.16), 0.2)
    if "Bangs" in look.present:
        for x in (-21, 0, 21):
            strand = _curve([(x, -25), (x * 0.9, -38), (x * 0.6, -50)], closed=False)
            c.line(strand, _dark(look.hair, 0.16), 2.4, 0.4)


def _glasses(c: _Canvas, look: Look) -> None:
    if "Eyeglasses" not in look.present:
        return
    square = np.array([(-21, -16), (0, -18), (21, -16), (20, 10), (10, 19), (-10, 19), (-20, 10)])
    for side in (-1, 1):
        x = side * 25
        if look.glasses == "round":
            rim, lens = _oval(x, 1, 22, 20), _oval(x, 1, 16, 14)
        else:
            rim, lens = _curve(square + (x, 0)), _curve(square * 0.73 + (x, 0))
        c.line([(x + side * 19, -3), (side * 54, -5)], look.frame, 5, 0.8)
        if look.tinted:
            c.flat(rim, look.frame, 1)
            c.shaded(lens, (62, 58, 66), 1, shade=0.5)
        else:
            c.flat(np.vstack([rim, rim[:1], lens[:1], lens[::-1]]), look.frame, 1)
    c.line([(-6, -2), (0, -4), (6, -2)], look.frame, 5, 1.1)


def _hat(c: _Canvas, look: Look) -> None:
    if "Wearing_Hat" not in look.present:
        return
    colour, band = look.hat_colour, _dark(look.hat_colour, 0.5)
    if look.hat == "fedora":
        crown = [(-48, -40), (-46, -72), (-20, -88), (0, -84), (20, -88), (46, -72), (48, -40)]
        c.shaded(_curve(crown, closed=False), colour)
        c.flat(_curve(_mirrored([(0, -58), (50, -50), (50, -36), (0, -44)])), band)
        c.shaded(_curve(_mirrored([(0, -50), (50, -44), (86, -30), (50, -30), (0, -34)])), colour)
        return
    if look.hat == "beanie":
        c.shaded(_oval(0, -86, 13, 12), _lit(colour, 0.5))
        edge = [(0, -58), (60, -50), (61, -30), (0, -36)]
    else:
        edge = [(0, -52), (30, -48), (58, -30), (30, -30), (0, -33)]
    dome = [(-58, -31), (-54, -60), (-30, -82), (0, -88), (30, -82), (54, -60), (58, -31)]
    c.shaded(_curve(dome, closed=False), colour)
    c.shaded(_curve(_mirrored(edge)), band)


def draw_face(rng: np.random.Generator) -> tuple[Image.Image, frozenset[str]]:
    """Draws one face.

    Args:
        rng: Decides everything about it.

    Returns:
        The picture, RGB, 178 wide and 218 high, and the names of the attributes of `DRAWN` that it shows.
    """
    look = choose_look(rng)
    canvas = _Canvas(look)
    for part in (_back_hair, _body, _head, _beard, _nose, _eyes, _mouth, _front_hair, _glasses, _hat):
        part(canvas, look)
    return canvas.image.reduce(_SCALE), look.present


def _draw_range(folder: Path, seed: int, first: int, last: int) -> list[frozenset[str]]:
    """Draws images `first` to `last`, the last included, into `folder`; returns what each shows."""
    shown = []
    for index in range(first, last + 1):
        image, present = draw_face(np.random.default_rng((seed, index)))
        image.save(folder / f"{index:06d}.jpg", quality=93)
        shown.append(present)
    return shown


def _draw_all(folder: Path, count: int, seed: int) -> list[frozenset[str]]:
    starts = range(1, count + 1, _CHUNK)
    stops = [min(start + _CHUNK - 1, count) for start in starts]
    workers = min(len(starts), os.cpu_count() or 1)
    # Started afresh, not forked: the caller may have threads.
    with _inherited_by_processes():  # a helper of the workers starts here ...
        pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))
    shown: list[frozenset[str]] = []
    try:
        with _inherited_by_processes():  # ... and they here
            parts = pool.map(_draw_range, repeat(folder), repeat(seed), starts, stops)
        with Progress("synthesize", count, "faces") as progress:
            for part in parts:
                shown += part
                progress.show(len(shown))
    finally:
        pool.shutdown(cancel_futures=True)
    return shown


@contextlib.contextmanager
def _inherited_by_processes() -> Iterator[None]:
    """Has new processes leave Ctrl-C to this one, and import nothing from the working directory."""
    path = os.environ.get("PYTHONSAFEPATH", "")
    os.environ["PYTHONSAFEPATH"] = "1"
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.environ["PYTHONSAFEPATH"] = path  # an empty one counts as none


def _claim(output: Path, mark: str) -> None:
    """Empties `output` of what this data set left there; refuses it if it holds anything else."""
    if output.exists() and not output.is_dir():
        raise UserError(f"{output} is a file: name a folder for the drawn faces")
    if output.is_dir() and any(output.iterdir()):
        if not (output / _MARK).is_file() or (output / _MARK).read_text() != mark:
            raise UserError(
                f"{output} is not empty and does not hold the drawn faces of this count and seed: "
                "name an empty folder"
            )
    storage.write(output / _MARK, mark.encode())
    for folder in (IMAGES_FOLDER, _UNFINISHED):
        if (output / folder).exists():
            shutil.rmtree(output / folder)
    for name in _LISTS:
        (output / name).unlink(missing_ok=True)


def synthesize(output: str | Path, count: int, seed: int) -> None:
    """Draws a data set in CelebA's official layout, on all cores.

    Writes `list_attr_celeba.txt`, `list_eval_partition.txt` (the images in order, in the proportions of
    CelebA's three partitions) and last, by a rename, `img_align_celeba/000001.jpg` and so on; without that
    folder the data set is not whole. `drawn_faces.json` keeps count and seed.

    Args:
        output: A local folder: new, empty, or with drawn faces of this count and seed, which are drawn again.
        count: How many images, at least 1.
        seed: Any number from 0 on. The same seed gives the same bytes; image i depends on seed and i alone.

    Raises:
        UserError: If `output` is no local folder or holds anything else, or `count` or `seed` is too small.
    """
    Option(help="", minimum=1).check("--count", count)
    Option(help="", minimum=0, maximum=math.inf).check("--seed", seed)
    if re.match("[A-Za-z][A-Za-z0-9+.-]*:/", str(output)):  # a Path has one slash of the two
        raise UserError(f"{output} is not a local folder: draw the faces into one and copy it there")
    folder = storage.resolve(Path(output))
    assert isinstance(folder, Path)
    _claim(folder, json.dumps({"count": count, "seed": seed}) + "\n")
    (folder / _UNFINISHED).mkdir()
    shown = _draw_all(folder / _UNFINISHED, count, seed)

    ends = np.round(count * np.cumsum(CELEBA_PARTITION) / sum(CELEBA_PARTITION))
    parts = np.searchsorted(ends, np.arange(count), side="right")
    labels, partition = [str(count), " ".join(ATTRIBUTES)], []
    for index, (present, part) in enumerate(zip(shown, parts, strict=True), 1):
        name = f"{index:06d}.jpg"
        labels.append(name + "".join(f" {1 if attribute in present else -1:2d}" for attribute in ATTRIBUTES))
        partition.append(f"{name} {part}")
    for file, lines in zip(_LISTS, (labels, partition), strict=True):
        storage.write(folder / file, ("\n".join(lines) + "\n").encode())
    (folder / _UNFINISHED).replace(folder / IMAGES_FOLDER)
