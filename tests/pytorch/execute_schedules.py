"""PyTorch's pipeline runtime executes our schedules, and the gradients are those of the model without a pipeline.

Four processes on the CPU (gloo) hold a small model, one layer a stage. Each schedule is loaded twice through
PyTorch's own `_load_csv`: as compute alone, where PyTorch adds the messages, and with the messages that we placed.
The loss of every microbatch and the gradient of every parameter must be the unpipelined model's, to rounding in
double precision.

Two negative controls keep the test honest: where two sends of a rank change places, activations land under the
wrong microbatch and the comparison has to see it; a schedule without one of its ops has to be refused.

Usage: execute_schedules.py PLUMB
"""

import csv
import datetime
import os
import subprocess
import sys
import tempfile
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import _PipelineScheduleRuntime

RANKS = 4
MICROBATCHES = 8
ROWS = 3  # of a microbatch
WIDTH = 6

# name -> the stages of each rank: one, two in a loop, or two in a V (stage s and its mirror image).
ONE = [[r] for r in range(RANKS)]
LOOP = [[r, r + RANKS] for r in range(RANKS)]
V = [[r, 2 * RANKS - 1 - r] for r in range(RANKS)]
SCHEDULES = {"1f1b": ONE, "interleaved-1f1b": LOOP, "zb-v": V, "v-half": V, "dualpipe-v": V}


class Layer(torch.nn.Module):
    """A stage: not linear, with weights that differ from stage to stage, so that no two stages are alike."""

    def __init__(self, stage):
        super().__init__()
        self.inner = torch.nn.Linear(WIDTH, 2 * WIDTH, dtype=torch.float64)
        self.outer = torch.nn.Linear(2 * WIDTH, WIDTH, dtype=torch.float64)
        generator = torch.Generator().manual_seed(100 + stage)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / 2)

    def forward(self, x):
        return x + self.outer(torch.tanh(self.inner(x)))


def sum_of_squares(output, target):
    # A sum, so that the step's loss is the sum over its microbatches and no gradient needs scaling.
    return ((output - target) ** 2).sum()


def batch():
    generator = torch.Generator().manual_seed(7)
    shape = (MICROBATCHES * ROWS, WIDTH)
    return (torch.randn(shape, generator=generator, dtype=torch.float64),
            torch.randn(shape, generator=generator, dtype=torch.float64))


def unpipelined(stages):
    """Losses of the microbatches, and gradients by (stage, parameter)."""
    layers = [Layer(s) for s in range(stages)]
    inputs, targets = batch()
    losses = []
    for x, target in zip(inputs.chunk(MICROBATCHES), targets.chunk(MICROBATCHES)):
        for layer in layers:
            x = layer(x)
        losses.append(sum_of_squares(x, target))
    torch.stack(losses).sum().backward()
    return (torch.stack(losses).detach(),
            {(s, name): p.grad for s, layer in enumerate(layers) for name, p in layer.named_parameters()})


def differences(rank, placement, path, layout):
    """Executes this rank's part and lists in which way it differs from the unpipelined model."""
    stage_count = sum(len(stages) for stages in placement)
    layers = {s: Layer(s) for s in placement[rank]}
    stages = [PipelineStage(layers[s], s, stage_count, torch.device("cpu")) for s in placement[rank]]
    runtime = _PipelineScheduleRuntime(stages, MICROBATCHES, loss_fn=sum_of_squares, scale_grads=False)
    runtime._load_csv(path, format=layout)
    inputs, targets = batch()
    losses = []
    first = (inputs,) if 0 in layers else ()
    last = {"target": targets, "losses": losses} if stage_count - 1 in layers else {}
    runtime.step(*first, **last)

    found = []
    expected_losses, expected_gradients = unpipelined(stage_count)
    close = {"rtol": 1e-12, "atol": 1e-12}
    if last and not torch.allclose(torch.stack(losses).detach(), expected_losses, **close):
        found.append(f"rank {rank}: losses {losses} instead of {expected_losses}")
    for s, layer in layers.items():
        for name, parameter in layer.named_parameters():
            expected = expected_gradients[s, name]
            if parameter.grad is None:
                found.append(f"rank {rank}: stage {s} has no gradient of {name}")
            elif not torch.allclose(parameter.grad, expected, **close):
                worst = (parameter.grad - expected).abs().max().item()
                found.append(f"rank {rank}: stage {s}'s gradient of {name} is off by up to {worst:.3g}")
    return found


def worker(rank, rendezvous, cases):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=RANKS,
                            timeout=datetime.timedelta(seconds=60))
    for title, placement, path, layout, expected in cases:
        begin = time.monotonic()
        try:
            found = differences(rank, placement, path, layout)
            outcome = "differs" if found else "agrees"
        except AssertionError as refusal:  # what PyTorch throws at a schedule that it won't load
            found = [str(refusal).splitlines()[0]]
            outcome = "is refused"
        everyone = [None] * RANKS
        dist.all_gather_object(everyone, (outcome, found))
        # A rank may hold nothing of what is wrong; one that sees it is enough.
        outcome = max((o for o, _ in everyone), key=["agrees", "differs", "is refused"].index)
        if outcome != expected:
            lines = "\n  ".join(line for _, found in everyone for line in found)
            raise RuntimeError(f"{title}: {outcome}, where it should have been that it {expected}\n  {lines}")
        if rank == 0:
            print(f"{title}: {outcome} ({time.monotonic() - begin:.1f} s)", flush=True)
    dist.destroy_process_group()


def read(path):
    with open(path, newline="") as file:
        return list(csv.reader(file))


def write(path, rows):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(rows)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    plumb = sys.argv[1]
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    print(f"PyTorch {torch.__version__}, {RANKS} ranks, {MICROBATCHES} microbatches")
    with tempfile.TemporaryDirectory() as folder:
        cases = []
        for name, placement in SCHEDULES.items():
            for layout, comms in (("compute_only", []), ("compute_comms", ["--comms", "per-op"])):
                path = os.path.join(folder, f"{name}.{layout}.csv")
                with open(path, "w") as file:
                    subprocess.run([plumb, "schedule", name, "--ranks", str(RANKS), "--microbatches",
                                    str(MICROBATCHES), *comms, "--format", "csv"], stdout=file, check=True)
                cases.append((f"{name}, {layout}", placement, path, layout, "agrees"))

        # Rank 0 sends its second activation ahead of its first; rank 1 expects them in order.
        rows = read(os.path.join(folder, "1f1b.compute_comms.csv"))
        rows[0].remove("0SEND_F0")
        rows[0].insert(rows[0].index("0SEND_F1") + 1, "0SEND_F0")
        damaged = os.path.join(folder, "swapped.csv")
        write(damaged, rows)
        cases.append(("1f1b with two sends swapped", ONE, damaged, "compute_comms", "differs"))

        rows = read(os.path.join(folder, "1f1b.compute_only.csv"))
        rows[0].remove("0F0")
        damaged = os.path.join(folder, "missing.csv")
        write(damaged, rows)
        cases.append(("1f1b without its first forward", ONE, damaged, "compute_only", "is refused"))

        mp.spawn(worker, (os.path.join(folder, "rendezvous"), cases), nprocs=RANKS)


if __name__ == "__main__":
    main()
