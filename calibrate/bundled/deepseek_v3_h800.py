#!/usr/bin/env python3
"""Derives the bundled calibration deepseek-v3-h800.json from the phases of DeepSeek's published profile.

usage: deepseek_v3_h800.py PHASES.json > deepseek-v3-h800.json

PHASES.json holds medians per phase and MoE layer, taken from the training profile that DeepSeek published
(its provenance is copied into the result). Nothing here looks at how long a whole chunk, or a forward beside
a backward, took in that profile: the pair is for the simulator to derive.

How a phase becomes a segment:

compute   The profile was taken while forward and backward overlapped, so a phase's window on the compute
          stream already holds the slowdown by the all-to-all kernels that ran beside it. The same kernels
          seen with and without all-to-all beside them give the factor; `alone` takes it out again:
              alone = window - overlap_with_all_to_all * (1 - 1 / factor)
          The window, not the busy time: mlp(W) waits for a part of itself that runs on a second stream.
all-to-all  The median of the kernel that moves the data. In the backward, dispatch runs a combine kernel and
          combine a cached dispatch kernel.
notify    The rest of the time for which the communication stream was busy with the phase: kernels that agree on
          sizes and wait for the slowest of the 64 ranks. Ranks that exchange with each other always wait for
          each other a little, so the waiting is part of what a phase costs; but it moves no data and slows no
          computation.
"""
import json
import sys

LAYERS_OF_CHUNK = 4
LAYERS_OF_MODEL = 61
HIDDEN, TOKENS, BF16 = 7168, 4096, 2
# Parameters of one MoE layer on one rank with 64-way expert parallelism: multi-head latent attention, norms,
# router, one shared expert and 256/64 routed experts.
ATTENTION = (HIDDEN * 1536 + 1536 + 1536 * 128 * 192 + HIDDEN * 576 + 512 + 512 * 128 * 256 + 128 * 128 * HIDDEN)
EXPERT = 3 * HIDDEN * 2048
PARAMETERS = ATTENTION + 2 * HIDDEN + 256 * HIDDEN + 256 + EXPERT + 256 // 64 * EXPERT


def main():
    profile = json.load(open(sys.argv[1]))
    phases = profile["per_phase_summary"]
    pairs = profile["slowdown_same_kernel_with_vs_without_a2a"]
    factor = sum(p["with_a2a_us"] for p in pairs) / sum(p["without_comm_us"] for p in pairs)
    kernels = profile["comm_kernels"]

    def kernel(name):
        found = [k["median_us"] for k in kernels if name in k["kernel"]]
        assert len(found) == 1, name
        return found[0]

    def compute(phase, name, deferred=False):
        window = phases[phase]["stream7_window_us"]["median"]
        beside = phases[phase]["stream7_overlap_with_a2a_data_us"]["median"]
        alone = window - beside * (1 - 1 / factor)
        segment = {"name": name, "lane": "compute", "class": "compute", "duration_ns": round(alone * 1000)}
        return {**segment, "deferred": True} if deferred else segment

    def exchange(phase, kernel_name):
        """The waiting, then the data, of one phase on the communication stream."""
        busy = phases[phase]["stream27_busy_us"]["median"]
        data = kernel(kernel_name)
        segment = {"lane": "communication"}
        return [{"name": "notify", **segment, "class": "notify", "duration_ns": round((busy - data) * 1000)},
                {"name": phase.split("(")[0], **segment, "class": "all_to_all", "duration_ns": round(data * 1000)}]

    dispatch, cached_dispatch, combine = "dispatch<false, 8, false, 8>", "dispatch<false, 8, true, 8>", "combine<false"
    forward = [
        compute("attn(F)", "attention"), *exchange("dispatch(F)", dispatch),
        compute("mlp(F)", "experts"), *exchange("combine(F)", combine),
    ]

    def backward(weights, deferred):
        out = [*exchange("combine(B)", cached_dispatch), compute("mlp(B)", "experts")]
        if weights:
            out.append(compute("mlp(W)", "experts weight", deferred))
        out += [*exchange("dispatch(B)", combine), compute("attn(B)", "attention")]
        if weights:
            out.append(compute("attn(W)", "attention weight", deferred))
        return out

    million = 1_000_000
    calibration = {
        "schema": "plumb.calibration/1",
        "name": "deepseek-v3-h800",
        "about": "One MoE layer of DeepSeek-V3 on H800, 64-way expert parallel, 4,096 tokens a microbatch, FP8; "
                 "derived from DeepSeek's published training profile by calibrate/bundled/deepseek_v3_h800.py",
        "provenance": {k: str(v) for k, v in profile["provenance"].items() if k in ("source", "commit", "blob", "gpu", "readme")} | {
            # What the layer is of, so that it stands for a model's layer of these sizes only.
            "tokens": str(TOKENS), "hidden": str(HIDDEN), "experts": "256", "experts_per_token": "8", "expert_ffn": "2048",
            "tensor": "1", "expert_parallel": "64", "data_type": "fp8"},
        "chunk_layers": LAYERS_OF_CHUNK,
        "model_layers": LAYERS_OF_MODEL,
        "classes": ["compute", "all_to_all", "notify"],
        # Only computation beside all-to-all data was seen both ways.
        "slowdown_ppm": [[million, round(factor * million), million], [million] * 3, [million] * 3],
        "layer": {
            "forward": forward,
            "backward_input": backward(weights=False, deferred=False),
            "backward_weight": [compute("mlp(W)", "experts weight"), compute("attn(W)", "attention weight")],
            "backward": backward(weights=True, deferred=True),
        },
        # Pipeline messages were not recorded: a 400 Gb/s network at 80 %.
        "link": {"latency_ns": 10_000, "bytes_per_s": 40_000_000_000},
        "activation_message_bytes": TOKENS * HIDDEN * BF16,
        "gradient_message_bytes": TOKENS * HIDDEN * BF16,
        # Summed between the two owners of a stage over the same network, in bf16.
        "gradient_bytes_per_layer": PARAMETERS * BF16,
        "sources": {
            "forward": "measured", "backward_input": "measured", "backward_weight": "measured", "backward": "measured",
            "overlapped": "estimated", "slowdown": "measured", "p2p": "assumed", "gradient_reduction": "assumed",
        },
    }
    json.dump(calibration, sys.stdout, indent=1)
    print()


main()
