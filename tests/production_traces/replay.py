#!/usr/bin/env python3
"""Replays real production runs of 1F1B through `plumb simulate` and compares with what was measured.

Usage: replay.py PLUMB FOLDER      (FOLDER holds trace_ST.csv.gz and trace_AR.csv.gz)

The traces are those of ByteDance-Seed/StragglerAnalysis: a row an op, for some steps of every data-parallel
copy ("dp_rank") of a pipeline of four stages, one stage a rank. For every (step, dp_rank) the 1F1B schedule of
that shape is simulated, every compute op with a duration given by --op-costs, and two figures are compared:

  span    first forward's start to last backward's end over all ranks. Both lie on rank 0, which is checked, so
          no clock offset between ranks can enter.
  bubble  1 - compute time / (ranks x span), which needs durations only.

Prints Markdown. Exit code 0: the bounds below hold; 1: they don't; 2: the input is not what it should be.
"""
import collections
import csv
import gzip
import json
import os
import statistics
import subprocess
import sys
import tempfile
from typing import NamedTuple

# With every op's own duration. The measured bubble and span then differ from the predicted ones only by what the
# model leaves out, so these bound the model and not the noise of the machine.
MEAN_SPAN_ERROR_PERCENT = 0.5
BUBBLE_ERROR_POINTS = 0.5  # of every single step, not only in the mean

# The traces' clocks were aligned by their authors. A message's two ends wait for each other, so they begin
# together; were they further apart than this, the clocks could not be trusted.
CLOCK_OFFSET_NS = 10_000


class Op(NamedTuple):
    stage: int
    kind: str  # F or B
    microbatch: int

    @property
    def action(self):
        return f"{self.stage}{self.kind}{self.microbatch}"


class Span(NamedTuple):
    start_ns: int
    duration_ns: int

    @property
    def end_ns(self):
        return self.start_ns + self.duration_ns


class Pipeline:
    """What one data-parallel copy did in one step."""

    def __init__(self):
        self.compute = {}  # Op -> Span
        self.sends = {}  # the receiving Op -> Span
        self.receives = {}

    def span_ns(self):
        return max(s.end_ns for s in self.compute.values()) - min(s.start_ns for s in self.compute.values())

    def compute_ns(self):
        return sum(s.duration_ns for s in self.compute.values())


class Trace(NamedTuple):
    name: str
    ranks: int
    microbatches: int
    pipelines: dict  # (step, dp_rank) -> Pipeline

    def message_ns(self):
        """The median transfer. A receive of these traces begins when its sender is there, so it holds no waiting."""
        return round(statistics.median(s.duration_ns for p in self.pipelines.values() for s in p.receives.values()))


class Prediction(NamedTuple):
    span_ns: int
    bubble: float


class BadInput(Exception):
    pass


def read_trace(folder, name):
    pipelines = collections.defaultdict(Pipeline)
    with gzip.open(os.path.join(folder, f"trace_{name}.csv.gz"), "rt", newline="") as file:
        for row in csv.DictReader(file):
            pipeline = pipelines[int(row["step"]), int(row["dp_rank"])]
            direction, _, what = row["op"].partition("-")
            if direction not in ("forward", "backward"):
                continue  # collectives, optimizer
            # The two files give tenths of microseconds: exact in nanoseconds.
            span = Span(round(float(row["start_us"]) * 1000), round(float(row["dur_us"]) * 1000))
            stage, kind = int(row["stage"]), direction[0].upper()
            towards = 1 if kind == "F" else -1
            # A message is known by the op that waits for it; its seq_id counts microbatches.
            target, op = {
                "compute": (pipeline.compute, Op(stage, kind, int(row["mb"]))),
                "send": (pipeline.sends, Op(stage + towards, kind, int(row["seq_id"]))),
                "recv": (pipeline.receives, Op(stage, kind, int(row["seq_id"]))),
            }[what]
            if op in target:
                raise BadInput(f"trace_{name}: {what} {op.action} stands there twice in one step")
            target[op] = span
    first = next(iter(pipelines.values()))
    return Trace(name, 1 + max(op.stage for op in first.compute), 1 + max(op.microbatch for op in first.compute),
                 dict(sorted(pipelines.items())))


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise BadInput(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr}")
    return json.loads(done.stdout)


class Plumb:
    def __init__(self, binary, folder, trace):
        self.binary, self.trace = binary, trace
        self.op_costs = os.path.join(folder, "op_costs.csv")
        self.known = {}

    def shape(self):
        return "1f1b", "--ranks", str(self.trace.ranks), "--microbatches", str(self.trace.microbatches)

    def schedule(self):
        return run(self.binary, "schedule", *self.shape(), "--format", "json")["actions"]

    def simulate(self, durations, message_ns):
        """durations: Op -> nanoseconds. The costs of the command line are a fallback that no op takes."""
        lines = [f"{op.stage},{op.action},{ns}\n" for op, ns in sorted(durations.items())]
        text = "".join(["rank,action,duration_ns\n", *lines])
        if (text, message_ns) in self.known:
            return self.known[text, message_ns]
        with open(self.op_costs, "w") as file:
            file.write(text)
        report = run(self.binary, "simulate", *self.shape(), "--costs", f"forward=1s,backward=1s,p2p={message_ns}ns",
                     "--op-costs", self.op_costs, "--json")
        for rank, row in enumerate(report["ranks"]):
            if row["compute_busy_ns"] != sum(ns for op, ns in durations.items() if op.stage == rank):
                raise BadInput(f"rank {rank} computes {row['compute_busy_ns']} ns: not the durations it was given")
        prediction = Prediction(report["makespan_ns"], report["idle_share"])
        self.known[text, message_ns] = prediction
        return prediction


def complaints(trace, schedule):
    """Why the trace is not one that can be replayed, if so: every rank ran plumb's 1F1B, on clocks that agree."""
    written = {Op(rank, a[len(str(rank))], int(a[len(str(rank)) + 1:])): (rank, place)
               for rank, actions in enumerate(schedule) for place, a in enumerate(actions)}
    messages = {op for op in written if op.stage != (0 if op.kind == "F" else trace.ranks - 1)}
    offset_ns = 0
    for where, pipeline in trace.pipelines.items():
        ran = sorted(pipeline.compute, key=lambda op: (op.stage, pipeline.compute[op].start_ns))
        if ran != sorted(written, key=written.get):
            yield f"step {where[0]}, dp_rank {where[1]} did not run in the order of plumb's 1F1B"
        if not pipeline.sends.keys() == pipeline.receives.keys() == messages:
            yield f"step {where[0]}, dp_rank {where[1]} lacks a message, or has one too many"
            continue
        first = min(pipeline.compute, key=lambda op: pipeline.compute[op].start_ns)
        last = max(pipeline.compute, key=lambda op: pipeline.compute[op].end_ns)
        if first.stage != 0 or last.stage != 0:
            yield f"step {where[0]}, dp_rank {where[1]}: the span is taken on two clocks"
        offset_ns = max(offset_ns, *(abs(pipeline.sends[op].start_ns - pipeline.receives[op].start_ns) for op in messages))
    if offset_ns > CLOCK_OFFSET_NS:
        yield f"the clocks are {offset_ns} ns apart"
    print(f"- {trace.name}: {trace.ranks} ranks, {trace.microbatches} microbatches, {len(trace.pipelines)} pipelines "
          f"(steps x copies), message {trace.message_ns() / 1e6:.3f} ms, clocks within {offset_ns / 1e3:.1f} us")


def medians(trace, group):
    """Op -> the median duration of all ops that `group` maps alike, for every pipeline."""
    durations = collections.defaultdict(list)
    for (step, dp_rank), pipeline in trace.pipelines.items():
        for op, span in pipeline.compute.items():
            durations[group(step, dp_rank, op)].append(span.duration_ns)
    median = {key: round(statistics.median(values)) for key, values in durations.items()}
    return lambda step, dp_rank: {op: median[group(step, dp_rank, op)]
                                  for op in trace.pipelines[step, dp_rank].compute}


def scaled_to_step(trace, durations):
    """The same costs, times one factor a pipeline and step: how much more it computed than the costs say."""
    def scaled(step, dp_rank):
        costs = durations(step, dp_rank)
        factor = trace.pipelines[step, dp_rank].compute_ns() / sum(costs.values())
        return {op: round(ns * factor) for op, ns in costs.items()}
    return scaled


def methods(trace):
    def own(step, dp_rank):
        return {op: span.duration_ns for op, span in trace.pipelines[step, dp_rank].compute.items()}
    message_ns = trace.message_ns()
    device = medians(trace, lambda step, dp_rank, op: (dp_rank, op.stage, op.kind))
    return {
        "own, messages take no time": (own, 0),
        "own": (own, message_ns),
        "constant per (stage, op)": (medians(trace, lambda step, dp_rank, op: (op.stage, op.kind)), message_ns),
        "constant per device": (device, message_ns),
        "constant per device x one factor a step": (scaled_to_step(trace, device), message_ns),
        "constant per device and step": (
            medians(trace, lambda step, dp_rank, op: (step, dp_rank, op.stage, op.kind)), message_ns),
    }


def compare(trace, plumb):
    """Method -> [(dp_rank, error of the span in percent, error of the bubble in points)]."""
    errors = {}
    for name, (durations, message_ns) in methods(trace).items():
        errors[name] = []
        for (step, dp_rank), pipeline in trace.pipelines.items():
            predicted = plumb.simulate(durations(step, dp_rank), message_ns)
            span_ns = pipeline.span_ns()
            bubble = 1 - pipeline.compute_ns() / (trace.ranks * span_ns)
            errors[name].append((dp_rank, 100 * (predicted.span_ns / span_ns - 1), 100 * (predicted.bubble - bubble)))
    return errors


def size(values):
    return statistics.mean(map(abs, values)), max(map(abs, values)), statistics.mean(values)


def print_errors(errors_of):
    print("\n| trace | op durations | span error %: mean | max | bias | bubble error, points: mean | max | bias |"
          "\n|---|---|--:|--:|--:|--:|--:|--:|")
    for trace, errors in errors_of.items():
        for name, rows in errors.items():
            span, bubble = size([row[1] for row in rows]), size([row[2] for row in rows])
            print(f"| {trace} | {name} | {span[0]:.3f} | {span[1]:.3f} | {span[2]:+.3f} "
                  f"| {bubble[0]:.3f} | {bubble[1]:.3f} | {bubble[2]:+.3f} |")


def print_copies(traces, errors_of):
    """Where constants go wrong: a copy at a time, and how much the copy's own steps differ."""
    print("\n| trace | dp_rank | measured span, ms: mean | step to step CV % | first steps against the rest % "
          "| own: span error % | constant per device: mean, max | constant per (stage, op): mean, max |"
          "\n|---|--:|--:|--:|--:|--:|--:|--:|")
    for trace in traces:
        for copy in sorted({dp_rank for _, dp_rank in trace.pipelines}):
            steps = {step: p.span_ns() / 1e6 for (step, dp_rank), p in trace.pipelines.items() if dp_rank == copy}
            spans = list(steps.values())
            # Both runs were sampled in a few windows of steps; the first of them is the first 40 steps.
            early = [ms for step, ms in steps.items() if step < 40]
            late = [ms for step, ms in steps.items() if step >= 40]
            warm = 100 * (statistics.mean(early) / statistics.mean(late) - 1)
            of = lambda name: size([row[1] for row in errors_of[trace.name][name] if row[0] == copy])
            own, device, pooled = of("own"), of("constant per device"), of("constant per (stage, op)")
            print(f"| {trace.name} | {copy} | {statistics.mean(spans):.1f} "
                  f"| {100 * statistics.stdev(spans) / statistics.mean(spans):.2f} | {warm:+.2f} | {own[0]:.3f} "
                  f"| {device[0]:.2f}, {device[1]:.2f} | {pooled[0]:.2f}, {pooled[1]:.2f} |")


def main(binary, folder):
    errors_of, traces, broken = {}, [], []
    with tempfile.TemporaryDirectory() as scratch:
        for name in ("ST", "AR"):
            trace = read_trace(folder, name)
            plumb = Plumb(binary, scratch, trace)
            wrong = list(complaints(trace, plumb.schedule()))
            if wrong:
                raise BadInput("\n".join(f"trace_{name}: {line}" for line in wrong))
            traces.append(trace)
            errors_of[name] = compare(trace, plumb)
    print_errors(errors_of)
    print_copies(traces, errors_of)
    for name, errors in errors_of.items():
        span, bubble = size([row[1] for row in errors["own"]]), size([row[2] for row in errors["own"]])
        if not span[0] <= MEAN_SPAN_ERROR_PERCENT:
            broken.append(f"{name}: the span is off by {span[0]:.3f} % in the mean, over {MEAN_SPAN_ERROR_PERCENT} %")
        if not bubble[1] <= BUBBLE_ERROR_POINTS:
            broken.append(f"{name}: a bubble is off by {bubble[1]:.3f} points, over {BUBBLE_ERROR_POINTS}")
    for line in broken:
        print(line, file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    try:
        sys.exit(main(sys.argv[1], sys.argv[2]))
    except (BadInput, OSError, KeyError, ValueError) as error:
        print(f"replay.py: {error!r}" if isinstance(error, (KeyError, ValueError)) else f"replay.py: {error}",
              file=sys.stderr)
        sys.exit(2)
