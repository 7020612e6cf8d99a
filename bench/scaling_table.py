"""Table and plots of bench/scaling.sh: scaling_table.py FOLDER AXES.  Writes FOLDER/scaling.svg, prints the table."""

import json
import math
import pathlib
import sys

PANEL, GAP, LEFT, TOP = (300, 170), (70, 70), 60, 40
UNITS = {"sequence": "tokens", "batch": "sequences of 128", "rank": "", "threads": "", "layers": ""}


def cells(folder, axis):
    """[(value, result)] of an axis, ascending: of each value the round with the fastest step."""
    found = {}
    for path in sorted(folder.glob(f"{axis}-*.json")):
        value, run = int(path.stem.split("-")[1]), json.loads(path.read_text())
        run["cell_seconds"] = int(path.with_suffix(".seconds").read_text())
        if value not in found or run["fastest_step"] < found[value]["fastest_step"]:
            found[value] = run
    return sorted(found.items())


def speed(run):
    return run["seq"] * run["batch"] * run["accumulation"] / run["fastest_step"]


def weighted_fit(rows, weights):
    """a, b with the least sum of weight (a u + b v - 1)^2."""
    uu = sum(w * u * u for w, (u, _) in zip(weights, rows))
    uv = sum(w * u * v for w, (u, v) in zip(weights, rows))
    vv = sum(w * v * v for w, (_, v) in zip(weights, rows))
    u1 = sum(w * u for w, (u, _) in zip(weights, rows))
    v1 = sum(w * v for w, (_, v) in zip(weights, rows))
    determinant = uu * vv - uv * uv
    return (u1 * vv - v1 * uv) / determinant, (v1 * uu - u1 * uv) / determinant


def fit(points):
    """a, b of seconds = a T + b T S for (S, seconds) with T = S, with the smallest largest relative error: least
    squares whose weights grow where the error is large (Lawson's algorithm)."""
    # Divided by the seconds, each point asks for a u + b v = 1.
    rows = [(s / t, s * s / t) for s, t in points]
    weights = [1 / len(rows)] * len(rows)
    for _ in range(1000):
        a, b = weighted_fit(rows, weights)
        weights = [w * abs(a * u + b * v - 1) for w, (u, v) in zip(weights, rows)]
        total = sum(weights)
        if total < 1e-12:
            break
        weights = [w / total for w in weights]
    return a, b


def print_axis(axis, found):
    print(f"| {axis} | tokens/s | seconds a step | the whole cell, s | peak MiB | plan |")
    print("|---:|---:|---:|---:|---:|---:|")
    for value, run in found:
        memory = run["memory"]
        print(
            f"| {value} | {speed(run):.0f} | {run['fastest_step']:.3f} | {run['cell_seconds']} "
            f"| {memory['measured_peak'] / 2**20:.0f} | {memory['difference_percent']:+.1f} % |"
        )
    print()


def print_fit(found):
    points = [(value, run["fastest_step"]) for value, run in found]
    a, b = fit(points)
    print(f"Seconds = a·T + b·T·sequence with a = {a * 1e3:.3f} ms and b = {b * 1e9:.1f} ns:\n")
    print("| sequence | measured | by the formula | apart |")
    print("|---:|---:|---:|---:|")
    for s, seconds in points:
        formula = a * s + b * s * s
        print(f"| {s} | {seconds:.3f} | {formula:.3f} | {100 * (formula / seconds - 1):+.1f} % |")
    print()


def panel(axis, found, index):
    """One plot: tokens/s over the value, both logarithmic in the value and linear from 0 in speed."""
    width, height = PANEL
    x0 = LEFT + index % 2 * (width + GAP[0])
    y0 = TOP + index // 2 * (height + GAP[1])
    top = max(speed(run) for _, run in found) * 1.1
    low, high = math.log2(found[0][0]), math.log2(found[-1][0])
    place = [
        (
            x0 + (math.log2(value) - low) / max(high - low, 1e-9) * width,
            y0 + height - speed(run) / top * height,
            value,
            speed(run),
        )
        for value, run in found
    ]
    unit = f" ({UNITS[axis]})" if UNITS[axis] else ""
    parts = [
        f'<text x="{x0 + width / 2}" y="{y0 - 12}" class="title">tokens/s over {axis}{unit}</text>',
        f'<path d="M{x0} {y0}V{y0 + height}H{x0 + width}" class="axis"/>',
        '<polyline points="' + " ".join(f"{x:.1f},{y:.1f}" for x, y, _, _ in place) + '" class="line"/>',
    ]
    for x, y, value, rate in place:
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"/>')
        parts.append(f'<text x="{x:.1f}" y="{y - 8:.1f}" class="label">{rate:.0f}</text>')
        parts.append(f'<text x="{x:.1f}" y="{y0 + height + 16}" class="label">{value}</text>')
    return "\n".join(parts)


def plot(axes):
    rows = (len(axes) + 1) // 2
    width = LEFT + 2 * PANEL[0] + GAP[0] + 30
    height = TOP + rows * (PANEL[1] + GAP[1])
    style = (
        "text{font:11px sans-serif;fill:#444;text-anchor:middle}.title{font-size:13px;font-weight:bold}"
        ".axis{fill:none;stroke:#888}.line{fill:none;stroke:#2a6fb0;stroke-width:2}circle{fill:#2a6fb0}"
    )
    body = "\n".join(panel(axis, found, i) for i, (axis, found) in enumerate(axes))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">\n'
        f'<style>{style}</style>\n<rect width="100%" height="100%" fill="#fff"/>\n{body}\n</svg>\n'
    )


def main():
    folder = pathlib.Path(sys.argv[1])
    axes = [(axis, cells(folder, axis)) for axis in sys.argv[2].split()]
    axes = [(axis, found) for axis, found in axes if found]
    for axis, found in axes:
        print_axis(axis, found)
        if axis == "sequence" and len(found) > 2:
            print_fit(found)
    (folder / "scaling.svg").write_text(plot(axes))


if __name__ == "__main__":
    main()
