#!/usr/bin/env python3
"""`plumb run` on the processor: checkpoints, resuming, and what --dry-run says.

usage: run.py PLUMB
"""
import json
import os
import resource
import shlex
import subprocess
import sys
import tempfile
import unittest

PLUMB = os.path.abspath(sys.argv.pop(1))
LIMIT_S = 60
TINY = ("--model mlp --hidden 8 --layers 4 --ffn 16 --sequence 4")
BASE = "--ranks 2 --microbatches 4 --device cpu " + TINY


GPT = "--ranks 2 --microbatches 4 --device cpu --model gpt --hidden 16 --layers 2 --vocab 256 --sequence 8"


def run(line):
    return subprocess.run([PLUMB, "run", *shlex.split(line)], capture_output=True, text=True, timeout=LIMIT_S)


def data(line):
    done = run(line + " --json")
    assert done.returncode == 0, (line, done.stderr)
    return json.loads(done.stdout)


class Run(unittest.TestCase):
    def test_resuming_is_as_if_nothing_had_happened(self):
        with tempfile.TemporaryDirectory() as folder:
            whole = data(f"--schedule 1f1b {BASE} --steps 4")["loss"]
            first = data(f"--schedule 1f1b {BASE} --steps 2 --checkpoint {folder}/c")["loss"]
            rest = data(f"--schedule 1f1b {BASE} --steps 4 --checkpoint {folder}/c --resume")["loss"]
            self.assertEqual(first + rest, whole)

    def test_a_new_run_takes_no_older_runs_folder(self):
        with tempfile.TemporaryDirectory() as folder:
            data(f"--schedule 1f1b {BASE} --steps 2 --checkpoint {folder}/c")
            for more in ("", " --processes"):
                done = run(f"--schedule 1f1b {BASE} --steps 1 --checkpoint {folder}/c{more}")
                self.assertEqual(done.returncode, 2, done)
                self.assertIn("holds a checkpoint of step 2 already: --resume goes on from it", done.stderr)
            self.assertEqual(os.listdir(f"{folder}/c"), ["step-00000002"])

    def test_a_gpt_trains_with_its_head_tied_and_goes_on_under_another_schedule(self):
        gpt = "--ranks 2 --device cpu --model gpt --hidden 16 --layers 4 --heads 2 --vocab 64 --sequence 8"
        with tempfile.TemporaryDirectory() as folder:
            whole = None
            for schedule in ("1f1b", "zb-v", "dualpipe"):
                step = data(f"--schedule {schedule} --microbatches 4 {gpt} --steps 1 --check-gradients "
                            f"--checkpoint {folder}/{schedule}")
                self.assertLess(step["gradient_check"]["max_difference"], 1e-13)
                rest = data(f"--schedule 1f1b --microbatches 4 {gpt} --steps 2 --checkpoint {folder}/{schedule} --resume")
                whole = whole or rest["loss"][0]
                self.assertAlmostEqual(rest["loss"][0], whole, delta=1e-5)

    def test_norms_of_queries_and_keys_are_trained(self):
        config = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 16, "intermediate_size": 24,
                  "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 64,
                  "max_position_embeddings": 64, "tie_word_embeddings": True, "hidden_act": "silu"}
        with tempfile.TemporaryDirectory() as folder:
            with open(f"{folder}/config.json", "w") as file:
                json.dump(config, file)
            step = data(f"--schedule zb-h1 --ranks 2 --microbatches 4 --device cpu --model {folder}/config.json "
                        f"--sequence 8 --steps 1 --check-gradients")
            self.assertLess(step["gradient_check"]["max_difference"], 1e-13)

    # A copy of the whole schedule for each rank, which there once was, takes 3.3 GB.
    def test_a_thousand_ranks_fit_into_a_small_memory(self):
        line = "--schedule 1f1b --ranks 1000 --microbatches 4 --device cpu --steps 1 --model mlp --hidden 8 --layers 1000 --sequence 4"
        process = subprocess.Popen([PLUMB, "run", *shlex.split(line)], stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        self.assertEqual(process.returncode, 0)
        self.assertLess(used.ru_maxrss, 1 << 20, "KiB of memory")

    def test_what_is_only_simulated_is_refused_by_name(self):
        done = run(f"--schedule 1f1b {BASE} --steps 1 --recompute full")
        self.assertEqual(done.returncode, 2)
        self.assertIn("recompute", done.stderr)

    def test_a_damaged_checkpoint_is_refused_by_name(self):
        with tempfile.TemporaryDirectory() as folder:
            data(f"--schedule 1f1b {BASE} --steps 1 --checkpoint {folder}")
            path = f"{folder}/step-00000001/stage-0001.plumb"
            with open(path, "r+b") as file:
                file.truncate(os.path.getsize(path) - 3)
            done = run(f"--schedule 1f1b {BASE} --steps 2 --checkpoint {folder} --resume")
            self.assertEqual(done.returncode, 2)
            self.assertIn("stage-0001.plumb", done.stderr)

    def test_a_dry_run_says_what_each_rank_holds(self):
        document = data(f"--schedule dualpipe {BASE} --dry-run")
        self.assertEqual(len(document["ranks"]), 2)
        self.assertEqual(document["ranks"][0]["stages"], [0, 1])
        measured = data(f"--schedule dualpipe {BASE} --steps 1")
        self.assertEqual([rank["peak_activation_bytes"] for rank in document["ranks"]],
                         [rank["peak_activation_bytes"] for rank in measured["ranks"]])

    def test_the_executors_share_of_a_step_is_said(self):
        document = data(f"--schedule zb-h1 {BASE} --steps 3")
        overhead = document["executor_overhead"]
        self.assertLess(0, overhead["longest_ns"])  # threads take time to wake up
        self.assertLessEqual(overhead["longest_ns"], overhead["gaps_ns"])
        self.assertLess(overhead["share"], 1)
        self.assertIn("no dependency explains", run(f"--schedule zb-h1 {BASE} --steps 3").stdout)

    def test_timeline_and_trace_show_the_optimizer_and_what_memory_held(self):
        with tempfile.TemporaryDirectory() as folder:
            step = data(f"--schedule 1f1b {BASE} --steps 1 --timeline {folder}/t.json --trace {folder}/trace.json")
            with open(f"{folder}/t.json") as file:
                ranks = json.load(file)["ranks"]
            done = max(span["end_ns"] for rank in ranks for span in rank["compute"])
            for rank in ranks:
                # Every rank waits for the common norm of all gradients.
                self.assertLessEqual(done, rank["update"]["begin_ns"])
            # The step's time is the pipeline's alone.
            self.assertLess(step["step_time_ns"]["median"], max(rank["update"]["end_ns"] for rank in ranks))
            with open(f"{folder}/trace.json") as file:
                events = json.load(file)["traceEvents"]
            self.assertIn("optimizer", {event["name"] for event in events if event["ph"] == "X"})
            self.assertIn("memory", {event["name"] for event in events if event["ph"] == "C"})
            for rank in step["ranks"]:
                self.assertEqual(rank["peak_bytes"], sum(rank["memory_bytes"].values()))
                # Its two layers' weights, 2 x (8 x 16 + 16 x 8), in float32.
                self.assertEqual(rank["memory_bytes"]["weights"], 2 * 2 * 8 * 16 * 4)

    def test_every_copy_is_counted_with_all_of_the_optimizers_state(self):
        # Two moments in float32 of a rank's two layers, 2 x (8 x 16 + 16 x 8) weights; nothing shares them out over copies.
        for copies in (1, 2):
            line = f"--schedule 1f1b {BASE} --dp {copies}"
            for rank in data(f"{line} --steps 1")["ranks"]:
                self.assertEqual(rank["memory_bytes"]["optimizer"], 2 * 4 * 2 * 2 * 8 * 16)
            for rank in data(f"{line} --dry-run")["ranks"]:
                self.assertEqual(rank["held_bytes"], (4 + 4 + 2 * 4) * 2 * 2 * 8 * 16)

    def test_a_training_step_lasts_longer_than_its_pipeline(self):
        # It also takes the data, clips and updates.
        document = data(f"--schedule 1f1b {BASE} --steps 4")
        self.assertEqual(document["training_step_ns"]["n"], 3)
        self.assertGreater(document["training_step_ns"]["min"], document["step_time_ns"]["min"])

    def test_a_dry_run_says_where_each_rank_runs(self):
        line = "--schedule 1f1b --ranks 3 --microbatches 4 " + TINY.replace("--layers 4", "--layers 3") + " --dry-run"
        for flags, places in (("--device cpu", ["thread"] * 3), ("--device cpu --processes", ["process"] * 3),
                              ("--device cuda", [f"thread, GPU 0, share {r} of 3" for r in (1, 2, 3)]),
                              ("--transport nccl --gpus 4", [f"process, GPU {r}" for r in range(3)]),
                              ("--transport nccl --gpus 1", ["process, GPU 0 with 2 others under MPS"] * 3),
                              # Ranks 0 and 2 share the first of two.
                              ("--transport nccl --gpus 2 --shares", ["process, GPU 0, share 1 of 2", "process, GPU 1, share 1 of 2",
                                                                      "process, GPU 0, share 2 of 2"])):
            self.assertEqual([rank["runs_on"] for rank in data(f"{line} {flags}")["ranks"]], [[p] for p in places])

    def test_what_cannot_be_written_is_said_before_the_first_step(self):
        with tempfile.NamedTemporaryFile() as file:
            for flags, place in (("--trace /nowhere/t.json", "/nowhere/t.json"), ("--timeline /tmp", "/tmp"),
                                 (f"--checkpoint {file.name}", file.name), (f"--checkpoint {file.name}/c", file.name),
                                 ("--processes --timeline /nowhere/t.json", "/nowhere/t.json")):
                done = run(f"--schedule 1f1b {BASE} --steps 1000000000 {flags}")
                self.assertEqual((done.returncode, done.stdout), (2, ""), flags)
                self.assertIn(place, done.stderr)
                self.assertEqual(done.stderr.count("\n"), 1, done.stderr)

    def test_what_the_steps_came_to_is_said_though_the_disk_is_full_at_the_end(self):
        def small_disk():
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

        with tempfile.TemporaryDirectory() as folder:
            line = f"--schedule 1f1b {BASE} --steps 3 --json --trace {folder}/trace.json"
            done = subprocess.run([PLUMB, "run", *shlex.split(line)], capture_output=True, text=True, timeout=LIMIT_S,
                                  preexec_fn=small_disk)
            self.assertEqual(done.returncode, 2)
            self.assertEqual(len(json.loads(done.stdout)["loss"]), 3)
            self.assertIn("trace.json: cannot be written", done.stderr)
            self.assertEqual(os.listdir(folder), [])

    def test_the_check_of_gradients_says_whether_they_are_equal(self):
        line = f"--ranks 2 --microbatches 4 --device cpu {TINY} --steps 1 --check-gradients"
        self.assertIn("without a pipeline, exactly", run(f"--schedule 1f1b {line}").stdout)
        # Two ranks own each stage of DualPipe's, so its sums have another order.
        self.assertIn("differ from the model's without a pipeline by at most", run(f"--schedule dualpipe {line}").stdout)

    def test_a_training_that_falls_apart_says_so(self):
        line = f"--schedule 1f1b {BASE} --steps 3"
        self.assertIn("diverged", run(f"{line} --lr 1e30").stdout)
        self.assertNotIn("diverged", run(line).stdout)

    def test_what_cannot_be_is_refused_with_one_sentence(self):
        for line, says in ((f"--schedule 1f1b {BASE} --resume", "--checkpoint"),
                           (f"--schedule 1f1b {BASE} --resume --checkpoint /nowhere", "/nowhere"),
                           (f"--schedule 1f1b {BASE} --resume --checkpoint /x --check-gradients", "--check-gradients"),
                           (f"--schedule 1f1b {BASE} --checkpoint-every 2", "--checkpoint"),
                           (f"--schedule 1f1b {BASE} --lr nan", "--lr"), (f"--schedule 1f1b {BASE} --lr=-1", "--lr"),
                           (f"--schedule 1f1b {BASE} --dtype fp8", "--dtype"),
                           (f"--schedule 1f1b {BASE} --gradients bf16", "--gradients"),
                           (f"--schedule 1f1b {BASE} --transport nccl", "--transport"),
                           (f"--schedule 1f1b {BASE} --device cuda --processes".replace("--device cpu", ""), "--processes"),
                           (f"--schedule 1f1b {BASE} --rank 2 --rendezvous localhost:4000", "--rank"),
                           (f"--schedule 1f1b {BASE} --rank 0 --rendezvous localhost", "--rendezvous"),
                           (f"--schedule 1f1b {BASE} --deadline 0s", "--deadline"),
                           (f"--schedule 1f1b {BASE} --gpus 2", "--gpus"), (f"--schedule 1f1b {BASE} --shares", "--shares"),
                           (f"--schedule 1f1b {BASE} --shared-threads", "--shared-threads"),
                           (f"--schedule 1f1b {BASE} --no-shared-threads", "--shared-threads"),
                           (f"--schedule 1f1b {GPT} --heads 2 --data /tmp", "/tmp: is a folder"),
                           (f"--schedule 1f1b {GPT.replace('gpt', 'llama')} --heads 16", "even"),
                           (f"--schedule 1f1b {GPT.split('--model')[0]} --model mixtral-8x7b --dry-run", "experts"),
                           (f"--schedule 1f1b {BASE} --recompute full --dry-run", "recompute")):
            done = run(line)
            self.assertEqual((done.returncode, done.stdout), (2, ""), line)
            self.assertIn(says, done.stderr)
            self.assertEqual(done.stderr.count("\n"), 1, done.stderr)


if __name__ == "__main__":
    unittest.main()
