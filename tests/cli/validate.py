#!/usr/bin/env python3
"""plumb validate on CPU ranks: what it prints, its exit codes, and that peak activation bytes are predicted exactly.

usage: validate.py PLUMB

Step times are not looked at: the calibration is made up. What a rank's arena holds at its fullest is no matter of time,
so there the prediction, which comes from the model's formulas, has to be right to the byte.
"""
import json
import os
import socket
import subprocess
import sys
import tempfile
import unittest

PLUMB = os.path.abspath(sys.argv.pop(1))
LIMIT_S = 120
HIDDEN, TOKENS = 32, 16
SCHEDULES = ("gpipe,1f1b,interleaved-1f1b:2,looped-bfs:2,1f1b-overlap,interleaved-1f1b-overlap:2,zb-h1,zb-h2,"
             "interleaved-zb:2,zb-v,v-half,v-min,1f1b-v,group-interleaved:2,dualpipe,dualpipe-v,chimera,hanayo:2")


def summary(ns):
    return {"samples": 9, "min_ns": ns, "lower_quartile_ns": ns, "median_ns": ns, "upper_quartile_ns": ns, "max_ns": ns,
            "low95_ns": ns, "high95_ns": ns}


def calibration():
    """One layer of an mlp, every kind of op 100 us."""
    kinds = ["forward", "backward_input", "backward_weight", "backward"]
    segment = {"name": "layer", "lane": "compute", "class": "gemm", "duration_ns": 100000}
    return {
        "schema": "plumb.calibration/1", "name": "made-up", "about": "a test", "provenance": {"gpu": "NVIDIA H200"},
        "chunk_layers": 1, "model_layers": 4, "classes": ["gemm"], "slowdown_ppm": [], "message_class": None,
        "layer": {kind: [segment] for kind in kinds}, "link": {"latency_ns": 1000, "bytes_per_s": 1e9},
        "activation_message_bytes": 4 * HIDDEN * TOKENS, "gradient_bytes_per_layer": 0,
        "sources": {figure: "assumed" for figure in kinds + ["p2p"]},
        "work": [{"name": "layer", "kind": kind, "model": "mlp", "data_type": "fp32", "class": "gemm",
                  "shape": {"ffn": 4 * HIDDEN, "hidden": HIDDEN, "micro_batch": 1, "sequence": TOKENS},
                  "setting": {"share": "whole_gpu"}, "time": summary(100000)} for kind in kinds],
    }


class Validate(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.file = os.path.join(self.folder.name, "calibration.json")
        with open(self.file, "w") as out:
            json.dump(calibration(), out)

    def run_plumb(self, *args):
        return subprocess.run([PLUMB, "validate", "--calibration", self.file, *map(str, args)], capture_output=True, text=True,
                              timeout=LIMIT_S)

    def on_cpu(self, *args, model=("--model", "mlp", "--hidden", HIDDEN), layers=16):
        return self.run_plumb("--device", "cpu", "--ranks", 4, *model, "--layers", layers, "--sequence", TOKENS, "--dtype",
                              "fp32", "--steps", 1, *args)

    def test_rows_have_the_documents_keys_and_peak_activations_are_exact(self):
        done = self.on_cpu("--schedules", SCHEDULES, "--microbatches", 8, "--tolerance", "1000%", "--json")
        document = json.loads(done.stdout)
        self.assertEqual(document["schema"], "plumb.validation/1")
        self.assertEqual(len(document["rows"]), 18)
        for row in document["rows"]:
            for key in ("schedule", "chunks", "model", "ranks", "microbatches", "transport", "predicted", "measured", "step_error"):
                self.assertIn(key, row)
            for side in ("predicted", "measured"):
                for key in ("step_time_ns", "idle_share", "peak_activation_bytes"):
                    self.assertIn(key, row[side])
            peaks = [row[side]["peak_activation_bytes"] for side in ("predicted", "measured")]
            self.assertGreater(peaks[1], 0)
            self.assertEqual(peaks[0], peaks[1], row["schedule"])
            self.assertTrue(0 <= row["executor_overhead"] < 1, row["executor_overhead"])
            ratio = row["predicted"]["step_time_ns"] / row["measured"]["step_time_ns"]
            self.assertAlmostEqual(row["step_error"], ratio - 1, places=9)

    def test_a_fullest_rank_of_1f1b_holds_what_the_formula_says(self):
        # Rank 0 holds min(p, m) = 4 microbatches of its 4 layers. A layer keeps, in float32, linear_1's input (h) for
        # backward_weight, GELU's input (4h) for backward_input and linear_2's input (4h) for backward_weight: 9h a token.
        done = self.on_cpu("--schedules", "1f1b", "--microbatches", 8, "--tolerance", "1000%", "--json")
        row = json.loads(done.stdout)["rows"][0]
        self.assertEqual(row["measured"]["peak_activation_bytes"], 4 * 4 * 9 * HIDDEN * TOKENS * 4)

    def as_processes(self, *lines):
        """A process for each line of arguments, as a launcher starts them: what each printed and how it ended."""
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            meet = one.getsockname()[1]
        names = ("--device", "cpu", "--ranks", len(lines), "--model", "mlp", "--sequence", TOKENS, "--dtype", "fp32", "--steps",
                 1, "--deadline", "20s", "--tolerance", "1000%", "--json")
        started = []
        for rank, line in enumerate(lines):
            place = {"RANK": rank, "WORLD_SIZE": len(lines), "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": len(lines),
                     "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": meet - 1}
            started.append(subprocess.Popen([PLUMB, "validate", *map(str, (*names, *line))], stdout=subprocess.PIPE,
                                            stderr=subprocess.PIPE, text=True,
                                            env={**os.environ, **{k: str(v) for k, v in place.items()}}))
        ended = [process.communicate(timeout=LIMIT_S) for process in started]
        return [(process.returncode, out, err) for process, (out, err) in zip(started, ended)]

    def test_processes_go_through_all_rows_together(self):
        line = ("--calibration", self.file, "--schedules", "1f1b,dualpipe,1f1b", "--microbatches", 4, "--hidden", HIDDEN,
                "--layers", 2)
        (code, out, err), other = self.as_processes(line, line)
        self.assertEqual((code, *other), (0, 0, "", ""), err)
        rows = json.loads(out)["rows"]
        self.assertEqual([row["schedule"] for row in rows], ["1f1b", "dualpipe"])  # the third is there already
        for row in rows:
            self.assertEqual(row["predicted"]["peak_activation_bytes"], row["measured"]["peak_activation_bytes"])
        for phase in ("2 processes have met", "prediction", "data", "steps"):
            self.assertIn(phase, err)

    def test_ranks_that_were_given_different_things_are_named(self):
        other = os.path.join(self.folder.name, "other.json")
        with open(other, "w") as out:
            json.dump({**calibration(), "name": "another"}, out)
        line = ("--calibration", self.file, "--schedules", "1f1b", "--microbatches", 4, "--hidden", HIDDEN, "--layers", 3)
        for changed, says in (({self.file: other}, "what --calibration holds must be the same on all ranks"),
                              ({HIDDEN: 2 * HIDDEN}, "--model must be the same on all ranks"),
                              ({"1f1b": "gpipe"}, "--schedules must be the same on all ranks, and is 1f1b on ranks 0, 1, gpipe on rank 2")):
            with self.subTest(says=says):
                done = self.as_processes(line, line, [changed.get(word, word) for word in line])
                self.assertEqual([code for code, _, _ in done], [2, 2, 2], done)
                self.assertIn(says, done[0][2])
                self.assertEqual([err for _, _, err in done[1:]], ["", ""])

    def test_a_rank_that_cannot_begin_says_why_to_all(self):
        line = ("--calibration", self.file, "--schedules", "1f1b", "--microbatches", 4, "--hidden", HIDDEN, "--layers", 2)
        done = self.as_processes(line, ["/nowhere.json" if word == self.file else word for word in line])
        self.assertEqual([code for code, _, _ in done], [3, 2], done)
        for _, _, err in done:
            self.assertIn("/nowhere.json", err)

    def test_a_trace_holds_both(self):
        trace = os.path.join(self.folder.name, "trace.json")
        self.on_cpu("--schedules", "1f1b", "--microbatches", 4, "--trace", trace)
        with open(trace) as text:
            names = {e["args"]["name"] for e in json.load(text)["traceEvents"] if e.get("name") == "process_name"}
        self.assertEqual(len([n for n in names if n.endswith("predicted")]), 4)
        self.assertEqual(len([n for n in names if n.endswith("measured")]), 4)

    def test_an_mlp_has_a_layer_for_every_chunk_of_the_finest_schedule(self):
        # 4 ranks x 2 chunks = 8 layers, also for 1F1B: rank 0 holds 4 microbatches of 2 layers, 9h floats a token each.
        done = self.run_plumb("--device", "cpu", "--ranks", 4, "--model", "mlp", "--hidden", HIDDEN, "--sequence", TOKENS, "--dtype",
                              "fp32", "--steps", 1, "--schedules", "1f1b,zb-v", "--microbatches", 8, "--tolerance", "1000%", "--json")
        row = json.loads(done.stdout)["rows"][0]
        self.assertEqual(row["measured"]["peak_activation_bytes"], 4 * 2 * 9 * HIDDEN * TOKENS * 4)

    def test_rows_are_kept_as_they_are_measured_and_not_measured_again(self):
        rows = os.path.join(self.folder.name, "rows.json")
        some = self.on_cpu("--schedules", "1f1b", "--microbatches", 8, "--tolerance", "1000%", "--out", rows, "--json")
        with open(rows) as text:
            first = json.load(text)
        self.assertEqual(first, json.loads(some.stdout))
        # The first row stays as it was, to the nanosecond, and only the second is measured.
        more = self.on_cpu("--schedules", "1f1b,zb-v", "--microbatches", 8, "--tolerance", "1000%", "--out", rows, "--resume", "--json")
        with open(rows) as text:
            both = json.load(text)
        self.assertEqual(both, json.loads(more.stdout))
        self.assertEqual([row["schedule"] for row in both["rows"]], ["1f1b", "zb-v"])
        self.assertEqual(both["rows"][0], first["rows"][0])
        self.assertIn("1 of 2: 1f1b:1, 8 microbatches: there", more.stderr)

    # One run has two rows: predicted 110 of measured 100 (+10 %, bubble 1 point off) and 97 of 100 (-3 %, 2 points). The second is
    # not measured to be faster, nor the first, so the pair is named rightly. Another run has the first again, which is compared
    # with none. The median of 10, 3 and 10 % is 10 %.
    def test_records_come_to_their_median_and_worst(self):
        def figures(ns, idle, peak=64):
            return {"step_time_ns": ns, "idle_share": idle, "peak_activation_bytes": peak, "exposed_communication_ns": 0}

        def row(schedule, predicted, measured):
            return {"schedule": schedule, "chunks": 1, "model": "mlp 4 x 8", "ranks": 4, "microbatches": 8, "transport": "local",
                    "predicted": predicted, "measured": measured, "measured_fastest_ns": 1, "measured_slowest_ns": 1,
                    "step_error": 0, "classes": []}

        files = [os.path.join(self.folder.name, name) for name in ("a.json", "b.json")]
        rows = (row("1f1b", figures(110, 0.25), figures(100, 0.26)), row("zb-h1", figures(97, 0.1), figures(100, 0.12, 65)))
        for file, some in zip(files, (rows, rows[:1])):
            with open(file, "w") as out:
                json.dump({"schema": "plumb.validation/1", "rows": some}, out)
        done = subprocess.run([PLUMB, "validate", "--summarize", *files], capture_output=True, text=True, timeout=LIMIT_S)
        self.assertEqual(done.returncode, 0, done.stderr)
        line = done.stdout.splitlines()[2]
        self.assertEqual([cell.strip() for cell in line.strip("|").split("|")],
                         ["mlp 4 x 8, 4 ranks, local", "10.00 %", "+10.00 %", "2.00 points", "1 of 1", "2 of 3"])

    def test_what_cannot_be_written_is_said_before_a_step_is_measured(self):
        for flags in (("--out", "/nowhere/rows.json"), ("--trace", "/nowhere/trace.json"), ("--timelines", self.file)):
            done = self.on_cpu("--schedules", "1f1b", "--microbatches", 4, *flags)
            self.assertEqual((done.returncode, done.stdout), (2, ""), flags)
            self.assertTrue(done.stderr.startswith(f"plumb: {flags[1]}: cannot be "), done.stderr)

    def test_timelines_go_to_a_folder_that_is_made_for_them(self):
        folder = os.path.join(self.folder.name, "new", "timelines")
        self.on_cpu("--schedules", "1f1b", "--microbatches", 4, "--timelines", folder)
        self.assertEqual(sorted(os.listdir(folder)), ["1f1b-1-4ranks-4mb.0.json", "1f1b-1-4ranks-4mb.predicted.json"])

    def test_exit_code_1_beyond_the_tolerance(self):
        self.assertEqual(self.on_cpu("--schedules", "1f1b", "--microbatches", 4, "--tolerance", "0%").returncode, 1)

    def test_bad_input_is_one_message(self):
        for args, says in (
                (("--schedules", "nope", "--microbatches", 4), "no schedule is called 'nope'"),
                (("--schedules", "interleaved-1f1b:x", "--microbatches", 4), "behind the colon stands the number of chunks"),
                (("--schedules", "dualpipe", "--microbatches", 3), "needs an even number of microbatches"),
                (("--schedules", "1f1b", "--microbatches", 4, "--resume"), "--resume: needs --out FILE"),
                (("--schedules", "1f1b", "--microbatches", 4, "--tolerance", "5"), "is not a percentage"),
                (("--schedules", "1f1b", "--microbatches", 4, "--tolerance", "nan%"), "is not a percentage")):
            done = self.on_cpu(*args)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertEqual(done.stdout, "")
            self.assertIn(says, done.stderr)


if __name__ == "__main__":
    unittest.main()
