"""Trains one GPT on one GPU, without a pipeline, by `plumb run` and by compiled PyTorch, and sets their tokens/s side by side.

Usage: gpt_training.py PLUMB [--shape HIDDEN,LAYERS,HEADS,KV_HEADS,FFN,SEQUENCE,VOCABULARY,MICROBATCHES]... [--json FILE]
The same model on both sides: RMSNorm before, grouped-query causal attention with rotary positions, SwiGLU, a head of its own,
cross-entropy; gradients of all microbatches added up, clipped to norm 1, then AdamW on float32 master weights. A step is timed
whole: data, zeroing, forward, backward, clipping, optimizer. PyTorch runs in two ways, and both are shown:
  bf16      bf16 weights and gradients, copied to and from float32 masters around a fused AdamW
  autocast  float32 weights and gradients under autocast to bf16, fused AdamW
Exits with 1 where PyTorch's best has more tokens/s.
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

WARM_UP, STEPS = 3, 12
BF16 = torch.bfloat16


def rotate(x, cosine, sine):
    half = x.shape[-1] // 2
    return x * cosine + torch.cat((-x[..., half:], x[..., :half]), -1) * sine


class Layer(nn.Module):
    def __init__(self, shape):
        super().__init__()
        hidden, self.heads, self.kv_heads, ffn = shape["hidden"], shape["heads"], shape["kv_heads"], shape["ffn"]
        self.head_dim = hidden // self.heads
        self.norm_1, self.norm_2 = nn.RMSNorm(hidden, eps=1e-5), nn.RMSNorm(hidden, eps=1e-5)
        self.qkv = nn.Linear(hidden, (self.heads + 2 * self.kv_heads) * self.head_dim, bias=False)
        self.output = nn.Linear(hidden, hidden, bias=False)
        self.gate_up = nn.Linear(hidden, 2 * ffn, bias=False)
        self.down = nn.Linear(ffn, hidden, bias=False)

    def forward(self, x, cosine, sine):
        batch, sequence, hidden = x.shape
        qkv = self.qkv(self.norm_1(x)).view(batch, sequence, -1, self.head_dim).transpose(1, 2)
        q, k, v = qkv.split((self.heads, self.kv_heads, self.kv_heads), 1)
        q, k = rotate(q, cosine, sine), rotate(k, cosine, sine)
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.heads != self.kv_heads)
        x = x + self.output(a.transpose(1, 2).reshape(batch, sequence, hidden))
        gate, up = self.gate_up(self.norm_2(x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


class Gpt(nn.Module):
    def __init__(self, shape):
        super().__init__()
        hidden, vocabulary = shape["hidden"], shape["vocabulary"]
        self.embedding = nn.Embedding(vocabulary, hidden)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape["layers"]))
        self.norm = nn.RMSNorm(hidden, eps=1e-5)
        self.head = nn.Linear(hidden, vocabulary, bias=False)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)
        head_dim = hidden // shape["heads"]
        frequency = 1 / 10000 ** (torch.arange(0, head_dim, 2) / head_dim)
        angle = torch.outer(torch.arange(shape["sequence"]), frequency)
        angle = torch.cat((angle, angle), -1)
        self.register_buffer("cosine", angle.cos().to(BF16), persistent=False)
        self.register_buffer("sine", angle.sin().to(BF16), persistent=False)

    def forward(self, tokens, following):
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x, self.cosine, self.sine)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.flatten(0, 1).float(), following.flatten())


def decayed(parameters):
    """AdamW's groups: matrices decay."""
    return [{"params": [p for p in parameters if p.dim() == 2], "weight_decay": 0.1},
            {"params": [p for p in parameters if p.dim() != 2], "weight_decay": 0.0}]


def pytorch(shape, precision, device):
    """Median seconds of a training step, the last loss, and the peak of memory."""
    torch.manual_seed(0)
    autocast = precision == "autocast"
    model = Gpt(shape).to(device)
    if not autocast:
        model.to(BF16)
    weights = list(model.parameters())
    masters = weights if autocast else [w.detach().float() for w in weights]
    optimizer = torch.optim.AdamW(decayed(masters), lr=3e-4, betas=(0.9, 0.95), eps=1e-8, fused=True)
    run = torch.compile(model) if device == "cuda" else model
    microbatches, times = shape["microbatches"], []
    for _ in range(WARM_UP + STEPS):
        data = torch.randint(shape["vocabulary"], (microbatches, 1, shape["sequence"] + 1))
        if device == "cuda":
            torch.cuda.synchronize()
        begin = time.perf_counter()
        for one in data:
            one = one.to(device, non_blocking=True)
            with torch.autocast(device, BF16, enabled=autocast):
                loss = run(one[:, :-1], one[:, 1:]) / microbatches
            loss.backward()
        if not autocast:
            for master, weight in zip(masters, weights):
                master.grad = torch.empty_like(master) if master.grad is None else master.grad
            torch._foreach_copy_([m.grad for m in masters], [w.grad for w in weights])
        nn.utils.clip_grad_norm_(masters, 1.0, foreach=True)
        optimizer.step()
        if not autocast:
            with torch.no_grad():
                torch._foreach_copy_(weights, masters)
            model.zero_grad()
        else:
            optimizer.zero_grad()
        last = loss.item() * microbatches
        times.append(time.perf_counter() - begin)
    memory = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    return statistics.median(times[WARM_UP:]), last, memory


def ours(plumb, shape, extra):
    command = [plumb, "run", "--schedule", "1f1b", "--ranks", "1", "--model", "llama", "--json", "--steps", str(WARM_UP + STEPS)]
    for flag, key in (("hidden", "hidden"), ("layers", "layers"), ("heads", "heads"), ("kv-heads", "kv_heads"), ("ffn", "ffn"),
                      ("sequence", "sequence"), ("vocab", "vocabulary"), ("microbatches", "microbatches")):
        command += ["--" + flag, str(shape[key])]
    said = subprocess.run(command + extra, capture_output=True, text=True)
    if said.returncode:
        sys.exit(f"{' '.join(command)}: exit {said.returncode}\n{said.stderr}")
    return json.loads(said.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plumb")
    parser.add_argument("--shape", action="append")
    parser.add_argument("--precision", action="append", choices=["bf16", "autocast"])
    parser.add_argument("--attention", choices=["cudnn", "flash"], help="[PyTorch's choice]")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json")
    parser.add_argument("--plumb-flag", action="append", default=[])
    arguments = parser.parse_args()
    torch.backends.cuda.enable_flash_sdp(arguments.attention != "cudnn")
    torch.backends.cuda.enable_cudnn_sdp(arguments.attention != "flash")
    names = ("hidden", "layers", "heads", "kv_heads", "ffn", "sequence", "vocabulary", "microbatches")
    documents, slower = [], 0
    print("| model | tokens/s: ours | PyTorch bf16 | PyTorch autocast | ours / its best |\n|:--|--:|--:|--:|--:|", flush=True)
    for text in arguments.shape or ["1024,8,8,4,2816,4096,32768,8", "2048,8,16,8,5632,4096,32768,8"]:
        shape = dict(zip(names, map(int, text.split(","))))
        tokens = shape["microbatches"] * shape["sequence"]
        run = ours(arguments.plumb, shape, arguments.plumb_flag)
        own = tokens / run["training_step_ns"]["median"] * 1e9
        document = {"shape": shape, "ours": {"tokens_per_s": own, "step_ns": run["step_time_ns"], "training_step_ns": run["training_step_ns"],
                                             "loss": run["loss"]}}
        for precision in arguments.precision or ["bf16", "autocast"]:
            if arguments.device == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
                torch.compiler.reset()
            seconds, loss, memory = pytorch(shape, precision, arguments.device)
            document[precision] = {"tokens_per_s": tokens / seconds, "last_loss": loss, "peak_bytes": memory}
        theirs = {p: document[p]["tokens_per_s"] if p in document else 0 for p in ("bf16", "autocast")}
        ratio = own / max(theirs.values())
        slower += ratio < 1
        print(f"| {text} | {own:.0f} | {theirs['bf16']:.0f} | {theirs['autocast']:.0f} | {ratio:.3f} |", flush=True)
        documents.append(document)
        if arguments.json:
            with open(arguments.json, "w") as file:
                json.dump({"pytorch": torch.__version__, "device": arguments.device == "cuda" and torch.cuda.get_device_name(),
                           "attention": arguments.attention or "PyTorch's choice", "rows": documents}, file, indent=1)
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
