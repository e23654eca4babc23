"""Bar charts and lines as SVG, drawn here."""
import math

COLOURS = {"resident": "#7f7f7f", "pregate": "#2ca02c", "ondemand": "#1f77b4", "prefetch-all": "#d62728",
           "lookahead": "#9467bd", "hint": "#e377c2"}
MORE = ["#ff7f0e", "#17becf", "#8c564b", "#bcbd22", "#2ca02c", "#1f77b4"]
STYLE = """text{font:12px sans-serif;fill:#333}.axis{stroke:#888;stroke-width:1;fill:none}.grid{stroke:#e5e5e5;stroke-width:1}
.floor{stroke:#000;stroke-width:2}.sd{stroke:#000;stroke-width:1}.line{fill:none;stroke-width:1.8}.small{font-size:10px}"""


def colour_of(name, i):
    return COLOURS.get(name, MORE[i % len(MORE)])


def shown(v):
    return f"{v:.3g}" if abs(v) < 1000 else f"{v:.0f}"


class Scale:
    """Values to heights; a logarithm where `log`."""

    def __init__(self, values, begin, end, log):
        self.log, self.begin, self.end = log, begin, end
        values = [v for v in values if v is not None and (v > 0 or not log)]
        low, high = (min(values), max(values)) if values else (0.1, 1)
        self.low = 10 ** math.floor(math.log10(low)) if log else 1.12 * min(low, 0)
        self.high = high * (1.6 if log else 1.12) if high > 0 else 0
        if self.high <= self.low:
            self.high = self.low + 1

    def at(self, v):
        if self.log:
            part = math.log(max(v, self.low) / self.low) / math.log(self.high / self.low)
        else:
            part = (v - self.low) / (self.high - self.low)
        return self.begin + part * (self.end - self.begin)

    def ticks(self):
        if self.log:
            return [10 ** e for e in range(round(math.log10(self.low)), math.floor(math.log10(self.high)) + 1)]
        span = self.high - self.low
        unit = 10 ** math.floor(math.log10(span / 5))
        step = next(m * unit for m in (1, 2, 5, 10) if m * unit >= span / 6)
        return [i * step for i in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]


def frame(width, height, y, left, label):
    out = [f'<rect width="100%" height="100%" fill="#fff"/>']
    for v in y.ticks():
        out.append(f'<line class="grid" x1="{left}" x2="{width - 16}" y1="{y.at(v):.1f}" y2="{y.at(v):.1f}"/>'
                   f'<text x="{left - 8}" y="{y.at(v) + 4:.1f}" text-anchor="end">{shown(v)}</text>')
    out.append(f'<path class="axis" d="M{left} {y.end}V{y.begin}H{width - 16}"/>'
               f'<text transform="translate(16 {(y.begin + y.end) / 2}) rotate(-90)" text-anchor="middle">{label}</text>')
    return out


def legend(names, left, colours, note):
    out, x = [], left
    for name in names:
        out.append(f'<rect x="{x}" y="10" width="12" height="12" fill="{colours[name]}"/><text x="{x + 16}" y="20">{name}</text>')
        x += 30 + 7 * len(name)
    if note:
        out.append(f'<line class="floor" x1="{x}" x2="{x + 12}" y1="16" y2="16"/><text x="{x + 16}" y="20">{note}</text>')
    return out


def svg(width, height, body):
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
            f"<style>{STYLE}</style>" + "\n".join(body) + "</svg>\n")


def bar(x, w, y, cell, colour):
    """cell: value, and perhaps its deviation and its floor."""
    v, sd, floor = (list(cell) + [None, None])[:3]
    top, mid = y.at(v), x + w / 2
    out = [f'<rect x="{x:.1f}" y="{top:.1f}" width="{w:.1f}" height="{max(0, y.begin - top):.1f}" fill="{colour}"/>',
           f'<text class="small" x="{mid:.1f}" y="{top - 4:.1f}" text-anchor="middle">{shown(v)}</text>']
    if sd:
        x_sd = x + w - 3  # beside the number
        out.append(f'<line class="sd" x1="{x_sd:.1f}" x2="{x_sd:.1f}" y1="{y.at(v + sd):.1f}" y2="{y.at(max(v - sd, y.low)):.1f}"/>')
    if floor:
        out.append(f'<line class="floor" x1="{x:.1f}" x2="{x + w:.1f}" y1="{y.at(floor):.1f}" y2="{y.at(floor):.1f}"/>')
    return out


def bars(groups, names, cells, label, log=False, note="floor"):
    """cells[group, name] = (value, sd, floor), or a word (no bar)."""
    width, height, left = max(760, 90 + 36 * len(groups) * (len(names) + 1)), 360, 64
    given = [(list(c) + [None, None])[:3] for c in cells.values() if not isinstance(c, str)]
    values = [v for top, sd, floor in given for v in (top, top + (sd or 0), floor)]
    y = Scale(values, height - 40, 44, log)
    colours = {name: colour_of(name, i) for i, name in enumerate(names)}
    has_floor = any(not isinstance(c, str) and len(c) > 2 and c[2] for c in cells.values())
    body = frame(width, height, y, left, label) + legend(names, left, colours, note if has_floor else "")
    each = (width - 16 - left) / len(groups)
    w = each * 0.86 / len(names)
    for g, group in enumerate(groups):
        begin = left + g * each + each * 0.07
        body.append(f'<text x="{begin + each * 0.43:.1f}" y="{height - 20}" text-anchor="middle">{group}</text>')
        for i, name in enumerate(names):
            cell = cells.get((group, name))
            if isinstance(cell, str):
                x = begin + (i + 0.5) * w
                body.append(f'<text class="small" transform="translate({x + 4:.1f} {y.begin - 4}) rotate(-90)">{cell}</text>')
            elif cell:
                body += bar(begin + i * w + 1, w - 2, y, cell, colours[name])
    return svg(width, height, body)


def lines(series, label, x_label, log_x=True, log=False):
    """series[name] = [(x, y)]."""
    width, height, left = 640, 360, 64
    y = Scale([v for points in series.values() for _, v in points], height - 56, 44, log)
    xs = sorted({x for points in series.values() for x, _ in points})

    def at(x):
        part = xs.index(x) / max(1, len(xs) - 1) if log_x else (x - xs[0]) / max(1e-9, xs[-1] - xs[0])
        return left + 20 + part * (width - 60 - left)
    colours = {name: colour_of(name, i) for i, name in enumerate(series)}
    body = frame(width, height, y, left, label) + legend(list(series), left, colours, "")
    body += [f'<text x="{at(x):.1f}" y="{height - 38}" text-anchor="middle">{shown(x)}</text>' for x in xs]
    body.append(f'<text x="{(left + width) / 2}" y="{height - 14}" text-anchor="middle">{x_label}</text>')
    for name, points in series.items():
        path = " ".join(f"{at(x):.1f},{y.at(v):.1f}" for x, v in points)
        body.append(f'<polyline class="line" stroke="{colours[name]}" points="{path}"/>')
        body += [f'<circle cx="{at(x):.1f}" cy="{y.at(v):.1f}" r="3.5" fill="{colours[name]}"/>' for x, v in points]
    return svg(width, height, body)
