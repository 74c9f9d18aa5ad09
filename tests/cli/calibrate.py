#!/usr/bin/env python3
"""The contract of `plumb calibrate` where there is no GPU: what it refuses, shows, compares, and reads from profiles.

usage: calibrate.py PLUMB
"""
import gzip
import json
import os
import subprocess
import sys
import tempfile
import unittest
import xml.dom.minidom

PLUMB = os.path.abspath(sys.argv.pop(1))
LIMIT_S = 20


def run(*args):
    return subprocess.run([PLUMB, "calibrate", *map(str, args)], capture_output=True, text=True, timeout=LIMIT_S)


def profile(rank, scale=1.0, gpu="NVIDIA H200"):
    """One rank of two: forwards of 100 us and backwards of 200 us, times `scale`."""
    events, correlation = [], 0
    for microbatch in range(8):
        for kind, us in (("F", 100), ("B", 200)):
            correlation += 1
            at = 1000 * correlation
            events += [
                {"ph": "X", "cat": "user_annotation", "name": f"PP:{rank}{kind}{microbatch}", "pid": 1, "tid": 1, "ts": at, "dur": 50},
                {"ph": "X", "cat": "cuda_runtime", "name": "cudaLaunchKernel", "pid": 1, "tid": 1, "ts": at + 5, "dur": 4, "args": {"correlation": correlation}},
                {"ph": "X", "cat": "kernel", "name": "gemm", "pid": 0, "tid": 7, "ts": at + 400, "dur": us * scale, "args": {"correlation": correlation}},
            ]
    return json.dumps({"distributedInfo": {"rank": rank, "world_size": 2}, "deviceProperties": [{"name": gpu, "numSms": 132}], "traceEvents": events})


class Calibrate(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def path(self, name):
        return os.path.join(self.folder.name, name)

    def write(self, name, content):
        with open(self.path(name), "w") as out:
            out.write(content)
        return self.path(name)

    def refused(self, *args, says, code=2):
        done = run(*args)
        self.assertEqual(done.returncode, code, (args, done.stdout[:200], done.stderr[:200]))
        self.assertEqual(done.stdout, "")
        self.assertTrue(done.stderr.startswith("plumb: "), done.stderr[:200])
        self.assertEqual(done.stderr.count("\n"), 1, "one sentence")
        self.assertIn(says, done.stderr)

    def profiled(self, name="two.json", scale=1.0, gpu="NVIDIA H200"):
        ranks = [self.write(f"{name}.{r}.pt.trace.json", profile(r, scale, gpu)) for r in range(2)]
        done = run("--kineto", *ranks, "--out", self.path(name))
        self.assertEqual((done.returncode, done.stderr, done.stdout), (0, "", ""))
        return self.path(name)

    def test_without_a_gpu_one_sentence_and_three(self):
        self.refused("--model", "mlp", "--hidden", 256, "--layers", 2, "--ranks", 2, "--out", self.path("c.json"), says="GPU", code=3)
        # Of processes that would each say so, none is started.
        self.refused("--model", "mlp", "--hidden", 256, "--layers", 2, "--ranks", 2, "--out", self.path("c.json"), "--transport", "nccl", says="GPU", code=3)
        self.assertEqual(os.listdir(self.folder.name), [])

    def test_what_is_wrong_is_said_before_a_gpu_is_looked_for(self):
        out = self.path("c.json")
        self.refused("--model", "mlp", "--hidden", 256, "--layers", 2, "--out", out, says="--ranks")
        self.refused("--model", "mlp", "--hidden", 256, "--layers", 2, "--ranks", 2, says="--out")
        self.refused("--model", "mlp", "--hidden", 256, "--layers", 2, "--ranks", 4, "--out", out, says="4 stages")
        self.refused("--model", "/nonexistent.json", "--ranks", 4, "--out", out, says="nonexistent")
        self.refused("--model", "mlp", "--hidden", 256, "--layers", 2, "--ranks", 2, "--out", out, "--transport", "smoke", says="--transport")
        self.refused("--model", "mlp", "--hidden", 256, "--layers", 2, "--ranks", 2, "--out", out, "--budget", "2", says="--budget")
        self.refused("--out", out, says="one of --model, --show, --compare and --kineto")
        self.refused("--show", "deepseek-v3-h800", "--kineto", "x", "--out", out, says="one of")

    def test_profiles_become_a_calibration_that_simulate_reads(self):
        path = self.profiled()
        with open(path) as file:
            document = json.load(file)
        self.assertEqual(document["schema"], "plumb.calibration/1")
        self.assertEqual(document["provenance"]["gpu"], "NVIDIA H200")
        self.assertIn("--kineto", document["provenance"]["argv"])
        work = {(w["shape"]["stage"], w["kind"]): w["time"]["median_ns"] for w in document["work"]}
        self.assertEqual(work, {(0, "forward"): 100_000, (1, "forward"): 100_000, (0, "backward"): 200_000, (1, "backward"): 200_000})
        done = subprocess.run([PLUMB, "simulate", "1f1b", "--ranks", "2", "--microbatches", "8", "--calibration", path, "--json"],
                              capture_output=True, text=True, timeout=LIMIT_S)
        # 1F1B of 2 ranks: (8 + 1) x (100 + 200) us, messages of no time.
        self.assertEqual(json.loads(done.stdout)["makespan_ns"], 2_700_000)

    def test_gzipped_profiles_are_the_same(self):
        plain = self.write("r.json", profile(0))
        with gzip.open(self.path("r.json.gz"), "wt") as out:
            out.write(profile(0))
        for path in (plain, self.path("r.json.gz")):
            done = run("--kineto", path, "--out", "-")
            self.assertEqual(json.loads(done.stdout)["work"][0]["time"]["samples"], 8)

    def test_bad_profiles_are_refused(self):
        out = self.path("c.json")
        self.refused("--kineto", self.write("a", profile(0)[:3000]), "--out", out, says="is cut off")
        self.refused("--kineto", self.write("b", "{}"), "--out", out, says="PP:")
        self.refused("--kineto", "/nonexistent", "--out", out, says="cannot be read")
        self.refused("--kineto", "/", "--out", out, says="folder")
        self.refused("--kineto", "/dev/zero", "--out", out, says="is not JSON")
        self.refused("--kineto", self.write("c", profile(0)), self.write("d", profile(0)), "--out", out, says="is of rank 0, and so is")
        self.refused("--kineto", self.write("e", profile(0)), says="--out")
        self.assertFalse(os.path.exists(out))

    def test_show_prints_tables_and_draws(self):
        shown = run("--show", "deepseek-v3-h800").stdout
        self.assertIn("NVIDIA H800", shown)
        self.assertIn("dispatch", shown)
        path = self.profiled()
        svg = self.path("c.svg")
        done = run("--show", path, "--svg", svg)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertIn("100.00", done.stdout)
        xml.dom.minidom.parse(svg)
        again = self.write("again.json", run("--show", path, "--json").stdout)
        with open(again) as a, open(path) as b:
            self.assertEqual(json.load(a), json.load(b))

    def test_two_calibrations_are_compared(self):
        a, b = self.profiled("a.json"), self.profiled("b.json", scale=1.02)
        done = run("--compare", a, b, "--json")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        diff = json.loads(done.stdout)
        self.assertEqual(diff["schema"], "plumb.calibration_diff/1")
        self.assertAlmostEqual(diff["median_abs_rel"], 0.02)
        self.assertAlmostEqual(diff["worst"]["rel"], 0.02)
        self.assertIn("stage", diff["worst"]["name"])
        self.assertEqual(diff["compared"], 4)
        self.assertIn("2.00 %", run("--compare", a, b).stdout)
        self.assertEqual(json.loads(run("--compare", a, a, "--json").stdout)["median_abs_rel"], 0)

    def test_another_gpu_class_is_refused_unless_forced(self):
        a, b = self.profiled("a.json"), self.profiled("b.json", gpu="NVIDIA A100-SXM4-80GB")
        self.refused("--compare", a, b, "--json", says="--force")
        self.assertEqual(json.loads(run("--compare", a, b, "--force", "--json").stdout)["compared"], 4)
        self.refused("--compare", a, "deepseek-v3-h800", "--force", says="no figure in common")


unittest.main()
