#!/usr/bin/env python3
"""DualPipe's claims (github.com/deepseek-ai/DualPipe, README) against measurements, as Markdown.

usage: dualpipe_claims.py PLUMB --pairs FILE... --rows FILE... --timeline FILE

PAIRS: what tests/bench/cuda/pairs printed. ROWS: `plumb validate --json`, with 1f1b, zb-h1 (ZB1P) and dualpipe of equal
layers, ranks and microbatches; only what was measured is read. TIMELINE: `plumb run --schedule dualpipe --timeline`.
PLUMB says what ranks hold (`plumb run --dry-run`), which is what they allocate.
"""
import argparse
import json
import re
import statistics
import subprocess


def pairs_table(paths):
    print("| H 2048, 4,096 tokens | SMs a rank | forward + backward in turn, us | beside each other, us | of in turn | equal priorities |")
    print("|:--|--:|--:|--:|--:|--:|")
    for path in paths:
        with open(path) as file:
            text = file.read()
        for block in re.split(r"\n(?=\d+ x)", text):
            head = re.match(r"(\d+) x (\d+) SMs, (\w+)", block)
            took = dict(re.findall(r"^  (\S.*?)\s+([\d.]+) us", block, re.M))
            if not head or "two, backward first" not in took:
                continue
            turn, first, equal = (float(took[way]) for way in
                                  ("one stream, in turn", "two, backward first", "two, by layer"))
            print(f"| {head[3]}, {head[1]} ranks | {head[2]} | {turn:.0f} | {first:.0f} | {first / turn:.3f} | "
                  f"{equal / turn:.3f} |")


def in_step(path):
    """Durations of a real step's single ops and pairs, ranks apart: their stages' places in the model differ."""
    with open(path) as file:
        timeline = json.load(file)
    shares = []
    for rank in timeline["ranks"][1:-1]:
        lasts = {"F": [], "B": [], "pair": []}
        for span in rank["compute"]:
            kind = "pair" if "OVERLAP" in span["action"] else span["action"].lstrip("0123456789")[0]
            if kind in lasts:
                lasts[kind].append(span["end_ns"] - span["begin_ns"])
        middle = {kind: statistics.median(values) for kind, values in lasts.items()}
        shares.append(middle["pair"] / (middle["F"] + middle["B"]))
    return min(shares), statistics.median(shares), max(shares)


def bubble(row):
    """The formula of DualPipe's README with the durations that this very step had, in ns a rank."""
    lasts = {one["name"]: one["measured_ns"] for one in row["classes"]}
    p, f = row["ranks"], lasts["forward"]
    if row["schedule"] == "1f1b":
        return (p - 1) * (f + lasts["backward"])
    w = lasts["backward_weight"]
    if row["schedule"] == "zb-h1":  # its backward is in two halves
        return (p - 1) * (f + lasts["backward_input"] + w - 2 * w)
    return (p / 2 - 1) * (lasts["pair"] + lasts["backward"] - 3 * w)


def bubble_table(paths):
    print("| model | ranks | microbatches | 1F1B: idle a rank, ms | formula | of the step | ZB1P | formula | of the step | "
          "DualPipe | formula | of the step |")
    print("|:--|" + "--:|" * 11)
    for path in paths:
        with open(path) as file:
            rows = json.load(file)["rows"]
        for microbatches in sorted({row["microbatches"] for row in rows}):
            found = {row["schedule"]: row for row in rows if row["microbatches"] == microbatches}
            if not all(name in found for name in ("1f1b", "zb-h1", "dualpipe")):
                continue
            cells = []
            for name in ("1f1b", "zb-h1", "dualpipe"):
                measured = found[name]["measured"]
                idle = measured["idle_share"] * measured["step_time_ns"]
                cells += [f"{idle / 1e6:.1f}", f"{bubble(found[name]) / 1e6:.1f}", f"{100 * measured['idle_share']:.1f} % of {measured['step_time_ns'] / 1e6:.1f} ms"]
            row = found["dualpipe"]
            print(f"| {row['model']} | {row['ranks']} | {microbatches} | " + " | ".join(cells) + " |")


def memory_table(plumb, ranks, microbatches):
    model = f"--model mlp --hidden 2048 --layers {ranks} --sequence 4096".split()
    print("| schedule | parameters a rank | activations at most, bytes | of one stage and microbatch |")
    print("|:--|--:|--:|--:|")
    for schedule in ("1f1b", "zb1p", "dualpipe"):
        done = subprocess.run([plumb, "run", "--schedule", schedule, "--ranks", str(ranks), "--microbatches",
                               str(microbatches), *model, "--dry-run", "--json"],
                              check=True, capture_output=True, text=True)
        held = json.loads(done.stdout)["ranks"]
        # What a middle stage keeps of a microbatch: its input, and the up projection before and after GELU.
        kept = 2 * 4096 * (2048 + 2 * 4 * 2048)
        first, second = held[0]["peak_activation_bytes"], held[1]["peak_activation_bytes"]
        print(f"| {schedule} | {held[0]['parameters']} | rank 0: {first}, rank 1: {second} | "
              f"{first / kept:.2f}, {second / kept:.2f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plumb")
    parser.add_argument("--pairs", nargs="+", default=[])
    parser.add_argument("--rows", nargs="+", default=[])
    parser.add_argument("--timeline")
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--microbatches", type=int, default=20)
    o = parser.parse_args()
    pairs_table(o.pairs)
    if o.timeline:
        least, middle, most = in_step(o.timeline)
        print(f"\nIn that step a pair lasts {middle:.3f} of the single forward and backward of its rank (ranks: {least:.3f} to {most:.3f}).\n")
    bubble_table(o.rows)
    print()
    memory_table(o.plumb, o.ranks, o.microbatches)


if __name__ == "__main__":
    main()
