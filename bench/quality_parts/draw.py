"""The front as a picture: bytes read a token against perplexity."""
import math


class Axis:
    """From values to places in the picture, with round ticks."""

    def __init__(self, values, begin, end):
        low, high = min(values), max(values)
        room = 0.08 * (high - low or abs(high) or 1)
        self.low, self.high, self.begin, self.end = low - room, high + room, begin, end

    def at(self, v):
        return self.begin + (v - self.low) / (self.high - self.low) * (self.end - self.begin)

    def ticks(self):
        raw = (self.high - self.low) / 6
        unit = 10 ** math.floor(math.log10(raw))
        step = next(m * unit for m in (1, 2, 5, 10) if m * unit >= raw)
        return [i * step for i in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]


TARGET, MOST_SHOWN = 0.5, 4.0  # per cent of perplexity: the bar, and the top of the picture

STYLE = """text{font:12px sans-serif;fill:#333}.axis{stroke:#888;stroke-width:1}.grid{stroke:#e5e5e5;stroke-width:1}
.bar{stroke:#2ca02c;stroke-width:1.5;stroke-dasharray:6 4}.line{fill:none;stroke-width:1.5;opacity:.6}"""


def tick_text(v):
    return f"{v:.6g}"


def svg_axes(x, y, width, height):
    out = []
    for v in x.ticks():
        out.append(f'<line class="grid" x1="{x.at(v):.1f}" x2="{x.at(v):.1f}" y1="{y.end}" y2="{y.begin}"/>'
                   f'<text x="{x.at(v):.1f}" y="{y.begin + 18}" text-anchor="middle">{tick_text(v)}</text>')
    for v in y.ticks():
        out.append(f'<line class="grid" x1="{x.begin}" x2="{x.end}" y1="{y.at(v):.1f}" y2="{y.at(v):.1f}"/>'
                   f'<text x="{x.begin - 8}" y="{y.at(v) + 4:.1f}" text-anchor="end">{tick_text(v)}</text>')
    out.append(f'<path class="axis" fill="none" d="M{x.begin} {y.end}V{y.begin}H{x.end}"/>'
               f'<text x="{(x.begin + x.end) / 2}" y="{height - 10}" text-anchor="middle">KiB of experts read a token</text>'
               f'<text transform="translate(16 {(y.begin + y.end) / 2}) rotate(-90)" text-anchor="middle">perplexity, % above the model before</text>')
    return out


def svg_target(half, x, y):
    """Half the bytes, at no more than TARGET % more perplexity: the corner to be reached."""
    top, left, right = y.at(TARGET), x.begin, x.at(half)
    return [f'<rect x="{left}" y="{top:.1f}" width="{right - left:.1f}" height="{y.begin - top:.1f}" fill="#2ca02c" '
            f'fill-opacity=".08"/><path class="bar" fill="none" d="M{left} {top:.1f}H{right:.1f}V{y.begin}"/>'
            f'<text x="{left + 6}" y="{top - 6:.1f}" style="fill:#2ca02c">target: half the bytes, +{TARGET} %</text>']


def svg_point(px, py, colour, beyond):
    """A dot; an arrow where the value lies beyond the picture."""
    if beyond:
        return f'<path fill="{colour}" d="M{px - 5:.1f} {py + 6:.1f}L{px:.1f} {py - 4:.1f}L{px + 5:.1f} {py + 6:.1f}Z"/>'
    return f'<circle cx="{px:.1f}" cy="{py:.1f}" r="4" fill="{colour}"/>'


def svg_series(series, x, y):
    out = []
    for i, (name, colour, points) in enumerate(series):
        shown_at = [(x.at(kib), y.at(min(more, MOST_SHOWN))) for _, kib, more in points]
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in shown_at)
        out.append(f'<polyline class="line" stroke="{colour}" points="{path}"/>')
        last = max(k for k, (_, _, more) in enumerate(points) if more <= MOST_SHOWN)
        for k, ((label, _, more), (px, py)) in enumerate(zip(points, shown_at)):
            out.append(svg_point(px, py, colour, more > MOST_SHOWN))
            if k in (0, last): # where others lie, too, all labels would hide each other
                out.append(f'<text x="{px + 7:.1f}" y="{py - 6:.1f}" style="fill:{colour}">{label}</text>')
        out.append(f'<circle cx="{x.end - 400}" cy="{y.end + 32 + 18 * i}" r="4" fill="{colour}"/>'
                   f'<text x="{x.end - 390}" y="{y.end + 36 + 18 * i}">{name}</text>')
    return out


def svg(series):
    """Perplexity as per cent above that of the model before. The first and the last value of a preference are named."""
    width, height = 820, 480
    _, base_kib, base_ppl = series[0][2][0]
    series = [(name, colour, [(label, kib, 100 * (ppl / base_ppl - 1)) for label, kib, ppl in points])
              for name, colour, points in series]
    points = [p for s in series for p in s[2]]
    xs = [p[1] for p in points] + [base_kib / 2]
    ys = [min(p[2], MOST_SHOWN) for p in points] + [TARGET, MOST_SHOWN]
    x, y = Axis(xs, 80, width - 20), Axis(ys, height - 56, 20)
    body = svg_axes(x, y, width, height) + svg_target(base_kib / 2, x, y) + svg_series(series, x, y)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
            f"<style>{STYLE}</style>" f'<rect width="100%" height="100%" fill="#fff"/>' + "\n".join(body) + "</svg>")


