#!/usr/bin/env python3
"""Every command in README.md and GUIDE.md does what it says, typed as it stands there, and every link leads somewhere.

usage: examples.py PLUMB ROOT

What a command reads is laid out for it first. Those that measure or run on a GPU find none here: they have to get as far as
asking for one (exit code 3).
"""
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

PLUMB, ROOT = os.path.abspath(sys.argv.pop(1)), os.path.abspath(sys.argv.pop(1))
PAGES = ("README.md", "GUIDE.md")
LIMIT_S = 100
# Two busy cores need 10 s for this one, and an unoptimised build with sanitizers minutes.
TOO_LONG = "--devices 2048"


def read(page):
    with open(os.path.join(ROOT, page)) as text:
        return text.read()


def commands(page):
    for block in re.findall(r"```sh\n(.*?)```", read(page), re.S):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("plumb "):
                yield line.split(" #")[0].strip()


def profile(rank):
    """What PyTorch's profiler writes of one rank of two: a forward of 100 us and a backward of 200 us."""
    events = []
    for correlation, (kind, us) in enumerate((("F", 100), ("B", 200))):
        at = 1000 * correlation
        one = {"ph": "X", "pid": 1, "tid": 1}
        events += [{**one, "cat": "user_annotation", "name": f"PP:{rank}{kind}0", "ts": at, "dur": 50},
                   {**one, "cat": "cuda_runtime", "name": "cudaLaunchKernel", "ts": at + 5, "dur": 4, "args": {"correlation": correlation}},
                   {**one, "cat": "kernel", "name": "gemm", "pid": 0, "ts": at + 400, "dur": us, "args": {"correlation": correlation}}]
    return json.dumps({"distributedInfo": {"rank": rank, "world_size": 2}, "deviceProperties": [{"name": "NVIDIA H200", "numSms": 132}],
                       "traceEvents": events})


class Examples(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)
        os.symlink(PLUMB, os.path.join(self.folder, "plumb"))
        self.environment = {**os.environ, "PATH": self.folder + ":" + os.environ["PATH"], "CUDA_VISIBLE_DEVICES": ""}

    def type(self, line):
        return subprocess.run(["bash", "-c", line], cwd=self.folder, env=self.environment, capture_output=True, text=True,
                              timeout=LIMIT_S)

    def lay_out(self):
        unit = "forward=1ms,backward_input=1ms,backward_weight=1ms"
        for line in ("plumb schedule dualpipe-v --ranks 4 --microbatches 8 --format csv > schedule.csv",
                     "plumb calibrate --show llama-h200-4 --json > h200.json", "cp h200.json again.json",
                     "plumb costs --calibration deepseek-v3-h800 --json > costs.json",
                     f"plumb simulate 1f1b --ranks 4 --microbatches 8 --costs {unit} --json > before.json",
                     f"plumb simulate zb-h1 --ranks 4 --microbatches 8 --costs {unit} --json > after.json"):
            done = self.type(line)
            self.assertEqual(done.returncode, 0, done.stderr)
        os.makedirs(os.path.join(self.folder, "path/to"))
        with open(os.path.join(self.folder, "path/to/config.json"), "w") as out:
            json.dump({"model_type": "llama", "hidden_size": 1024, "num_hidden_layers": 8, "num_attention_heads": 8,
                       "intermediate_size": 4096, "vocab_size": 32000}, out)
        with open(os.path.join(self.folder, "text.txt"), "w") as out:
            out.write("A byte a token. " * 1000)
        for rank in range(2):
            with gzip.open(os.path.join(self.folder, f"rank{rank}.pt.trace.json.gz"), "wt") as out:
                out.write(profile(rank))

    def test_every_command_works(self):
        self.lay_out()
        typed = 0
        for page in PAGES:
            for line in commands(page):
                if TOO_LONG in line:
                    continue
                with self.subTest(line):
                    done = self.type(line)
                    on_gpu = re.match(r"plumb (calibrate --model|validate|run)", line) and "--device cpu" not in line
                    if "holds nothing of gpt" not in done.stderr:  # the calibration laid out is of a llama
                        self.assertEqual(done.returncode, 3 if on_gpu else 0, done.stderr)
                    typed += 1
        self.assertGreater(typed, 30)

    def test_every_link_leads_somewhere(self):
        for page in (*PAGES, "ARCHITECTURE.md", "CONTRIBUTING.md"):
            for target in re.findall(r"\]\(([^)#]+)[^)]*\)", read(page)):
                if not target.startswith("http"):
                    self.assertTrue(os.path.exists(os.path.join(ROOT, os.path.dirname(page), target)), f"{page}: {target}")

    def test_the_picture_is_what_its_command_draws(self):
        drawing = "results/2026-11-24-three-schedules"
        done = self.type(read(f"{drawing}/command.txt"))
        self.assertEqual(done.returncode, 0, done.stderr)
        with open(os.path.join(self.folder, "three-schedules.svg")) as drawn:
            self.assertEqual(read(f"{drawing}/three-schedules.svg"), drawn.read(), f"draw it anew with {drawing}/command.txt")


if __name__ == "__main__":
    unittest.main()
