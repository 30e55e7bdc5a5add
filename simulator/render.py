"""Turns a site and a time into a camera's picture."""

from datetime import UTC, datetime
from functools import lru_cache

import cairo
import numpy as np
from numpy.typing import NDArray

from simulator.scenes import background
from simulator.sprites import draw
from simulator.visits import HEIGHT, WIDTH
from simulator.world import Site

_EPOCH_S = 1_767_225_600  # the clock that a picture shows when no real one is given: 2026-01-01


@lru_cache(maxsize=64)
def _background(seed: int, camera: str) -> cairo.ImageSurface:
    return background(seed, camera)


@lru_cache(maxsize=1)
def _noise() -> NDArray[np.int16]:
    """Sensor noise, one field larger than a picture; each picture takes its own window of it."""
    return np.random.default_rng(0).normal(0, 4, (HEIGHT + 64, WIDTH + 64, 3)).astype(np.int16)


def render(site: Site, camera: str, t: float, *, epoch_s: float = _EPOCH_S) -> NDArray[np.uint8]:
    """Draw what `camera` sees at site time t (seconds). Returns RGB uint8 [360, 640, 3]."""
    light = site.light(t)
    surface = cairo.ImageSurface(cairo.FORMAT_RGB24, WIDTH, HEIGHT)
    ctx = cairo.Context(surface)
    ctx.set_source_surface(_background(site.seed, camera))
    ctx.paint()
    for sighting in site.sightings(camera, t):
        draw(ctx, sighting, light)
    picture = np.ndarray((HEIGHT, WIDTH, 4), np.uint8, surface.get_data())[..., 2::-1]
    shaded = picture * np.array([light, light, min(1.0, light * 1.06)], np.float32)
    window = int(t * 1000) % 4096
    dy, dx = window % 64, window // 64
    shaded += _noise()[dy : dy + HEIGHT, dx : dx + WIDTH]
    lit = np.clip(shaded, 0, 255).astype(np.uint8)
    return _overlay(lit, f"{camera.upper()}  {datetime.fromtimestamp(epoch_s + t, UTC):%Y-%m-%d %H:%M:%S}")


def _overlay(picture: NDArray[np.uint8], text: str) -> NDArray[np.uint8]:
    """Write the camera's name and clock in its corner, as cameras do."""
    strip = cairo.ImageSurface(cairo.FORMAT_RGB24, 300, 20)
    ctx = cairo.Context(strip)
    ctx.select_font_face("DejaVu Sans Mono", cairo.FONT_SLANT_NORMAL, cairo.FONT_WEIGHT_BOLD)
    ctx.set_font_size(13)
    ctx.set_source_rgb(1, 1, 1)
    ctx.move_to(6, 15)
    ctx.show_text(text)
    drawn = np.ndarray((20, 300, 4), np.uint8, strip.get_data())[..., :3]
    corner = picture[4:24, 4:304]
    np.maximum(corner // 2, drawn, out=corner)
    return picture
