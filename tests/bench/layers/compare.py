"""Times PyTorch on the same shapes as layers_bench, on the same GPU, and sets the two side by side.

Usage: compare.py LAYERS_BENCH [--shape HIDDEN,HEADS,FFN,TOKENS,VOCABULARY]... [--json FILE] [--no-compile]
Prints a Markdown table a shape; exits with 1 where a median ratio ours/PyTorch exceeds 1.
"""
import argparse
import json
import statistics
import subprocess
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

REST_S, WARM_UP, REPETITIONS = 0.2, 5, 20
BF16 = torch.bfloat16


def median_ms(run):
    # A GPU that has been busy runs at a lower clock: every measurement begins after the same rest, and what is compiled
    # or allocated on the first run is not part of the warm-up.
    run()
    torch.cuda.synchronize()
    time.sleep(REST_S)
    for _ in range(WARM_UP):
        run()
    events = [torch.cuda.Event(enable_timing=True) for _ in range(2 * REPETITIONS)]
    for i in range(REPETITIONS):
        events[2 * i].record()
        run()
        events[2 * i + 1].record()
    torch.cuda.synchronize()
    return statistics.median(events[2 * i].elapsed_time(events[2 * i + 1]) for i in range(REPETITIONS))


class Block(nn.Module):
    """A pre-norm block: RMSNorm, QKV, causal attention, SwiGLU; no biases."""

    def __init__(self, hidden, heads, ffn, rope):
        super().__init__()
        self.heads, self.rope = heads, rope
        self.norm_1, self.norm_2 = nn.RMSNorm(hidden), nn.RMSNorm(hidden)
        self.qkv = nn.Linear(hidden, 3 * hidden, bias=False)
        self.output = nn.Linear(hidden, hidden, bias=False)
        self.gate_up = nn.Linear(hidden, 2 * ffn, bias=False)
        self.down = nn.Linear(ffn, hidden, bias=False)

    def forward(self, x, table=None):
        batch, sequence, hidden = x.shape
        q, k, v = self.qkv(self.norm_1(x)).view(batch, sequence, 3, self.heads, hidden // self.heads).permute(2, 0, 3, 1, 4)
        if self.rope:
            q, k = turn(q, *table), turn(k, *table)
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.output(a.transpose(1, 2).reshape(batch, sequence, hidden))
        gate, up = self.gate_up(self.norm_2(x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


def turn(x, cosine, sine):
    half = x.shape[-1] // 2
    return x * cosine + torch.cat((-x[..., half:], x[..., :half]), -1) * sine


def rope_table(sequence, head_dim):
    frequency = 1 / 10000 ** (torch.arange(0, head_dim, 2, device="cuda") / head_dim)
    angle = torch.outer(torch.arange(sequence, device="cuda"), frequency)
    angle = torch.cat((angle, angle), -1)
    return angle.cos().to(BF16), angle.sin().to(BF16)


def pytorch(hidden, heads, ffn, tokens, vocabulary, compiled):
    def random(*size, grad=True):
        return torch.randn(*size, device="cuda", dtype=BF16).requires_grad_(grad)

    times = {}

    def layer(name, module, inputs, weights=()):
        """`inputs`: tensors whose gradients are backward_input's; `weights`: backward_weight's, added to .grad."""
        for one in (*inputs, *weights):
            one.grad = None
        times[name, "forward"] = median_ms(module)
        y = module()
        g = torch.randn_like(y)
        if inputs:
            times[name, "backward_input"] = median_ms(lambda: torch.autograd.grad(y, inputs, g, retain_graph=True))
        if weights:
            y.backward(g, inputs=list(weights), retain_graph=True)
            times[name, "backward_weight"] = median_ms(
                lambda: y.backward(g, inputs=list(weights), retain_graph=True))

    for name, inputs, outputs in (("qkv", hidden, 3 * hidden), ("output", hidden, hidden),
                                  ("gate_up", hidden, 2 * ffn), ("down", ffn, hidden), ("head", hidden, vocabulary)):
        x, w = random(tokens, inputs), random(outputs, inputs)
        layer(name, lambda: F.linear(x, w), (x,), (w,))
    x, gain, bias = random(tokens, hidden), random(hidden), random(hidden)
    # The gains' gradients are computed together with the input's on both sides.
    layer("rms_norm", lambda: F.rms_norm(x, (hidden,), gain), (x, gain))
    layer("layer_norm", lambda: F.layer_norm(x, (hidden,), gain, bias), (x, gain, bias))
    head_dim = hidden // heads
    qkv = random(1, tokens, 3, heads, head_dim)
    table = rope_table(tokens, head_dim)
    qk = qkv[:, :, :2].permute(2, 0, 3, 1, 4).detach().requires_grad_()
    layer("rope", lambda: turn(qk, *table), (qk,))
    layer("attention", lambda: F.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4), is_causal=True), (qkv,))
    gate_up = random(tokens, 2 * ffn)

    def swiglu():
        gate, up = gate_up.chunk(2, -1)
        return F.silu(gate) * up
    layer("swiglu", swiglu, (gate_up,))
    layer("gelu", lambda: F.gelu(gate_up), (gate_up,))
    ids = torch.randint(vocabulary, (tokens,), device="cuda")
    weight = random(vocabulary, hidden)
    layer("embedding", lambda: F.embedding(ids, weight), (), (weight,))
    logits = random(tokens, vocabulary)
    layer("cross_entropy", lambda: F.cross_entropy(logits, ids), (logits,))
    del x, w, qkv, qk, gate_up, weight, logits

    master = torch.randn(4 * hidden * hidden, device="cuda").requires_grad_()
    master.grad = torch.randn_like(master)
    optimizer = torch.optim.AdamW([master], fused=True)
    working = torch.empty_like(master, dtype=BF16)

    def step():
        optimizer.step()
        working.copy_(master.detach())
        master.grad.zero_()
    times["adamw", "step"] = median_ms(step)
    del master, optimizer, working

    x, g = random(1, tokens, hidden), random(1, tokens, hidden, grad=False)
    for name, rope in (("block", False), ("block_rope", True)):
        for suffix in ("", "compiled ") if compiled else ("",):
            block = Block(hidden, heads, ffn, rope).cuda().to(BF16)
            run = torch.compile(block) if suffix else block
            times[name, suffix + "forward"] = median_ms(lambda: run(x, table))
            if not suffix:
                y = block(x, table)
                times[name, "backward_input"] = median_ms(lambda: torch.autograd.grad(y, x, g, retain_graph=True))
                times[name, "backward"] = median_ms(lambda: y.backward(g, retain_graph=True))
                del y
            times[name, suffix + "forward + backward"] = median_ms(lambda: run(x, table).backward(g))
    x, target = random(tokens, hidden), random(tokens, hidden, grad=False)
    mlp = nn.Sequential(nn.Linear(hidden, 4 * hidden, bias=False), nn.GELU(),
                        nn.Linear(4 * hidden, hidden, bias=False)).cuda().to(BF16)
    times["mlp_stage", "forward"] = median_ms(lambda: F.mse_loss(mlp(x), target))
    loss = F.mse_loss(mlp(x), target)
    times["mlp_stage", "backward"] = median_ms(lambda: loss.backward(retain_graph=True))
    times["mlp_stage", "forward + backward"] = median_ms(lambda: F.mse_loss(mlp(x), target).backward())
    return times


def rows(ours, theirs):
    """Ours beside theirs: (layer, kind of ours, ms, kind of theirs, ms)."""
    for (layer, kind), ms in ours.items():
        others = [kind, "compiled " + kind]
        if kind == "forward + backward_input + backward_weight":
            others = ["forward + backward", "compiled forward + backward"]
        for other in others:
            if (layer, other) in theirs:
                yield layer, kind, ms, other, theirs[layer, other]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bench")
    parser.add_argument("--shape", action="append")
    parser.add_argument("--json")
    parser.add_argument("--no-compile", action="store_true")
    arguments = parser.parse_args()
    documents, slower = [], 0
    for shape in arguments.shape or ["2048,16,5376,4096,32768", "4096,32,10752,4096,32768"]:
        numbers = [int(n) for n in shape.split(",")]
        lines = subprocess.run([arguments.bench, *map(str, numbers)], check=True, capture_output=True, text=True)
        ours = {(one["layer"], one["kind"]): one["ms"] for one in map(json.loads, lines.stdout.splitlines())}
        torch.manual_seed(0)
        theirs = pytorch(*numbers, compiled=not arguments.no_compile)
        print(f"\nH={numbers[0]}, {numbers[1]} heads, FFN {numbers[2]}, {numbers[3]} tokens, vocabulary {numbers[4]}, bf16, "
              f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}\n")
        print("| layer | ours | ms | PyTorch | ms | ours / PyTorch |\n|:--|:--|--:|:--|--:|--:|")
        document = {"shape": shape, "device": torch.cuda.get_device_name(), "pytorch": torch.__version__, "rows": []}
        for layer, kind, ms, other, other_ms in rows(ours, theirs):
            print(f"| {layer} | {kind} | {ms:.4f} | {'eager ' if 'compiled' not in other else ''}{other} | {other_ms:.4f} "
                  f"| {ms / other_ms:.3f} |")
            slower += ms > other_ms
            document["rows"].append({"layer": layer, "ours": kind, "ms": ms, "pytorch": other, "pytorch_ms": other_ms})
        ratios = [row["ms"] / row["pytorch_ms"] for row in document["rows"]]
        print(f"\nmedian ratio {statistics.median(ratios):.3f}, worst {max(ratios):.3f}", flush=True)
        documents.append(document)
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(documents, file, indent=1)
    print(f"{slower} rows slower than PyTorch")
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
