"""The light of one picture: time of day, sun, sky, and weather."""

from __future__ import annotations

import dataclasses

import numpy as np

TIMES = ("day", "overcast", "golden", "dusk", "night")
WEATHERS = ("clear", "fog", "rain", "snow")


@dataclasses.dataclass(frozen=True)
class Light:
    """What lights a picture. Colours are RGB factors of a surface's own colour, or RGB in 0 … 255.

    Attributes:
      time: One of TIMES.
      weather: One of WEATHERS.
      to_sun: (3,) unit vector towards the sun.
      sun: (3,) factor of surfaces that face the sun.
      ambient: (3,) factor of all surfaces.
      flood: (3,) factor of the lamps at the landmark's foot.
      glow: How bright the lit windows are, 0 … 1.
      zenith: (3,) colour of the sky overhead.
      horizon: (3,) colour of the sky at the horizon.
    """

    time: str
    weather: str
    to_sun: np.ndarray
    sun: np.ndarray
    ambient: np.ndarray
    flood: np.ndarray
    glow: float
    zenith: np.ndarray
    horizon: np.ndarray

    @property
    def flat(self) -> np.ndarray:
        """(3,) factor of things that are drawn without a direction of their own."""
        return self.ambient + 0.45 * self.sun

    def shade(self, normals: np.ndarray) -> np.ndarray:
        """(F, 3) factors of faces with normals (F, 3)."""
        up = 0.82 + 0.18 * normals[:, 1:2]
        facing = np.clip(normals @ self.to_sun, 0, None)[:, None]
        # A little of the direction stays in diffuse light, so that edges never vanish.
        side = 1 + 0.1 * (normals @ np.array([0.6, 0.0, 0.35]))[:, None]
        return (
            self.ambient * up + self.flood * (1 - 0.5 * np.abs(normals[:, 1:2]))
        ) * side + self.sun * facing

    @classmethod
    def random(cls, rng: np.random.Generator) -> Light:
        time = str(rng.choice(TIMES, p=(0.58, 0.19, 0.11, 0.07, 0.05)))
        weather = str(rng.choice(WEATHERS, p=(0.82, 0.06, 0.06, 0.06)))
        if weather != "clear" and time in ("day", "golden"):
            time = "overcast"
        around = rng.uniform(-1.6, 1.6)  # rarely behind the landmark, whose front would be black
        height = rng.uniform(0.1, 0.35) if time == "golden" else rng.uniform(0.35, 1.1)
        to_sun = np.array(
            [np.sin(around) * np.cos(height), np.sin(height), np.cos(around) * np.cos(height)]
        )
        sun, ambient, zenith, horizon = (np.array(c, float) for c in _COLOURS[time])
        flood = np.zeros(3)
        if time in ("dusk", "night"):
            lamps = np.array(
                [[1.0, 0.72, 0.4], [0.9, 0.9, 0.95], [1.0, 0.62, 0.4], [0.6, 0.72, 1.0]]
            )
            flood = lamps[rng.choice(4, p=(0.5, 0.25, 0.15, 0.1))] * rng.uniform(
                0.1, 0.3 if time == "dusk" else 0.85
            )
        tint = rng.normal(1, 0.05, 3)
        return cls(
            time=time,
            weather=weather,
            to_sun=to_sun,
            sun=sun * rng.uniform(0.75, 1.15),
            ambient=ambient * rng.uniform(0.85, 1.15),
            flood=flood,
            glow={"day": 0.0, "overcast": 0.0, "golden": 0.1, "dusk": 0.85, "night": 1.0}[time],
            zenith=np.clip(zenith * tint, 0, 255),
            horizon=np.clip(horizon * tint, 0, 255),
        )


# sun, ambient, zenith, horizon
_COLOURS = {
    "day": ((0.72, 0.68, 0.6), (0.48, 0.51, 0.56), (84, 134, 200), (196, 214, 230)),
    "overcast": ((0.1, 0.1, 0.1), (0.74, 0.76, 0.8), (170, 176, 186), (216, 218, 222)),
    "golden": ((0.95, 0.62, 0.3), (0.42, 0.38, 0.44), (112, 130, 176), (250, 196, 130)),
    "dusk": ((0.06, 0.03, 0.06), (0.34, 0.34, 0.5), (36, 46, 98), (206, 134, 112)),
    "night": ((0.0, 0.0, 0.0), (0.15, 0.16, 0.24), (10, 12, 30), (40, 38, 56)),
}
