"""Times the published DualPipe's example stage under PyTorch, every rank on one GPU, beside what its messages alone need.

Usage: dualpipe_steps.py PACKAGE EXAMPLE [--shape RANKS,MICROBATCHES]... [--hidden H] [--tokens T] [--json FILE]
PACKAGE: the folder that holds the package `dualpipe` (DeepSeek's, 1.0.0); EXAMPLE: its examples/example_dualpipe.py, whose
stage and loss are used. A process a rank, each a host of its own to NCCL, under NVIDIA's MPS (started here unless
CUDA_MPS_PIPE_DIRECTORY names one). Several shapes run in one set of processes, the largest number of ranks decides. The step is the package's: it does not sum the
gradients of a stage's two owners, which its example does afterwards; the second figure has that, in bf16 as its gradients are.
"""
import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

WARM_UP = 1
BF16 = torch.bfloat16


class Pipeline:
    """Some ranks of the job, and what they time together."""

    def __init__(self, ranks, steps):
        self.ranks, self.steps = ranks, steps
        self.group = dist.new_group(list(range(ranks)))
        self.member = dist.get_rank() < ranks

    def median_ms(self, run):
        """(median, all) of the slowest rank's time from a barrier to the end of its work."""
        times = []
        for i in range(WARM_UP + self.steps):
            torch.cuda.synchronize()
            dist.barrier(self.group)
            torch.cuda.synchronize()
            begin = time.perf_counter()
            run()
            torch.cuda.synchronize()
            slowest = torch.tensor([time.perf_counter() - begin], device="cuda")
            dist.all_reduce(slowest, dist.ReduceOp.MAX, self.group)
            if i >= WARM_UP:
                times.append(1e3 * slowest.item())
        return statistics.median(times), times


def exchange_messages(pipeline, rank, microbatches, tokens, hidden):
    """The messages of a DualPipe step and nothing else: between neighbours, each way, half of the microbatches' activations
    and half of their gradients; round after round, as the package batches them."""
    peers = [peer for peer in (rank - 1, rank + 1) if 0 <= peer < pipeline.ranks]
    buffers = [(peer, torch.zeros(1, tokens, hidden, dtype=BF16, device="cuda"),
                torch.empty(1, tokens, hidden, dtype=BF16, device="cuda")) for peer in peers]

    def run():
        for _ in range(microbatches):
            ops = [dist.P2POp(kind, tensor, peer, pipeline.group) for peer, out, into in buffers
                   for kind, tensor in ((dist.isend, out), (dist.irecv, into))]
            for request in dist.batch_isend_irecv(ops):
                request.wait()
    return run


def rank_main(rank, world, arguments, records):
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), NCCL_HOSTID=f"rank-{rank}", NCCL_SOCKET_IFNAME="lo",
                      MASTER_ADDR="127.0.0.1")
    sys.path.insert(0, arguments.package)
    import dualpipe
    spec = importlib.util.spec_from_file_location("published_example", arguments.example)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)

    torch.cuda.set_device(0)
    torch.set_default_device("cuda")
    dist.init_process_group("nccl", rank=rank, world_size=world, device_id=torch.device("cuda:0") if arguments.eager_nccl else None)
    tokens, hidden = arguments.tokens, arguments.hidden
    dualpipe.set_p2p_tensor_shapes([(1, tokens, hidden)])
    dualpipe.set_p2p_tensor_dtype(BF16)
    for ranks, microbatches in arguments.shapes:
        pipeline = Pipeline(ranks, arguments.steps)
        if pipeline.member:
            torch.manual_seed(rank)
            torch.cuda.reset_peak_memory_stats()
            stages = torch.nn.Sequential(*(example.PipelineStage(hidden).to(BF16) for _ in range(2)))
            model = dualpipe.DualPipe(stages, process_group=pipeline.group)
            x = labels = None
            if rank in (0, ranks - 1):
                x, labels = (torch.randn(microbatches // 2, tokens, hidden, dtype=BF16) for _ in range(2))

            def step():
                model.zero_grad()
                return model.step(x, num_chunks=microbatches, criterion=example.criterion, labels=(labels,))

            def step_and_sum():
                # A stage's two owners are rank r's stage i and rank p-1-r's stage 1-i; each pair is one message each way.
                step()
                other = ranks - 1 - rank
                parameters = [list(stages[i].parameters()) for i in range(2)]
                theirs = [[torch.empty_like(p) for p in one] for one in parameters]
                ops = []
                for i in range(2):
                    # The lower rank's stage 0 and the higher one's stage 1 travel first, so that the orders agree.
                    mine = i if rank < other else 1 - i
                    ops += [dist.P2POp(dist.isend, p.grad, other, pipeline.group) for p in parameters[mine]]
                    ops += [dist.P2POp(dist.irecv, t, other, pipeline.group) for t in theirs[mine]]
                for request in dist.batch_isend_irecv(ops):
                    request.wait()
                for i in range(2):
                    for p, t in zip(parameters[i], theirs[i]):
                        p.grad += t

            record = {"ranks": ranks, "microbatches": microbatches, "hidden": hidden, "tokens": tokens,
                      "pytorch": torch.__version__, "nccl": ".".join(map(str, torch.cuda.nccl.version())),
                      "device": torch.cuda.get_device_name()}
            record["step_ms"], record["steps_ms"] = pipeline.median_ms(step)
            record["peak_bytes_rank_0"] = torch.cuda.max_memory_allocated()
            if not arguments.only_steps:
                record["step_and_sum_ms"], _ = pipeline.median_ms(step_and_sum)
                record["messages_ms"], _ = pipeline.median_ms(exchange_messages(pipeline, rank, microbatches, tokens, hidden))
            if rank == 0:
                records.put(record)
            del model, stages, x, labels, step, step_and_sum
            torch.cuda.empty_cache()
        dist.barrier()
    dist.destroy_process_group()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package")
    parser.add_argument("example")
    parser.add_argument("--shape", action="append", dest="shapes", type=lambda text: tuple(map(int, text.split(","))))
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=7, help="timed, after one that is not")
    parser.add_argument("--only-steps", action="store_true", help="neither sums of the owners' gradients nor messages alone")
    parser.add_argument("--eager-nccl", action="store_true", help="connect all ranks before the first message")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    arguments.shapes = arguments.shapes or [(8, 20), (4, 16), (2, 16)]
    world = max(ranks for ranks, _ in arguments.shapes)
    os.environ.setdefault("MASTER_PORT", "29611")
    folder = None
    if "CUDA_MPS_PIPE_DIRECTORY" not in os.environ:
        folder = tempfile.TemporaryDirectory()
        os.environ["CUDA_MPS_PIPE_DIRECTORY"] = os.environ["CUDA_MPS_LOG_DIRECTORY"] = folder.name
        subprocess.run(["nvidia-cuda-mps-control", "-d"], check=True)
    try:
        records = mp.get_context("spawn").SimpleQueue()
        mp.spawn(rank_main, args=(world, arguments, records), nprocs=world)
        documents = [records.get() for _ in arguments.shapes]
    finally:
        if folder:
            subprocess.run(["nvidia-cuda-mps-control"], input=b"quit\n", check=False)
    for one in documents:
        more = "" if arguments.only_steps else (f", with the owners' gradients summed {one['step_and_sum_ms']:.1f}, messages alone "
                                                f"{one['messages_ms']:.1f}")
        print(f"{one['ranks']} ranks, {one['microbatches']} microbatches: step {one['step_ms']:.1f} ms{more}; rank 0 holds at most "
              f"{one['peak_bytes_rank_0'] / 1e6:.0f} MB  (PyTorch {one['pytorch']}, NCCL {one['nccl']})")
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(documents, file, indent=1)


if __name__ == "__main__":
    main()
