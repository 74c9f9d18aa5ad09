"""Draws the runs beside this file as SVG: losses, and how far each is from the run without a pipeline."""
import json
import math
import os

FOLDER = os.path.dirname(os.path.abspath(__file__))
RUNS = (("none", "no pipeline", "#222222", 5), ("1f1b", "1F1B", "#0072b2", 3), ("zb-h1", "ZB-H1", "#e69f00", 2),
        ("dualpipe", "DualPipe", "#d55e00", 1))
LEFT, WIDTH, HEIGHT, GAP = 70, 700, 220, 60


def losses(name):
    with open(os.path.join(FOLDER, name + ".json")) as text:
        return json.load(text)["loss"]


def line(points, colour, width):
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline fill="none" stroke="{colour}" stroke-width="{width}" points="{path}"/>'


def text(x, y, words, anchor="start", colour="#222222"):
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="{colour}">{words}</text>'


def main():
    runs = {name: losses(name) for name, *_ in RUNS}
    steps = len(runs["none"])
    at = lambda step: LEFT + WIDTH * step / (steps - 1)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 20} {2 * HEIGHT + GAP + 90}" '
           'font-family="sans-serif" font-size="12">', '<rect width="100%" height="100%" fill="white"/>']

    top = 40
    highest = math.ceil(max(runs["none"]))
    loss_y = lambda loss: top + HEIGHT * (1 - loss / highest)
    out.append(text(LEFT, 22, "loss of 200 steps: four schedules, one curve"))
    for tick in range(0, highest + 1):
        out.append(f'<line x1="{LEFT}" x2="{LEFT + WIDTH}" y1="{loss_y(tick):.1f}" y2="{loss_y(tick):.1f}" stroke="#dddddd"/>')
        out.append(text(LEFT - 8, round(loss_y(tick) + 4, 1), tick, "end"))
    for k, (name, label, colour, width) in enumerate(RUNS):
        out.append(line([(at(i), loss_y(loss)) for i, loss in enumerate(runs[name])], colour, width))
        out.append(text(LEFT + WIDTH - 110, top + 20 + 18 * k, label, colour=colour))

    top = 40 + HEIGHT + GAP
    low, high = -9, -4
    difference_y = lambda d: top + HEIGHT * (high - max(low, math.log10(d) if d > 0 else low)) / (high - low)
    out.append(text(LEFT, top - 14, "distance from the run without a pipeline (differences of 0 lie on the lowest line); asked for: below 1e-5"))
    for tick in range(low, high + 1):
        y = difference_y(10.0 ** tick)
        colour = "#cc79a7" if tick == -5 else "#dddddd"
        out.append(f'<line x1="{LEFT}" x2="{LEFT + WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="{colour}"/>')
        out.append(text(LEFT - 8, round(y + 4, 1), f"1e{tick}", "end"))
    for name, label, colour, _ in RUNS[1:]:
        points = [(at(i), difference_y(abs(a - b))) for i, (a, b) in enumerate(zip(runs[name], runs["none"]))]
        out.append(line(points, colour, 1.5 if name == "dualpipe" else 3 if name == "1f1b" else 1))
    for step in range(0, steps + 1, 50):
        out.append(text(round(at(min(step, steps - 1)), 1), top + HEIGHT + 20, step or 1, "middle"))
    out.append(text(LEFT + WIDTH / 2, top + HEIGHT + 38, "step", "middle"))
    out.append("</svg>")
    print("\n".join(out))


if __name__ == "__main__":
    main()
