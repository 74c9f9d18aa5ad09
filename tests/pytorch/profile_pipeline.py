"""PyTorch profiles its own pipeline, and `plumb calibrate --kineto` reads what each stage's actions took.

Processes on the CPU (gloo) run schedules of ours under torch.profiler, which writes one trace a rank, gzipped. On a
CPU there are no kernels, so an action lasts as long as its label: the profiler's own figures, read by Python, have to
be the calibration's medians. DualPipeV has overlapped pairs, which are measured as pairs.

Usage: profile_pipeline.py PLUMB
"""

import datetime
import gzip
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import _PipelineScheduleRuntime
from torch.profiler import ProfilerActivity, profile

RANKS = 2
MICROBATCHES = 6
STEPS = 2
WIDTH = 64
SCHEDULES = {"zb-v": [[0, 3], [1, 2]], "dualpipe-v": [[0, 3], [1, 2]]}
KINDS = {"F": "forward", "I": "backward_input", "W": "backward_weight", "B": "backward"}


def worker(rank, rendezvous, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=RANKS,
                            timeout=datetime.timedelta(seconds=60))
    for name, placement in SCHEDULES.items():
        layers = {s: torch.nn.Sequential(torch.nn.Linear(WIDTH, WIDTH), torch.nn.Tanh()) for s in placement[rank]}
        stages = [PipelineStage(layer, s, 4, torch.device("cpu")) for s, layer in layers.items()]
        runtime = _PipelineScheduleRuntime(stages, MICROBATCHES, loss_fn=torch.nn.functional.mse_loss)
        runtime._load_csv(os.path.join(folder, f"{name}.csv"), format="compute_only")
        batch = torch.randn(MICROBATCHES * 8, WIDTH)
        first = (batch,) if 0 in layers else ()
        last = {"target": batch, "losses": []} if 3 in layers else {}
        runtime.step(*first, **last)  # what is only done once is not profiled
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
            for _ in range(STEPS):
                runtime.step(*first, **last)
        profiler.export_chrome_trace(os.path.join(folder, f"{name}.rank{rank}.pt.trace.json.gz"))
    dist.destroy_process_group()


def labels(path):
    """Durations in ns by action, as Python reads them; those inside an overlapped pair are the pair's."""
    with gzip.open(path) as file:
        events = [e for e in json.load(file)["traceEvents"] if e.get("ph") == "X" and e.get("name", "").startswith("PP:")]
    pairs = [(e["ts"], e["ts"] + e["dur"]) for e in events if "OVERLAP" in e["name"]]
    found = {}
    for e in events:
        if "OVERLAP" in e["name"]:
            (forward, backward) = re.findall(r"(\d+)[FB]\d+", e["name"])
            key = ("forward_beside_backward", int(forward), int(backward))
        else:
            action = re.fullmatch(r"PP:(\d+)([FIWB])(\d+)", e["name"])
            if not action or any(b <= e["ts"] and e["ts"] + e["dur"] <= f for b, f in pairs):
                continue
            key = (KINDS[action[2]], int(action[1]), None)
        found.setdefault(key, []).append(round(e["dur"] * 1000))
    return found


def check(plumb, folder, name):
    traces = [os.path.join(folder, f"{name}.rank{r}.pt.trace.json.gz") for r in range(RANKS)]
    out = os.path.join(folder, f"{name}.json")
    subprocess.run([plumb, "calibrate", "--kineto", *traces, "--out", out], check=True)
    with open(out) as file:
        work = json.load(file)["work"]
    found = {(w["kind"], w["shape"]["stage"], w["shape"].get("backward_stage")): (w["rank"], w["time"]) for w in work}
    expected = {key: (rank, ns) for rank, path in enumerate(traces) for key, ns in labels(path).items()}
    assert found.keys() == expected.keys(), (sorted(map(str, found)), sorted(map(str, expected)))
    for key, (rank, ns) in expected.items():
        got_rank, time = found[key]
        assert got_rank == rank and time["samples"] == len(ns), (key, time, len(ns))
        assert abs(time["median_ns"] - statistics.median(ns)) <= 1, (key, time["median_ns"], statistics.median(ns))
    kinds = {kind for kind, _, _ in found}
    print(f"{name}: {len(found)} kinds of work in {len(traces)} traces, medians agree ({', '.join(sorted(kinds))})", flush=True)
    return kinds


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    plumb = sys.argv[1]
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    with tempfile.TemporaryDirectory() as folder:
        for name in SCHEDULES:
            with open(os.path.join(folder, f"{name}.csv"), "w") as file:
                subprocess.run([plumb, "schedule", name, "--ranks", str(RANKS), "--microbatches", str(MICROBATCHES),
                                "--format", "csv"], stdout=file, check=True)
        mp.spawn(worker, (os.path.join(folder, "rendezvous"), folder), nprocs=RANKS)
        assert {"forward", "backward_input", "backward_weight"} <= check(plumb, folder, "zb-v")
        assert "forward_beside_backward" in check(plumb, folder, "dualpipe-v")


if __name__ == "__main__":
    main()
