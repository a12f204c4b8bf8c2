"""A picture of grouped bars, as SVG: what is compared stands side by side, with its value above."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

_COLOURS = {
    "provider": "#afb8c1",
    "haproxy": "#57606a",
    "nginx": "#1a7f37",
    "bare": "#9a6700",
    "goproxy": "#0969da",
    "goproxy-2": "#54aeff",
    "litellm": "#bf8700",
}
_OTHERS = ("#8250df", "#cf222e", "#116329")
_WIDTH, _HEIGHT = 900, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 20, 60, 40
_GAP = 0.2
"""Of a group's width, between it and the next one."""

_LINES = 4


@dataclass(frozen=True)
class Chart:
    """What is shown: by group, the values of each series."""

    title: str
    unit: str
    groups: Mapping[str, Mapping[str, float]]

    def svg(self) -> str:
        """The picture."""
        series = list(dict.fromkeys(name for values in self.groups.values() for name in values))
        top = _round_up(max((value for values in self.groups.values() for value in values.values()), default=1))
        said = "; ".join(
            f"{group}: {', '.join(f'{name} {shown(value)}' for name, value in values.items())}"
            for group, values in self.groups.items()
        )
        label = quoteattr(f"{self.title}, {self.unit}. {said}")
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
            f' font-family="system-ui, sans-serif" font-size="12" role="img" aria-label={label}>',
            "<style>text { fill: #24292f; } .small { font-size: 11px; fill: #57606a; } .line { stroke: #d0d7de; }"
            " @media (prefers-color-scheme: dark) { text { fill: #e6edf3; } .small { fill: #9198a1; }"
            " .line { stroke: #3d444d; } }</style>",
            f'<text x="{_LEFT}" y="20" font-size="15">{escape(self.title)}</text>',
            *self._legend(series),
            *self._scale(top),
        ]
        for number, (group, values) in enumerate(self.groups.items()):
            parts += self._group(number, group, values, series, top)
        return "\n".join([*parts, "</svg>", ""])

    def _legend(self, series: Sequence[str]) -> list[str]:
        parts, x = [], _LEFT
        for name in series:
            parts.append(f'<rect x="{x}" y="32" width="12" height="12" fill="{_colour(name, series)}"/>')
            parts.append(f'<text x="{x + 17}" y="42">{escape(name)}</text>')
            x += 40 + 7 * len(name)
        parts.append(f'<text class="small" x="{_WIDTH - _RIGHT}" y="42" text-anchor="end">{escape(self.unit)}</text>')
        return parts

    def _scale(self, top: float) -> list[str]:
        parts = []
        for line in range(_LINES + 1):
            y = _y(top * line / _LINES, top)
            parts.append(f'<path class="line" d="M{_LEFT} {y}H{_WIDTH - _RIGHT}"/>')
            label = shown(top * line / _LINES)
            parts.append(f'<text class="small" x="{_LEFT - 6}" y="{y + 4}" text-anchor="end">{label}</text>')
        return parts

    def _group(
        self, number: int, group: str, values: Mapping[str, float], series: Sequence[str], top: float
    ) -> list[str]:
        width = (_WIDTH - _LEFT - _RIGHT) / len(self.groups)
        left = _LEFT + width * (number + _GAP / 2)
        bar = width * (1 - _GAP) / max(1, len(values))
        parts = []
        for place, (name, value) in enumerate(values.items()):
            x, y, middle = left + bar * place, _y(value, top), left + bar * (place + 0.45)
            height = round(_HEIGHT - _BOTTOM - y, 1)
            parts.append(
                f'<rect x="{x:.1f}" y="{y}" width="{bar * 0.9:.1f}" height="{height}" fill="{_colour(name, series)}"/>'
            )
            parts.append(
                f'<text class="small" x="{middle:.1f}" y="{y - 4:.1f}" text-anchor="middle">{_brief(value)}</text>'
            )
        middle = _LEFT + width * (number + 0.5)
        parts.append(f'<text x="{middle:.1f}" y="{_HEIGHT - 18}" text-anchor="middle">{escape(group)}</text>')
        return parts


def shown(value: float) -> str:
    """A number with about three digits that count."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _brief(value: float) -> str:
    """Short enough to stand above a bar."""
    if value >= 10_000:
        return f"{value / 1000:.0f}k"
    return f"{value / 1000:.1f}k" if value >= 1000 else shown(value)


def _y(value: float, top: float) -> float:
    return round(_HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * value / top, 1)


def _colour(name: str, series: Sequence[str]) -> str:
    return _COLOURS.get(name) or _OTHERS[list(series).index(name) % len(_OTHERS)]


def _round_up(value: float) -> float:
    """The next number that is round enough for a scale."""
    power = 1.0
    while power * 10 <= value:
        power *= 10
    while power > value:
        power /= 10
    return next((step * power for step in (1, 2, 4, 6, 8, 10) if step * power >= value), 10 * power)
