"""People, vehicles and things drawn with cairo, side on, their feet at the origin and facing right."""

import math
from collections.abc import Callable
from random import Random

import cairo

from simulator.world import Sighting

RGB = tuple[float, float, float]
PAINT: dict[str, RGB] = {
    "red": (0.80, 0.12, 0.12),
    "blue": (0.12, 0.28, 0.82),
    "green": (0.10, 0.56, 0.24),
    "yellow": (0.95, 0.80, 0.12),
    "white": (0.95, 0.95, 0.95),
    "black": (0.09, 0.09, 0.11),
}
GLASS: RGB = (0.55, 0.70, 0.80)
RUBBER: RGB = (0.08, 0.08, 0.08)


def draw(ctx: cairo.Context, s: Sighting, light: float) -> None:
    """Draw one object where it stands; headlights burn at dusk."""
    r = Random(s.id)
    shade = r.uniform(0.92, 1.06)
    red, green, blue = (min(1.0, c * shade + r.uniform(0, 0.03)) for c in PAINT.get(s.colour, (0.45, 0.3, 0.18)))
    ctx.save()
    ctx.translate(s.x, s.y)
    ctx.scale(s.scale * (s.heading or 1), s.scale)
    _shadow(ctx, s.kind)
    SPRITES[s.kind](ctx, (red, green, blue), s.x / s.scale if s.moving else 0.0, r)
    if light < 0.75 and s.kind in ("car", "truck"):
        _headlight(ctx, 72 if s.kind == "car" else 113, -22)
    ctx.restore()


def _shadow(ctx: cairo.Context, kind: str) -> None:
    half = {"person": 20, "car": 76, "truck": 116, "bicycle": 48, "bag": 20, "box": 24}[kind]
    ctx.save()
    ctx.scale(half, 5)
    ctx.arc(0, 0, 1, 0, 2 * math.pi)
    ctx.restore()
    ctx.set_source_rgba(0, 0, 0, 0.35)
    ctx.fill()


def _rounded(ctx: cairo.Context, x: float, y: float, w: float, h: float, radius: float) -> None:
    ctx.new_sub_path()
    ctx.arc(x + w - radius, y + radius, radius, -math.pi / 2, 0)
    ctx.arc(x + w - radius, y + h - radius, radius, 0, math.pi / 2)
    ctx.arc(x + radius, y + h - radius, radius, math.pi / 2, math.pi)
    ctx.arc(x + radius, y + radius, radius, math.pi, 1.5 * math.pi)
    ctx.close_path()


def _fill(ctx: cairo.Context, colour: RGB, outline: bool = True) -> None:
    ctx.set_source_rgb(*colour)
    if not outline:
        ctx.fill()
        return
    ctx.fill_preserve()
    ctx.set_source_rgba(0, 0, 0, 0.55)
    ctx.set_line_width(1.2)
    ctx.stroke()


def _wheel(ctx: cairo.Context, x: float, radius: float) -> None:
    ctx.arc(x, -radius, radius, 0, 2 * math.pi)
    _fill(ctx, RUBBER, outline=False)
    ctx.arc(x, -radius, radius * 0.5, 0, 2 * math.pi)
    _fill(ctx, (0.7, 0.7, 0.72), outline=False)


def _headlight(ctx: cairo.Context, x: float, y: float) -> None:
    glow = cairo.RadialGradient(x, y, 1, x + 18, y, 40)
    glow.add_color_stop_rgba(0, 1, 0.97, 0.75, 0.95)
    glow.add_color_stop_rgba(1, 1, 0.95, 0.6, 0)
    ctx.set_source(glow)
    ctx.arc(x + 18, y, 40, 0, 2 * math.pi)
    ctx.fill()


def _car(ctx: cairo.Context, colour: RGB, _step: float, _r: Random) -> None:
    ctx.move_to(-74, -12)
    for x, y in ((-74, -32), (-52, -36), (-34, -57), (16, -57), (38, -36), (70, -31), (75, -22), (75, -12)):
        ctx.line_to(x, y)
    ctx.close_path()
    _fill(ctx, colour)
    for window in (((-45, -36), (-31, -53), (-10, -53), (-10, -36)), ((-5, -36), (-5, -53), (13, -53), (30, -36))):
        ctx.move_to(*window[0])
        for point in window[1:]:
            ctx.line_to(*point)
        ctx.close_path()
        _fill(ctx, GLASS, outline=False)
    ctx.rectangle(68, -30, 7, 7)
    _fill(ctx, (1.0, 0.95, 0.6), outline=False)
    ctx.rectangle(-75, -31, 5, 8)
    _fill(ctx, (0.7, 0.05, 0.05), outline=False)
    for x in (-44, 44):
        _wheel(ctx, x, 14)


def _truck(ctx: cairo.Context, colour: RGB, _step: float, _r: Random) -> None:
    _rounded(ctx, -115, -104, 160, 88, 4)
    _fill(ctx, colour)
    ctx.set_source_rgba(0, 0, 0, 0.18)
    for x in range(-95, 40, 22):
        ctx.rectangle(x, -102, 2, 84)
    ctx.fill()
    ctx.move_to(50, -14)
    for x, y in ((50, -80), (88, -80), (108, -46), (115, -42), (115, -14)):
        ctx.line_to(x, y)
    ctx.close_path()
    _fill(ctx, (colour[0] * 0.85, colour[1] * 0.85, colour[2] * 0.85))
    ctx.move_to(72, -48)
    for x, y in ((72, -74), (86, -74), (101, -48)):
        ctx.line_to(x, y)
    ctx.close_path()
    _fill(ctx, GLASS, outline=False)
    ctx.rectangle(108, -34, 7, 9)
    _fill(ctx, (1.0, 0.95, 0.6), outline=False)
    ctx.rectangle(-115, -18, 230, 6)
    _fill(ctx, (0.2, 0.2, 0.22), outline=False)
    for x in (-88, -58, 82):
        _wheel(ctx, x, 16)


def _limb(ctx: cairo.Context, points: tuple[tuple[float, float], ...], width: float, colour: RGB) -> None:
    ctx.set_line_cap(cairo.LINE_CAP_ROUND)
    ctx.set_line_join(cairo.LINE_JOIN_ROUND)
    ctx.move_to(*points[0])
    for point in points[1:]:
        ctx.line_to(*point)
    ctx.set_line_width(width)
    ctx.set_source_rgb(*colour)
    ctx.stroke()


def _head(ctx: cairo.Context, x: float, y: float, r: Random) -> None:
    skin = r.choice(((0.94, 0.78, 0.66), (0.80, 0.60, 0.45), (0.50, 0.34, 0.24)))
    hair = r.choice(((0.15, 0.10, 0.08), (0.35, 0.22, 0.10), (0.75, 0.62, 0.35), (0.55, 0.55, 0.55)))
    ctx.arc(x, y, 10, 0, 2 * math.pi)
    _fill(ctx, skin, outline=False)
    ctx.arc(x - 2, y - 2, 10, 0.75 * math.pi, 1.85 * math.pi)
    _fill(ctx, hair, outline=False)
    ctx.arc(x + 10, y + 1, 2.2, 0, 2 * math.pi)  # the nose says which way they look
    _fill(ctx, skin, outline=False)
    ctx.arc(x + 5, y - 1, 1.4, 0, 2 * math.pi)
    _fill(ctx, (0, 0, 0), outline=False)


def _person(ctx: cairo.Context, colour: RGB, step: float, r: Random) -> None:
    trousers = r.choice(((0.22, 0.24, 0.32), (0.35, 0.30, 0.25), (0.30, 0.30, 0.30)))
    swing = 13 * math.sin(step / 11)
    for side in (1, -1):
        _limb(ctx, ((0, -46), (side * swing * 0.6 + 3, -24), (side * swing, -3), (side * swing + 7, -2)), 9, trousers)
    dark = (colour[0] * 0.75, colour[1] * 0.75, colour[2] * 0.75)
    _limb(ctx, ((0, -76), (-swing * 0.7, -62), (-swing + 4, -48)), 8, dark)
    _rounded(ctx, -15, -84, 30, 44, 9)
    _fill(ctx, colour)
    _limb(ctx, ((1, -76), (swing * 0.7 + 2, -62), (swing + 8, -50)), 8, dark)
    _head(ctx, 2, -95, r)


def _bicycle(ctx: cairo.Context, colour: RGB, step: float, r: Random) -> None:
    for x in (-28, 28):
        ctx.arc(x, -19, 18, 0, 2 * math.pi)
        ctx.set_source_rgb(*RUBBER)
        ctx.set_line_width(4)
        ctx.stroke()
    _limb(ctx, ((-28, -19), (-6, -22), (16, -46), (-14, -46), (-6, -22), (-14, -46), (-28, -19)), 4, colour)
    _limb(ctx, ((28, -19), (16, -46), (14, -54), (24, -56)), 4, colour)
    turn = step / 14
    _limb(ctx, ((-13, -52), (6, -38), (-4 + 8 * math.cos(turn), -20 + 8 * math.sin(turn))), 9, (0.22, 0.24, 0.32))
    ctx.move_to(-24, -50)
    for x, y in ((-4, -48), (16, -76), (4, -88), (-8, -84)):
        ctx.line_to(x, y)
    ctx.close_path()
    _fill(ctx, colour)
    _limb(ctx, ((8, -78), (14, -64), (23, -57)), 8, colour)
    _head(ctx, 12, -94, r)


def _bag(ctx: cairo.Context, _colour: RGB, _step: float, _r: Random) -> None:
    ctx.arc(0, -24, 9, math.pi, 2 * math.pi)
    ctx.set_source_rgb(0.25, 0.05, 0.3)
    ctx.set_line_width(4)
    ctx.stroke()
    _rounded(ctx, -19, -26, 38, 26, 8)
    _fill(ctx, (0.62, 0.18, 0.68))


def _box(ctx: cairo.Context, _colour: RGB, _step: float, _r: Random) -> None:
    ctx.rectangle(-22, -38, 44, 38)
    _fill(ctx, (0.80, 0.58, 0.32))
    ctx.rectangle(-4, -38, 8, 38)
    _fill(ctx, (0.92, 0.80, 0.58), outline=False)


SPRITES: dict[str, Callable[[cairo.Context, RGB, float, Random], None]] = {
    "person": _person,
    "car": _car,
    "truck": _truck,
    "bicycle": _bicycle,
    "bag": _bag,
    "box": _box,
}
