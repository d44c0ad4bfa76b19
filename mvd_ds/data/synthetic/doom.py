"""A world to look at: a thing in a room of Freedoom, before a camera that moves in one of eight ways, drawn by ViZDoom.

The camera moves so that the thing's place and size in the frame follow ``motion``. What holds of the digits' poses holds here:
one frame says nothing about the motion, nor do the first and the last together. The world itself stands still; the only thing
that moves is the camera. Training clips are filmed in other maps than held-out ones.
"""

from __future__ import annotations

import atexit
import contextlib
import inspect
import itertools
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from mvd_ds.config import ConfigError
from mvd_ds.data.synthetic.motion import SIDE, Poses, draw_poses

KINDS = {
    "imp": "DoomImp",
    "demon": "Demon",
    "cacodemon": "Cacodemon",
    "knight": "HellKnight",
    "gunner": "ChaingunGuy",
    "mancubus": "Fatso",
    "revenant": "Revenant",
    "candelabra": "Candelabra",
    "torch": "RedTorch",
    "lamp": "Column",
}
"""Things before the camera, and their classes in the engine: those that find a place in less than a second on average."""
DRAWN_AS_NOISE = "Spectre"
"""A thing that is drawn as noise, another in every game."""
MAPS = {"train": range(1, 21), "val": range(21, 31)}
"""Maps of Freedoom: Phase 2 that each split is filmed in."""
PLACES = 12
"""Places of a map that are tried for a clip before the next map is taken."""
ROUNDS = 3
"""Times that each map is taken, with other places, before a clip is given up."""
HEADINGS = range(0, 360, 45)
"""Directions of a camera's line, degrees. The engine puts players on whole units only: along these the line stays straight."""
RISING_TICS = 4
"""Tics after a jump in which a player's eyes rise to their height."""
SETTLING_TICS = 20
"""Tics after a jump in which the engine does not let a player turn."""
PROBE_DISTANCE = 140.0
"""Distance, in units of the map, from which a thing is measured before it is filmed."""
STRETCH = 1.2
"""Height over width of a pixel of Doom's pictures: a vertical angle moves as many more rows."""
ASIDE, OFF_LEVEL = 0.05, 0.15
"""Farthest, in shares of the picture's height, that the middle of a thing may be seen beside the camera's line, where only half
hidden things are, and above or below it, where stairs lead."""
DARKEST = 24
"""Smallest mean of a thing's pixels, of 255; below it nobody could say what it is."""
OCCLUSION = 0.1
"""Largest difference, in shares of its height, of a thing's box from what its distance gives, before it counts as hidden."""


class Film(NamedTuple):
    """One clip: what a camera saw."""

    pixels: np.ndarray
    """uint8 (T, H, W, 3)."""
    depth: np.ndarray
    """uint8 (T, H, W), distance along the line of sight, 0 near to 255 far, in the engine's own logarithmic scale."""
    mask: np.ndarray
    """bool (T, H, W), True where the thing is."""


class Box(NamedTuple):
    """The place of a thing along a level look, in pixels: its middle, from that of the picture, and the rows that it takes."""

    right: float
    down: float
    height: float


class Stand(NamedTuple):
    """A thing that stands in the open, and a line of free floor on which a camera looks at it."""

    x: float
    y: float
    heading: float
    """Direction of the camera's look along the line, degrees."""
    box: Box
    """The thing as seen from ``PROBE_DISTANCE``."""

    def at(self, distance: float) -> tuple[float, float]:
        """Return the place on the line that is ``distance`` from the thing."""
        heading = math.radians(self.heading)
        return self.x - distance * math.cos(heading), self.y - distance * math.sin(heading)


class Studio:
    """A game of ViZDoom that films clips, one map after another.

    Args:
        size_px: side of the clips.

    Raises:
        ConfigError: if ViZDoom is not installed, or its pictures are smaller than ``size_px``.
    """

    def __init__(self, size_px: int) -> None:
        try:
            import vizdoom
        except ImportError:
            raise ConfigError(
                "synthesize --world doom needs ViZDoom: pip install 'mvd_ds[doom]', or choose --world digits"
            ) from None
        heights = (120, 240, 480)
        if size_px > heights[-1]:
            raise ConfigError(f"synthesize --world doom: size_px {size_px} is above {heights[-1]}, its largest picture")
        self.engine, self.size_px = vizdoom, size_px
        self.height = next(height for height in heights if height >= size_px)
        self.focal = self.height * 2 / 3  # 90 degrees over a width of 4/3 of the height
        self.game = self._start()

    def _start(self) -> Any:
        engine, game = self.engine, self.engine.DoomGame()
        folder = Path(inspect.getfile(engine)).parent
        game.set_doom_game_path(str(folder / "freedoom2.wad"))
        game.set_doom_scenario_path("")
        game.set_screen_resolution(getattr(engine.ScreenResolution, f"RES_{self.height * 4 // 3}X{self.height}"))
        game.set_screen_format(engine.ScreenFormat.RGB24)
        for switch in ("depth_buffer", "labels_buffer", "objects_info"):
            getattr(game, f"set_{switch}_enabled")(True)
        for part in ("hud", "weapon", "crosshair", "decals", "particles", "screen_flashes", "messages", "effects_sprites"):
            getattr(game, f"set_render_{part}")(False)
        game.set_window_visible(False)
        game.set_mode(engine.Mode.PLAYER)
        for button in (engine.Button.TURN_LEFT_RIGHT_DELTA, engine.Button.LOOK_UP_DOWN_DELTA):
            game.add_available_button(button)
        game.add_game_args("+sv_cheats 1 +cl_showsecretmessage 0 +con_midtime 0")
        game.set_episode_timeout(10**7)
        game.set_doom_map("map01")
        game.set_seed(0)
        # The engine writes its settings and an empty folder where it starts, the settings again when it ends.
        self.aside = tempfile.TemporaryDirectory()
        with contextlib.chdir(self.aside.name):
            game.set_doom_config_path(str(Path(self.aside.name) / "doom.ini"))
            game.init()
        atexit.register(self.close)
        return game

    def close(self) -> None:
        """End the game."""
        self.game.close()
        self.aside.cleanup()

    def film(self, what: int, how: int, split: str, frames: int, rng: np.random.Generator) -> Film:
        """Return a clip of a thing, filmed in a map of ``split`` at a place where nothing hides it.

        Args:
            what: index into ``KINDS``.
            how: index into ``motion.HOW``.
            split: ``train`` or ``val``.
            frames: T.
            rng: of everything random; the same one gives the same clip.

        Raises:
            RuntimeError: if no map has such a place.
        """
        kind, poses = list(KINDS.values())[what], draw_poses(how, frames, rng)
        for number in np.concatenate([rng.permutation(MAPS[split]) for _ in range(ROUNDS)]).tolist():
            for stand in self._stands(number, kind, rng):
                film = self._follow(stand, kind, poses)
                if film is not None:
                    return film
        raise RuntimeError(f"no map of {split} has room for a {kind}")

    def _stands(self, number: int, kind: str, rng: np.random.Generator) -> Iterator[Stand]:
        """Yield stands of a new thing in a map, each after the one before was cleared away."""
        self.game.set_doom_map(f"map{number:02d}")
        self.game.set_seed(int(rng.integers(2**31)))
        self.game.new_episode()
        for command in ("god", "notarget", "freeze", *(f"remove {name}" for name in (*KINDS.values(), DRAWN_AS_NOISE))):
            self.game.send_game_command(command)
        self._wait(SETTLING_TICS)
        places = [(thing.position_x, thing.position_y) for thing in self.game.get_state().objects]
        for place in rng.permutation(len(places))[:PLACES].tolist():
            thing = self._summon(kind, *places[place])
            headings = rng.permutation(HEADINGS).tolist()
            stands = (self._stand(kind, *thing, heading) for heading in headings) if thing is not None else iter(())
            yield from itertools.islice((stand for stand in stands if stand is not None), 1)
            self.game.send_game_command(f"remove {kind}")
            self._wait(1)

    def _summon(self, kind: str, x: float, y: float) -> tuple[float, float] | None:
        """Put a thing before a camera at (x, y), and return where it stands; None if there is no room."""
        if self._jump(x, y) is None:
            return None
        self.game.send_game_command(f"summon {kind}")
        self._wait(1)
        thing = next((found for found in self.game.get_state().objects if found.name == kind), None)
        return None if thing is None else (thing.position_x, thing.position_y)

    def _stand(self, kind: str, x: float, y: float, heading: float) -> Stand | None:
        """Return the stand of a thing at (x, y) if the line to it is level floor and nothing hides it, else None."""
        stand = Stand(x, y, heading, Box(0, 0, 0))
        floors = [self._jump(*stand.at(share * PROBE_DISTANCE)) for share in (0.6, 0.8, 1.0)]
        if None in floors or len(set(floors)) > 1:
            return None
        self._wait(SETTLING_TICS)
        self._look(heading, 0.0)
        box = self._box(kind)
        if box is None or abs(box.right) > ASIDE * self.height or abs(box.down) > OFF_LEVEL * self.height:
            return None
        frame = self._frame(kind)
        if frame is None or frame[0][frame[2] > 0].mean() < DARKEST:
            return None
        stand = stand._replace(box=box)
        for distance in (self._distance(stand, side) for side in SIDE):
            seen = self._box(kind) if self._jump(*stand.at(distance)) == floors[0] else None
            nearer = PROBE_DISTANCE / distance
            if seen is None or abs(seen.height - nearer * box.height) > OCCLUSION * nearer * box.height:
                return None
            if max(abs(seen.right - nearer * box.right), abs(seen.down - nearer * box.down)) > OCCLUSION * seen.height:
                return None
        return stand

    def _distance(self, stand: Stand, side: float) -> float:
        """Return from where a thing is ``side`` of the frame's height."""
        return PROBE_DISTANCE * stand.box.height / (side * self.height)

    def _follow(self, stand: Stand, kind: str, poses: Poses) -> Film | None:
        """Return the clip in which a thing takes ``poses``, or None if it is out of sight in a frame."""
        seen, before = [], None
        for x, y, side in zip(*poses, strict=True):
            distance = self._distance(stand, side)
            if distance != before:
                self._jump(*stand.at(distance))
            if before is None:
                self._wait(SETTLING_TICS)
            before = distance
            nearer = PROBE_DISTANCE / distance
            left = math.atan(((x - 0.5) * self.height - nearer * stand.box.right) / self.focal)
            up = math.atan(((y - 0.5) * self.height - nearer * stand.box.down) / (STRETCH * self.focal))
            self._look(stand.heading + math.degrees(left), math.degrees(up))
            frame = self._frame(kind)
            if frame is None:
                return None
            seen.append(frame)
        pixels, depth, mask = (np.stack(part) for part in zip(*seen, strict=True))
        return Film(self._sized(pixels), self._sized(depth[..., None])[..., 0], self._sized(255 * mask[..., None])[..., 0] > 127)

    def _frame(self, kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """Return the middle square of what the camera sees: pixels, depth, and where the thing is."""
        state = self.game.get_state()
        label = next((found for found in state.labels if found.object_name == kind), None)
        if label is None:
            return None
        left = self.height // 6
        square = slice(left, left + self.height)
        mask = (state.labels_buffer[:, square] == label.value).astype(np.uint8)
        if not mask.any():
            return None
        return state.screen_buffer[:, square].copy(), state.depth_buffer[:, square].copy(), mask

    def _sized(self, pictures: np.ndarray) -> np.ndarray:
        """Return uint8 pictures (T, H, W, C) at the size of the clips, by the mean of what falls into a pixel."""
        channels_first = torch.from_numpy(pictures).permute(0, 3, 1, 2).float()
        sized = F.interpolate(channels_first, (self.size_px, self.size_px), mode="area")
        return sized.add_(0.5).clamp_(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy()

    def _box(self, kind: str) -> Box | None:
        """Return where a thing is in the whole picture; None if it is not wholly in it."""
        label = next((found for found in self.game.get_state().labels if found.object_name == kind), None)
        if label is None or label.y <= 0 or label.y + label.height >= self.height:
            return None
        right, down = label.x + label.width / 2 - self.height * 2 / 3, label.y + label.height / 2 - self.height / 2
        return Box(right, down, label.height)

    def _jump(self, x: float, y: float) -> float | None:
        """Put the camera at (x, y) and return the height of the floor there, or None if there is no room."""
        place = round(x), round(y)
        self.game.send_game_command(f"warp {place[0]} {place[1]}")
        self._wait(RISING_TICS)
        return self._value("POSITION_Z") if (self._value("POSITION_X"), self._value("POSITION_Y")) == place else None

    def _look(self, heading: float, up: float) -> None:
        """Turn the camera to a direction, degrees; it does not turn in the ``SETTLING_TICS`` after a jump."""
        turn = (self._value("ANGLE") - heading + 180) % 360 - 180
        rise = up + self._value("PITCH")
        if abs(turn) > 0.01 or abs(rise) > 0.01:
            self.game.make_action([turn, rise], 1)

    def _value(self, name: str) -> float:
        return self.game.get_game_variable(getattr(self.engine.GameVariable, name))

    def _wait(self, tics: int) -> None:
        self.game.make_action([0, 0], tics)
