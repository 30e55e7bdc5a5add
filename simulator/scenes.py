"""The still backgrounds of the four cameras, each site's a little different."""

from collections.abc import Callable
from random import Random

import cairo

from simulator.visits import HEIGHT, WIDTH

RGB = tuple[float, float, float]


def background(seed: int, camera: str) -> cairo.ImageSurface:
    """Draw the empty scene of one camera of one site in full daylight."""
    surface = cairo.ImageSurface(cairo.FORMAT_RGB24, WIDTH, HEIGHT)
    ctx = cairo.Context(surface)
    SCENES[camera](ctx, Random(f"scene {seed} {camera}"))
    return surface


def _rect(ctx: cairo.Context, x: float, y: float, w: float, h: float, colour: RGB) -> None:
    ctx.rectangle(x, y, w, h)
    ctx.set_source_rgb(*colour)
    ctx.fill()


def _tint(r: Random, base: RGB, spread: float = 0.06) -> RGB:
    shift = r.uniform(-spread, spread)
    return (base[0] + shift + r.uniform(-0.02, 0.02), base[1] + shift, base[2] + shift + r.uniform(-0.02, 0.02))


def _sky(ctx: cairo.Context, r: Random, horizon: float) -> None:
    fade = cairo.LinearGradient(0, 0, 0, horizon)
    top = _tint(r, (0.55, 0.70, 0.85))
    fade.add_color_stop_rgb(0, *top)
    fade.add_color_stop_rgb(1, 0.82, 0.86, 0.88)
    ctx.rectangle(0, 0, WIDTH, horizon)
    ctx.set_source(fade)
    ctx.fill()


def _ground(ctx: cairo.Context, r: Random, top: float, colour: RGB) -> None:
    base = _tint(r, colour, 0.05)
    fade = cairo.LinearGradient(0, top, 0, HEIGHT)
    fade.add_color_stop_rgb(0, base[0] + 0.05, base[1] + 0.05, base[2] + 0.05)
    fade.add_color_stop_rgb(1, *base)
    ctx.rectangle(0, top, WIDTH, HEIGHT - top)
    ctx.set_source(fade)
    ctx.fill()


def _tree(ctx: cairo.Context, x: float, y: float, size: float, r: Random) -> None:
    _rect(ctx, x - size * 0.08, y - size * 0.5, size * 0.16, size * 0.5, (0.36, 0.26, 0.18))
    for _ in range(7):
        ctx.arc(x + r.uniform(-0.3, 0.3) * size, y - size * r.uniform(0.5, 0.95), size * r.uniform(0.16, 0.26), 0, 6.3)
        ctx.set_source_rgb(*_tint(r, (0.28, 0.42, 0.24), 0.05))
        ctx.fill()


def _dashes(ctx: cairo.Context, y: float, r: Random) -> None:
    offset = r.uniform(0, 60)
    for i in range(-1, 12):
        _rect(ctx, offset + i * 62, y, 34, 4, (0.85, 0.84, 0.78))


def _gate(ctx: cairo.Context, r: Random) -> None:
    _sky(ctx, r, 166)
    for _ in range(r.randint(2, 5)):
        _tree(ctx, r.uniform(0, WIDTH), 172, r.uniform(60, 110), r)
    _ground(ctx, r, 165, (0.44, 0.50, 0.36))
    _rect(ctx, 0, 218, WIDTH, 110, _tint(r, (0.40, 0.41, 0.43), 0.04))
    _dashes(ctx, 272, r)
    ctx.set_source_rgb(0.55, 0.57, 0.58)
    ctx.set_line_width(1.5)
    for x in range(0, WIDTH, 14):
        ctx.move_to(x, 150)
        ctx.line_to(x, 200)
    ctx.stroke()
    for y in (152, 176, 198):
        _rect(ctx, 0, y, WIDTH, 2.5, (0.50, 0.52, 0.54))
    booth = r.uniform(60, 520)
    _rect(ctx, booth, 128, 62, 86, _tint(r, (0.78, 0.74, 0.66)))
    _rect(ctx, booth - 5, 120, 72, 10, (0.35, 0.36, 0.40))
    _rect(ctx, booth + 9, 142, 44, 28, (0.50, 0.64, 0.72))
    post = booth + 80
    _rect(ctx, post, 150, 8, 66, (0.30, 0.30, 0.32))
    for i in range(6):  # the raised barrier
        _rect(ctx, post + 1 + i * 7, 142 - i * 20, 6, 20, (0.85, 0.30, 0.25) if i % 2 else (0.92, 0.92, 0.90))


def _yard(ctx: cairo.Context, r: Random) -> None:
    _sky(ctx, r, 70)
    wall = _tint(r, (0.66, 0.60, 0.54))
    _rect(ctx, 0, 56, WIDTH, 142, wall)
    _rect(ctx, 0, 50, WIDTH, 10, (0.38, 0.36, 0.36))
    for x in range(int(r.uniform(10, 60)), WIDTH, 96):
        _rect(ctx, x, 84, 46, 34, (0.46, 0.56, 0.64))
        _rect(ctx, x + 22, 84, 2, 34, (0.85, 0.85, 0.85))
    door = r.uniform(80, 480)
    _rect(ctx, door, 128, 44, 70, (0.34, 0.40, 0.44))
    _ground(ctx, r, 198, (0.46, 0.46, 0.46))
    ctx.set_source_rgb(0.86, 0.86, 0.84)
    ctx.set_line_width(3)
    for stripe in range(int(r.uniform(-60, 20)), WIDTH + 100, 92):
        ctx.move_to(stripe, 198)
        ctx.line_to(stripe - 26, 238)
    ctx.stroke()
    for _ in range(r.randint(1, 3)):
        _rect(ctx, r.uniform(20, 600), 172, 26, 28, _tint(r, (0.40, 0.44, 0.38)))


def _dock(ctx: cairo.Context, r: Random) -> None:
    wall = _tint(r, (0.56, 0.60, 0.66))
    _rect(ctx, 0, 0, WIDTH, 200, wall)
    for y in range(8, 200, 12):
        _rect(ctx, 0, y, WIDTH, 1.5, (wall[0] - 0.06, wall[1] - 0.06, wall[2] - 0.06))
    first = r.uniform(30, 70)
    for i in range(3):
        x = first + i * 190
        _rect(ctx, x - 8, 62, 136, 138, (0.30, 0.31, 0.34))
        _rect(ctx, x, 70, 120, 112, _tint(r, (0.74, 0.74, 0.72)))
        for y in range(84, 180, 16):
            _rect(ctx, x, y, 120, 2, (0.58, 0.58, 0.58))
        ctx.set_source_rgb(0.95, 0.95, 0.92)
        ctx.select_font_face("DejaVu Sans", cairo.FONT_SLANT_NORMAL, cairo.FONT_WEIGHT_BOLD)
        ctx.set_font_size(26)
        ctx.move_to(x + 50, 52)
        ctx.show_text(str(i + 1))
        _rect(ctx, x - 8, 186, 136, 14, (0.22, 0.22, 0.22))
    _ground(ctx, r, 200, (0.50, 0.49, 0.47))
    for x in range(0, WIDTH, 40):
        _rect(ctx, x, 200, 20, 6, (0.80, 0.70, 0.25))


def _lobby(ctx: cairo.Context, r: Random) -> None:
    _rect(ctx, 0, 0, WIDTH, 210, _tint(r, (0.80, 0.77, 0.70)))
    _rect(ctx, 0, 196, WIDTH, 14, (0.52, 0.42, 0.32))
    for x in (r.uniform(20, 80), r.uniform(500, 540)):
        _rect(ctx, x, 66, 76, 132, (0.45, 0.35, 0.27))
        _rect(ctx, x + 8, 76, 60, 116, (0.62, 0.72, 0.76))
    for _ in range(2):
        x = r.uniform(140, 430)
        _rect(ctx, x, 50, 60, 42, (0.95, 0.94, 0.90))
        _rect(ctx, x + 5, 55, 50, 32, _tint(r, (0.55, 0.60, 0.58), 0.12))
    base = _tint(r, (0.62, 0.60, 0.57), 0.05)
    _rect(ctx, 0, 210, WIDTH, 150, base)
    ctx.set_source_rgb(base[0] - 0.07, base[1] - 0.07, base[2] - 0.07)
    ctx.set_line_width(1.5)
    for i in range(-6, 22):
        ctx.move_to(320 + (i - 8) * 60, 210)
        ctx.line_to(320 + (i - 8) * 130, HEIGHT)
    for line in (228, 254, 292, 340):
        ctx.move_to(0, line)
        ctx.line_to(WIDTH, line)
    ctx.stroke()
    desk = r.uniform(220, 340)
    _rect(ctx, desk, 150, 130, 62, (0.48, 0.36, 0.26))
    _rect(ctx, desk - 6, 144, 142, 9, (0.34, 0.26, 0.20))
    plant = r.uniform(20, 600)
    _rect(ctx, plant - 10, 196, 20, 22, (0.62, 0.40, 0.30))
    _tree(ctx, plant, 200, 46, r)


SCENES: dict[str, Callable[[cairo.Context, Random], None]] = {"gate": _gate, "yard": _yard, "dock": _dock, "lobby": _lobby}
