#!/usr/bin/env python3
"""What scripts rely on: exit codes, streams, JSON keys, and one clear message for every bad input.

usage: contract.py PLUMB
"""
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import unittest

PLUMB = os.path.abspath(sys.argv.pop(1))
UNIT = "forward=1ms,backward_input=1ms,backward_weight=1ms,overlapped=3ms,p2p=0ms"
# A message may take this long on a busy machine; a hang is what the limit is for.
LIMIT_S = 20


def run(*args, stdin=None):
    return subprocess.run([PLUMB, *map(str, args)], capture_output=True, text=True, timeout=LIMIT_S, input=stdin)


def data(*args, stdin=None):
    done = run(*args, stdin=stdin)
    assert done.returncode == 0, (args, done.stderr)
    assert done.stderr == "", (args, done.stderr)
    return json.loads(done.stdout)


class Contract(unittest.TestCase):
    def refused(self, *args, says, stdin=None):
        done = run(*args, stdin=stdin)
        self.assertEqual(done.returncode, 2, (args, done.stdout[:200], done.stderr[:200]))
        self.assertEqual(done.stdout, "")
        self.assertTrue(done.stderr.startswith("plumb: "), done.stderr[:200])
        self.assertIn(says, done.stderr)

    def test_schedule_has_the_documents_keys(self):
        document = data("schedule", "dualpipe", "--ranks", 4, "--microbatches", 8, "--format", "json")
        self.assertEqual(list(document), ["schema", "name", "ranks", "stages", "microbatches", "actions"])
        self.assertEqual(document["schema"], "plumb.schedule/1")
        self.assertEqual(document["actions"][0][7], "(0F3;3B5)OVERLAP_F_B")

    def test_zb1p_prints_zb_h1(self):
        self.assertEqual(data("schedule", "zb1p", "--ranks", 2, "--microbatches", 4, "--format", "json")["name"], "zb-h1")

    def test_messages_stand_among_the_actions(self):
        one = data("schedule", "1f1b", "--ranks", 2, "--microbatches", 1, "--comms", "per-op", "--format", "json")
        self.assertEqual(one["actions"], [["0F0", "0SEND_F0", "0RECV_B0", "0B0"], ["1RECV_F0", "1F0", "1B0", "1SEND_B0"]])
        group = data("schedule", "1f1b", "--ranks", 2, "--microbatches", 1, "--comms", "batched", "--format", "json")
        self.assertEqual(group["actions"][0], ["0F0", {"group": [["0SEND_F0", 1], ["0RECV_B0", 1]]}, "0B0"])

    def test_every_schedule_checks_valid_with_and_without_messages(self):
        for row in data("schedules", "--json")["schedules"]:
            for comms in ([], ["--comms", "per-op"], ["--comms", "batched"]):
                made = run("schedule", row["name"], "--ranks", 4, "--microbatches", 8, "--format", "json", *comms)
                self.assertEqual(data("check", "-", "--json", stdin=made.stdout)["valid"], True, (row["name"], comms))

    def test_csv_reads_back(self):
        made = run("schedule", "zb-v", "--ranks", 4, "--microbatches", 8, "--format", "csv")
        self.assertEqual(data("check", "-", "--json", stdin=made.stdout),
                         {"schema": "plumb.check/1", "valid": True, "violations": [], "deadlock_cycle": []})

    def test_two_owner_schedules_are_no_csv(self):
        self.refused("schedule", "dualpipe", "--ranks", 4, "--microbatches", 8, "--format", "csv", says="dualpipe-v")

    def test_model_has_the_documents_keys(self):
        document = data("model", "deepseek-v3", "--sequence", 4096, "--json")
        self.assertEqual(list(document)[:5], ["schema", "name", "parameters", "active_parameters", "multi_token_parameters"])
        self.assertEqual((document["schema"], document["name"]), ("plumb.model/1", "deepseek-v3"))
        self.assertEqual((document["parameters"], document["layers"], document["sequence"]), (671026419200, 61, 4096))
        # Six a parameter that a token is multiplied with (all active ones but the embedding, gains and gate biases),
        # and 6 s heads (192 + 128) a layer.
        gains = 61 * (2 * 7168 + 1536 + 512) + 7168 + 58 * 256
        products = document["active_parameters"] - 129280 * 7168 - gains
        self.assertEqual(document["train_flops_per_token"], 6 * products + 61 * 6 * 4096 * 128 * 320)

    SMALL = ["--hidden", 1024, "--layers", 8, "--heads", 16, "--sequence", 1024]

    def test_simulate_takes_a_model(self):
        report = data("simulate", "1f1b", *self.SMALL, "--ranks", 4, "--microbatches", 8, "--tp", 2, "--dp", 2,
                      "--micro-batch-size", 2, "--gpu", "h100", "--json")
        self.assertEqual(report["schema"], "plumb.report/1")
        for rank in report["ranks"]:
            self.assertEqual(list(rank["memory_bytes"]),
                             ["weights", "gradients", "optimizer", "activations", "weight_gradient_remnants",
                              "receive_buffers", "workspace", "reserve"])
            self.assertEqual(sum(rank["memory_bytes"].values()), rank["peak_bytes"])
        # Two copies of 8 microbatches of 2 sequences of 1,024 tokens.
        self.assertAlmostEqual(report["tokens_per_s"], 2 * 8 * 2 * 1024 / (report["step_time_ns"] * 1e-9), 3)
        self.assertGreater(report["mfu"], 0.01)
        self.assertLess(report["mfu"], 0.7)
        for figure in ("forward", "backward", "backward_input", "backward_weight", "link", "memory"):
            self.assertEqual(report["sources"][figure], "estimated")
        self.assertEqual(report["sources"]["slowdown"], "assumed")

    def test_simulate_takes_layers_on_stages_and_recompute_by_stage(self):
        base = ["simulate", "1f1b", *self.SMALL, "--ranks", 2, "--microbatches", 4, "--gpu", "h100", "--json"]
        even, uneven = data(*base), data(*base, "--layout", "Et*6|ttL")
        self.assertGreater(uneven["ranks"][0]["memory_bytes"]["weights"], even["ranks"][0]["memory_bytes"]["weights"])
        again = data(*base, "--recompute", "full:0")
        self.assertLess(again["ranks"][0]["memory_bytes"]["activations"], even["ranks"][0]["memory_bytes"]["activations"])
        self.assertEqual(again["ranks"][1]["memory_bytes"], even["ranks"][1]["memory_bytes"])
        self.assertGreater(again["step_time_ns"], even["step_time_ns"])

    def test_out_of_memory_is_exit_1_with_the_op_and_what_fits(self):
        step = ["simulate", "1f1b", "--model", "llama-3-8b", "--ranks", 4, "--microbatches", 16, "--dp", 2,
                "--micro-batch-size", 2, "--sequence", 8192, "--gpu", "h100", "--memory", "80GiB"]
        done = run(*step, "--json")
        self.assertEqual(done.returncode, 1, done.stderr)
        report = json.loads(done.stdout)
        crossed = report["out_of_memory"]["ranks"]
        self.assertEqual(report["out_of_memory"]["limit_bytes"], 80 << 30)
        self.assertEqual([rank["rank"] for rank in crossed],
                         [i for i, rank in enumerate(report["ranks"]) if rank["peak_bytes"] > 80 << 30])
        for rank in crossed:
            self.assertGreater(rank["held_bytes"], 80 << 30)
            self.assertEqual(rank["peak_bytes"], report["ranks"][rank["rank"]]["peak_bytes"])
        # Rank 0 of four has its fourth forward before its first backward; each keeps as much.
        self.assertRegex(crossed[0]["action"], "^0F[0-3]$")
        remedies = report["out_of_memory"]["remedies"]
        self.assertTrue(remedies)
        self.assertEqual([r["step_time_ns"] for r in remedies], sorted(r["step_time_ns"] for r in remedies))
        recompute = next(r for r in remedies if r["change"].startswith("--recompute"))
        fits = data(*step, *recompute["change"].split(), "--json")
        self.assertEqual(fits["step_time_ns"], recompute["step_time_ns"])
        self.assertEqual(max(rank["peak_bytes"] for rank in fits["ranks"]), recompute["peak_bytes"])
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "trace.json")
            text = run(*step, "--trace", path)
            with open(path) as trace:
                marks = [event for event in json.load(trace)["traceEvents"] if event["ph"] == "i"]
        self.assertEqual([event["name"] for event in marks], ["out of memory"] * len(crossed))
        self.assertAlmostEqual(marks[0]["ts"], crossed[0]["time_ns"] / 1000, 2)
        self.assertEqual(text.returncode, 1)
        self.assertIn("crosses it at 0F", text.stdout)
        self.assertIn(recompute["change"], text.stdout)

    def test_what_fits_is_exit_0_and_says_nothing_of_memory(self):
        report = data("simulate", "1f1b", *self.SMALL, "--ranks", 2, "--microbatches", 4, "--gpu", "h100",
                      "--memory", "80GiB", "--json")
        self.assertNotIn("out_of_memory", report)

    def test_simulate_refuses_half_a_model(self):
        shape = ["--ranks", 2, "--microbatches", 4]
        self.refused("simulate", "1f1b", *self.SMALL, *shape, says="--gpu: is required")
        self.refused("simulate", "1f1b", *self.SMALL, *shape, "--gpu", "h101", says="described are: a100 h100")
        self.refused("simulate", "1f1b", *self.SMALL, *shape, "--gpu", "h100", "--costs", UNIT, says="--costs")
        self.refused("simulate", "1f1b", *shape, "--gpu", "h100", "--costs", UNIT, says="--gpu: needs a model")
        self.refused("simulate", "1f1b", *shape, "--layers", 4, "--costs", UNIT, says="--layers")
        self.refused("simulate", "1f1b", *self.SMALL, *shape, "--gpu", "h100", "--memory", "80", says="--memory")
        self.refused("simulate", "1f1b", *shape, "--costs", UNIT, "--memory", "80GiB", says="nothing of bytes")
        self.refused("simulate", "1f1b", *self.SMALL, "--ranks", 16, "--microbatches", 4, "--gpu", "h100", says="layers")

    def test_simulate_takes_what_was_measured_of_a_model(self):
        step = ["simulate", "dualpipe", "--model", "deepseek-v3", "--ranks", 16, "--microbatches", 32, "--dp", 64, "--ep", 64,
                "--sequence", 4096, "--dtype", "fp8", "--calibration", "deepseek-v3-h800"]
        report = data(*step, "--json")
        self.assertEqual(report["sources"]["expert_layer"], "measured")
        self.assertEqual(report["sources"]["slowdown"], "measured")
        self.assertGreater(report["mfu"], 0.2)
        self.refused("simulate", "1f1b", "--model", "llama-3-8b", "--ranks", 4, "--microbatches", 8,
                     "--calibration", "deepseek-v3-h800", says="holds nothing of llama-3-8b")

    def test_draw_and_trace_take_a_model_too(self):
        step = ["1f1b", *self.SMALL, "--ranks", 2, "--microbatches", 2, "--gpu", "h100"]
        self.assertEqual(run("draw", *step).returncode, 0)
        trace = json.loads(run("trace", *step).stdout)
        names = {event["name"] for event in trace["traceEvents"]}
        self.assertTrue({"0F0 attention", "optimizer"} <= names, sorted(names)[:40])

    def test_model_reads_a_file_its_folder_and_the_short_form(self):
        config = {"model_type": "novel", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
                  "intermediate_size": 256, "vocab_size": 128, "novelty": 1}
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "config.json")
            with open(path, "w") as file:
                json.dump(config, file)
            by_file, by_folder = data("model", path, "--json"), data("model", folder, "--json")
        by_flags = data("model", "--hidden", 64, "--layers", 2, "--heads", 4, "--ffn", 256, "--vocab", 128, "--json")
        self.assertEqual(by_file, by_folder)
        self.assertEqual(by_file["name"], os.path.basename(folder))
        self.assertEqual(by_file["ignored"], ["novelty"])
        self.assertIn("novel", by_file["warnings"][0])
        # 2 x 128 x 64 at both ends, 2 layers of 4 x 64^2 + 3 x 64 x 256 + 2 x 64, 64.
        self.assertEqual(by_file["parameters"], 2 * 128 * 64 + 2 * (4 * 64**2 + 3 * 64 * 256 + 2 * 64) + 64)
        self.assertEqual(by_flags["parameters"], by_file["parameters"])

    def test_model_refuses_what_cannot_be(self):
        self.refused("model", "lama-3-8b", says="did you mean llama-3-8b?")
        self.refused("model", "--hidden", 64, says="--layers")
        self.refused("model", "llama-3-8b", "--tp", 3, says="--tp: 3 does not divide the 32 attention heads")
        self.refused("model", "llama-3-8b", "--cp", 2, says="context parallelism")
        self.refused("model", "llama-3-8b", "--heads", 2, says="--heads: is for a model without a file")
        self.refused("model", "llama-3-8b", "--layout", "Et*31L", says="only 31 of the model's 32 layers")
        self.refused("model", "mixtral-8x7b", "--ep", 16, "--dp", 16, says="--ep: 16 does not divide the 8 routed")
        self.refused("model", "--model", "gpt", "--hidden", 64, "--layers", 2, "--heads", 4, "--sequence", 4096, "--layout", "Et|tL",
                     "--stages", 3, says="--layout: has 2 stages, expected 3")
        with tempfile.TemporaryDirectory() as folder:
            self.refused("model", folder, says="config.json: cannot be read")
            for content, says in ((b"", "is not JSON"), (b"\x00\x01", "binary"), (b'{"hidden_size":NaN}', "is not JSON"), (b"[" * 100000, "nested deeper")):
                path = os.path.join(folder, "broken.json")
                with open(path, "wb") as file:
                    file.write(content)
                self.refused("model", path, says=says)
        self.refused("model", "-", says="standard input: /hidden_size", stdin='{"model_type":"llama","hidden_size":-1}')

    # DualPipe's example model, a layer a stage, on CPU threads: three steps, of which the first is no timing.
    RUN = ["--ranks", 2, "--microbatches", 4, "--model", "mlp", "--hidden", 16, "--sequence", 8, "--dtype", "fp32",
           "--device", "cpu", "--steps", 3]

    def test_run_has_the_contracts_keys_and_the_models_gradients(self):
        for schedule in ("1f1b", "zb-h1", "dualpipe"):
            document = data("run", "--schedule", schedule, *self.RUN, "--check-gradients", "--json")
            self.assertEqual(document["schema"], "plumb.run/1")
            self.assertEqual(sorted(document["step_time_ns"]), ["median", "min", "n", "p95"])
            self.assertEqual((document["step_time_ns"]["n"], len(document["loss"])), (2, 3))
            # A rank has these, and what its memory held beside.
            self.assertLessEqual({"compute_busy_ns", "idle_ns", "peak_activation_bytes"}, set(document["ranks"][0]))
            self.assertLess(document["gradient_check"]["max_difference"], 1e-13)
            # Of a layer: its input, and the inner tensor before and after GELU, 8 tokens of 16 and twice 64 floats;
            # 1f1b holds two microbatches on the first rank.
            if schedule == "1f1b":
                self.assertEqual(document["ranks"][0]["peak_activation_bytes"], 2 * 8 * (16 + 64 + 64) * 4)

    def test_run_leaves_a_timeline_that_others_read(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "timeline.json")
            run("run", "--schedule", "1f1b", *self.RUN, "--timeline", path)
            self.assertEqual(run("trace", path, "--out", os.path.join(folder, "trace.json")).returncode, 0)

    def test_run_refuses_what_it_cannot_run(self):
        self.refused("run", "--schedule", "1f1b", *self.RUN, "--transport", "nccl", says="--transport")
        self.refused("run", "--schedule", "1f1b", *self.RUN, "--deadline", "60", says="--deadline")
        self.refused("run", "--schedule", "1f1c", *self.RUN, says="1f1c")

    def test_check_names_a_deadlock(self):
        crossed = {"schema": "plumb.schedule/1", "name": "x", "ranks": 2, "stages": 2, "microbatches": 2,
                   "actions": [["0F0", "0B0", "0F1", "0B1"], ["1F0", "1F1", "1B0", "1B1"]]}
        done = run("check", "-", "--json", stdin=json.dumps(crossed))
        self.assertEqual(done.returncode, 1)
        result = json.loads(done.stdout)
        self.assertFalse(result["valid"])
        self.assertEqual([(v["rank"], v["index"], v["action"], v["kind"]) for v in result["violations"]],
                         [(0, 1, "0B0", "deadlock"), (1, 1, "1F1", "deadlock")])
        self.assertEqual(result["deadlock_cycle"], [{"rank": 0, "index": 1, "action": "0B0"}, {"rank": 1, "index": 1, "action": "1F1"}])
        shown = run("check", "-", stdin=json.dumps(crossed)).stdout
        self.assertIn(">0B0<", shown)
        self.assertIn("would break the cycle", shown)

    def test_an_invalid_schedule_is_not_simulated(self):
        self.refused("simulate", "-", "--costs", UNIT, stdin="0F0\n", says="missing")

    def test_simulate_has_the_reports_keys_and_definitions(self):
        report = data("simulate", "dualpipe", "--ranks", 8, "--microbatches", 20, "--costs", UNIT, "--json")
        self.assertEqual((report["schema"], report["makespan_ns"], report["span_ns"]), ("plumb.report/1", 66_000_000, 66_000_000))
        self.assertAlmostEqual(report["idle_share"], sum(r["idle_ns"] for r in report["ranks"]) / (8 * 66e6))
        for rank in report["ranks"]:
            self.assertEqual(rank["compute_busy_ns"] + rank["idle_ns"], report["makespan_ns"])
            self.assertEqual(sum(rank["idle_by_cause"].values()), rank["idle_ns"])
            self.assertEqual(rank["peak_live_activations"], 9)
        self.assertEqual(data("simulate", "1f1b", "--ranks", 8, "--microbatches", 20, "--costs", UNIT, "--json")["makespan_ns"], 81_000_000)
        self.assertEqual(data("simulate", "zb1p", "--ranks", 8, "--microbatches", 20, "--costs", UNIT, "--json")["makespan_ns"], 67_000_000)

    def test_the_critical_path_reaches_from_begin_to_end(self):
        report = data("simulate", "1f1b", "--ranks", 4, "--microbatches", 8, "--costs", UNIT, "--critical-path", "--json")
        path = report["critical_path"]
        self.assertEqual((path[0]["begin_ns"], path[-1]["end_ns"]), (0, report["makespan_ns"]))
        for before, after in zip(path, path[1:]):
            self.assertEqual(before["end_ns"] + after["wait_ns"], after["begin_ns"])
        self.assertEqual([len(rank) for rank in report["slack_ns"]], [16] * 4)
        self.refused("simulate", "1f1b", "--ranks", 4, "--microbatches", 8, "--costs", UNIT, "--critical-path", "--shared-links",
                     says="--critical-path")

    def test_one_input_one_output(self):
        command = ("simulate", "zb-v", "--ranks", 4, "--microbatches", 8, "--calibration", "deepseek-v3-h800", "--json")
        self.assertEqual(run(*command).stdout, run(*command).stdout)

    def test_op_costs_override_single_ops(self):
        with tempfile.TemporaryDirectory() as folder:
            costs = os.path.join(folder, "ops.csv")
            with open(costs, "w") as out:
                out.write("rank,action,duration_ns\n1,1F0,5000000\n")
            # 2 ranks, 1 microbatch: F0 1 ms, then 5 instead of 1, two backwards of 2 ms.
            report = data("simulate", "1f1b", "--ranks", 2, "--microbatches", 1, "--costs", UNIT, "--op-costs", costs, "--json")
            self.assertEqual(report["makespan_ns"], 10_000_000)
            with open(costs, "w") as out:
                out.write("0,1F0,5\n")
            self.refused("simulate", "1f1b", "--ranks", 2, "--microbatches", 1, "--costs", UNIT, "--op-costs", costs, "--json", says="1F0")

    def test_costs_are_a_document_that_simulate_reads(self):
        costs = run("costs", "--calibration", "deepseek-v3-h800", "--stages", 4, "--json")
        stages = json.loads(costs.stdout)["stages"]
        self.assertEqual(len(stages), 4)
        for key in ("forward_ns", "backward_input_ns", "backward_weight_ns", "backward_ns", "overlapped_ns"):
            self.assertGreater(stages[0][key], 0)
        self.assertLess(stages[0]["overlapped_ns"], stages[0]["forward_ns"] + stages[0]["backward_ns"])
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "costs.json")
            with open(path, "w") as out:
                out.write(costs.stdout)
            shape = ("simulate", "dualpipe", "--ranks", 4, "--microbatches", 8, "--json")
            by_file = data(*shape, "--costs", path)
            by_name = data(*shape, "--calibration", "deepseek-v3-h800")
            self.assertEqual(by_file, by_name)

    def test_compare_takes_a_model(self):
        shape = ("--model", "llama-3-70b", "--gpu", "h100", "--ranks", 8, "--microbatches", 16, "--tp", 4, "--dp", 2, "--json")
        methods = data("compare", "1f1b", "zb1p", "dualpipe", "interleaved-1f1b:2", *shape)["methods"]
        self.assertEqual([m["devices"] for m in methods], [8 * 4 * 2] * 4)
        self.assertEqual([m["copies"] for m in methods], [1, 1, 2, 1])
        for method in methods:
            chunks = ("--chunks", 2) if method["chunks"] == 2 and method["schedule"] != "dualpipe" else ()
            self.assertEqual(method["report"], data("simulate", method["schedule"], *shape, *chunks))
        self.refused("compare", "1f1b", "--gpu", "h100", "--ranks", 2, "--microbatches", 4, says="--gpu")

    def test_plan_is_ranked_and_says_what_it_ruled_out(self):
        plan = data("plan", "--ranks", 8, "--microbatches", "12,20", "--costs", UNIT, "--activation-limit", 8, "--json")
        self.assertEqual(plan["schema"], "plumb.plan/1")
        pace = [p["report"]["step_time_ns"] / p["microbatches"] for p in plan["plans"]]
        self.assertEqual(pace, sorted(pace))
        for one in plan["plans"]:
            peak = max(r["peak_live_activations"] for r in one["report"]["ranks"])
            self.assertLessEqual(peak / one["chunks"], 8)
        ruled = {(r["schedule"], r["microbatches"]): r["reason"] for r in plan["ruled_out"]}
        self.assertIn("gpipe", {name for name, _ in ruled})
        self.assertIn(("dualpipe", 12), ruled)

    PLAN = ("plan", "--model", "llama-3-8b", "--gpu", "h100", "--global-batch", 64, "--memory", "80GiB")

    def test_plan_of_a_model_has_the_contracts_keys(self):
        plan = data(*self.PLAN, "--devices", 16, "--json")
        self.assertEqual(plan["schema"], "plumb.plan/1")
        times = [p["step_time_ns"] for p in plan["plans"]]
        self.assertEqual(times, sorted(times))
        self.assertGreaterEqual(len(times), 10)
        for one in plan["plans"]:
            for key in ("schedule", "pp", "dp", "tp", "ep", "chunks", "microbatches", "micro_batch_size", "recompute",
                        "step_time_ns", "idle_share", "peak_bytes", "report"):
                self.assertIn(key, one)
            self.assertEqual(one["pp"] * one["dp"] * one["tp"], 16)
            self.assertEqual(one["dp"] * one["tp"] % one["ep"], 0)
            self.assertEqual(one["dp"] * one["microbatches"] * one["micro_batch_size"], 64)
            self.assertLessEqual(one["peak_bytes"], 80 << 30)
            self.assertEqual(one["peak_bytes"], max(r["peak_bytes"] for r in one["report"]["ranks"]))
            self.assertEqual(one["step_time_ns"], one["report"]["step_time_ns"])
        front = [(plan["plans"][i]["step_time_ns"], plan["plans"][i]["peak_bytes"]) for i in plan["pareto"]]
        self.assertEqual(front, sorted(front, key=lambda point: (point[0], -point[1])))
        self.assertEqual([peak for _, peak in front], sorted((peak for _, peak in front), reverse=True))
        for row in plan["ruled_out"]:
            self.assertEqual(set(row), {"schedule", "reason", "plans"})

    def test_plan_of_a_model_says_what_to_type_next(self):
        text = run(*self.PLAN, "--devices", 16, "--schedules", "interleaved-1f1b").stdout
        self.assertRegex(text, "--num-layers-per-virtual-pipeline-stage|--pipeline-model-parallel-layout")
        self.assertIn('pipeline_parallel_schedule = "Interleaved1F1B"', text)

    def test_a_plan_is_what_simulate_says_of_it(self):
        for more in (("--model", "deepseek-v3", "--layers", 8, "--gpu", "h200", "--devices", 32, "--dtype", "fp8"),
                     ("--hidden", 1024, "--layers", 12, "--heads", 16, "--gpu", "h100", "--devices", 8, "--pp", "2,4")):
            shape = ("plan", *more, "--global-batch", 64, "--sequence", 2048)
            best = data(*shape, "--json")["plans"][0]
            lines = run(*shape).stdout.splitlines()
            command = shlex.split(lines[lines.index("to look closer:") + 1])
            self.assertEqual(command[:2], ["plumb", "simulate"])
            alone = data(*command[1:], "--json")
            self.assertEqual(alone["step_time_ns"], best["step_time_ns"], command)
            self.assertEqual(max(r["peak_bytes"] for r in alone["ranks"]), best["peak_bytes"])
            self.assertEqual(alone["mfu"], best["mfu"])

    def test_a_plan_leads_to_calibrate_validate_and_run(self):
        lines = run("plan", "--model", "llama-3-8b", "--gpu", "h100", "--global-batch", 64, "--devices", 16, "--tp", 1, "--pp", 4,
                    "--recompute", "none", "--sequence", 2048, "--no-optimizer-sharding", "--memory", "400GiB").stdout.splitlines()
        starts = ("to have it measured", "to see whether", "to train it")
        measure, check, train = (shlex.split(lines[i + 1]) for i, line in enumerate(lines) if line.startswith(starts))
        self.assertEqual([command[:2] for command in (measure, check, train)],
                         [["plumb", "calibrate"], ["plumb", "validate"], ["plumb", "run"]])
        # No GPU here: everything is read before one is asked for.
        self.assertEqual(run(*measure[1:]).returncode, 3)
        dry = data(*[word for word in train[1:] if word not in ("--data", "FILE")], "--dry-run", "--json")
        self.assertEqual((len(dry["ranks"]), dry["copies"]), (4, 4))
        split = run(*self.PLAN, "--devices", 16, "--tp", 2).stdout
        self.assertIn("more than one device a stage", split)
        self.assertIn("plumb calibrate --kineto", split)

    def test_a_plan_takes_what_was_measured_of_the_model(self):
        summary = {"samples": 9, **{f"{name}_ns": 50000 for name in
                                    ("min", "lower_quartile", "median", "upper_quartile", "max", "low95", "high95")}}
        work = [{"name": "layer", "kind": kind, "model": "rms_norm swiglu rotary", "data_type": "bf16", "class": "gemm",
                 "shape": {"ffn": 2816, "head_dim": 64, "heads": 16, "hidden": 1024, "key_value_heads": 16, "micro_batch": 1,
                           "sequence": 2048},
                 "setting": {"share": "whole_gpu"}, "time": summary}
                for kind in ("forward", "backward_input", "backward_weight", "backward")]
        shape = ("plan", "--model", "llama", "--hidden", 1024, "--layers", 8, "--heads", 16, "--sequence", 2048,
                 "--devices", 4, "--global-batch", 16)
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "measured.json")

            def write(setting):
                for one in work:
                    one["setting"] = setting
                with open(path, "w") as out:
                    json.dump({"schema": "plumb.calibration/1", "name": "made up", "about": "a test", "provenance":
                               {"gpu": "NVIDIA H200"}, "chunk_layers": 1, "model_layers": 8, "classes": ["gemm"],
                               "slowdown_ppm": [], "message_class": None, "layer": {}, "link": {"latency_ns": 1000},
                               "activation_message_bytes": 0, "gradient_bytes_per_layer": 0, "sources": {}, "work": work}, out)

            write({"share": "whole_gpu"})
            # 50 us a layer's op is several times as fast as the data sheet's products: that has to show.
            measured, estimated = (data(*shape, *costs, "--json")["plans"][0]
                                   for costs in (("--calibration", path), ("--gpu", "h200")))
            self.assertLess(measured["step_time_ns"], 0.7 * estimated["step_time_ns"])
            self.assertEqual(measured["report"]["sources"]["layer"], "measured")
            lines = run(*shape, "--calibration", path).stdout.splitlines()
            self.assertTrue(any(line.endswith("layers measured") for line in lines))
            command = shlex.split(lines[lines.index("to look closer:") + 1])
            self.assertEqual(data(*command[1:], "--json")["step_time_ns"], measured["step_time_ns"])
            # A quarter of a GPU is no device of a cluster.
            write({"share": "partition", "sms": 32, "of": 4, "others_busy": True})
            self.refused(*shape, "--calibration", path, says="4 ranks that share one GPU")

    def test_plan_does_not_depend_on_the_threads(self):
        one, four = (run(*self.PLAN, "--devices", 16, "--threads", n, "--json").stdout for n in (1, 4))
        self.assertEqual(one, four)

    def test_nothing_fits_is_an_answer(self):
        done = run(*self.PLAN[:-2], "--devices", 2, "--memory", "20GiB")
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn("no plan fits", done.stdout)
        self.assertIn("--memory ", done.stdout)
        self.assertIn("--devices ", done.stdout)
        self.assertEqual(json.loads(run(*self.PLAN[:-2], "--devices", 2, "--memory", "20GiB", "--json").stdout)["plans"], [])

    def test_plan_refuses_what_cannot_be(self):
        self.refused(*self.PLAN, "--devices", 16, "--tp", 3, says="16 devices")
        self.refused(*self.PLAN, "--devices", 37, says="37 devices")
        self.refused(*self.PLAN, "--devices", 16, "--ranks", 4, says="--ranks")
        self.refused(*self.PLAN, "--devices", 16, "--schedules", "nothing", says="no schedule is called")
        self.refused(*self.PLAN, "--devices", 16, "--recompute", "some", says="--recompute")
        self.refused("plan", "--model", "llama-3-8b", "--devices", 8, "--global-batch", 8, says="--gpu")
        self.refused("plan", "--model", "llama-3-8b", "--devices", 8, "--global-batch", 8, "--gpu", "tpu", says="tpu")
        self.refused("plan", "--model", "llama-3-8b", "--devices", 8, "--gpu", "h100", says="--global-batch")
        self.refused("plan", "--model", "llama-3-8b", "--global-batch", 8, "--gpu", "h100", says="--devices")
        self.refused("plan", "--model", "llama-3-8b", "--devices", 8, "--global-batch", 7, "--gpu", "h100", "--pp", 1, "--tp", 1, says="batch of 7")
        self.refused("plan", "--model", "llama-3-8b", "--devices", 8, "--global-batch", 8, "--gpu", "h100", "--memory", "80", says="--memory")
        self.refused("plan", "--devices", 8, says="--devices")
        self.refused("plan", "--costs", UNIT, says="--ranks")

    def test_an_interrupt_leaves_the_best_so_far(self):
        # Progress comes on a terminal only, so this waits by the clock; wherever it hits, the rules are the same.
        shape = ("plan", "--model", "deepseek-v3", "--gpu", "h800", "--global-batch", "15360", "--devices", "2048")
        for wait in (0.3, 3.0):
            with subprocess.Popen([PLUMB, *shape], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
                time.sleep(wait)
                process.send_signal(signal.SIGINT)
                out, err = process.communicate(timeout=LIMIT_S)
            if "interrupted" not in err:  # it was done before
                self.assertEqual(process.returncode, 0, err)
                continue
            self.assertEqual(process.returncode, 0 if "the fastest plans" in out else 1, err)
            self.assertEqual("the fastest plans" in out, "this is the best" in err)

    def test_traces_and_timelines_are_written_and_read(self):
        with tempfile.TemporaryDirectory() as folder:
            trace, a, b = (os.path.join(folder, name) for name in ("trace.json", "a.json", "b.json"))
            shape = ("simulate", "1f1b", "--ranks", 4, "--microbatches", 8, "--costs", UNIT)
            run(*shape, "--trace", trace, "--timeline", a)
            run(*shape, "--slow", "2=1.1", "--timeline", b)
            with open(trace) as file:
                self.assertIn("traceEvents", json.load(file))
            diff = data("diff", a, b, "--json")
            self.assertEqual(diff["schema"], "plumb.diff/1")
            makespan = next(f for f in diff["figures"] if f["name"] == "makespan_ns")
            self.assertEqual(makespan["difference"], makespan["b"] - makespan["a"])
            self.assertEqual(json.loads(run("trace", a).stdout)["traceEvents"][0]["ph"], "M")
            self.assertEqual(sorted(os.listdir(folder)), ["a.json", "b.json", "trace.json"], "nothing is left beside")

    def test_mistyped_words_are_recognised(self):
        self.refused("comapre", says="did you mean 'compare'?")
        self.refused("schedule", "duelpipe", "--ranks", 4, "--microbatches", 8, says="did you mean dualpipe?")
        self.refused("schedule", "1f1b", "--rank", 4, "--microbatches", 8, says="'--rank' is no option here (did you mean '--ranks'?)")
        self.refused("simulate", "1f1b", "--ranks", "1.5", "--microbatches", 4, says="--ranks: '1.5' is not the number")
        self.refused("simulate", "1f1b", "--ranks", 4, "--microbatches", 4, says="--costs: is required")
        self.refused(says="a command is required; `plumb --help` lists them")

    def test_impossible_shapes_are_refused(self):
        for args, says in ((("dualpipe", 3, 8), "even"), (("dualpipe", 4, 6), "dualpipe"), (("chimera", 4, 6), "chimera"),
                           (("1f1b", 0, 8), "at least 1 rank"), (("1f1b", 4, 0), "at least 1 microbatch"),
                           (("1f1b", 1 << 20, 1), "limit"), (("1f1b", 4096, 1 << 30), "limit")):
            name, ranks, microbatches = args
            self.refused("schedule", name, "--ranks", ranks, "--microbatches", microbatches, says=says)
        self.refused("schedule", "1f1b", "--ranks", 4, "--microbatches", 8, "--chunks", 2, says="1 chunk")
        self.refused("schedule", "1f1b", "--ranks", -1, "--microbatches", 8, says="--ranks")
        self.refused("schedule", "1f1b", "--ranks", 4, says="--microbatches")

    def test_bad_costs_are_refused(self):
        def refused(costs, says):
            self.refused("simulate", "1f1b", "--ranks", 2, "--microbatches", 2, "--costs", costs, says=says)
        refused("forward=nan,backward=1ms", "forward")
        refused("forward=-1ms,backward=1ms", "forward")
        refused("forward=1,backward=1ms", "no unit")
        refused("forward=1ms,forward=2ms,backward=1ms", "twice")
        refused("forwards=1ms,backward=1ms", "forwards")
        refused("forward=1ms", "backward")
        refused("/nonexistent.json", "cannot be read")
        self.refused("simulate", "zb-h1", "--ranks", 2, "--microbatches", 2, "--costs", "forward=1ms,backward=2ms", says="backward_input")

    def test_hostile_files_are_refused(self):
        for content, says in (("{", "not JSON"), ('{"schema":"plumb.schedule/1"', "not JSON"), ("[" * 100000, "list"),
                              ('{"a":' * 100000, "nested"), ("", "empty"), ("0F0,what\n", "line 1, cell 2"),
                              ('{"schema":"plumb.schedule/1","ranks":1,"stages":1000000,"microbatches":1000000,"actions":[[]]}', "limit"),
                              ('{"schema":"plumb.schedule/1","ranks":NaN}', "not JSON")):
            self.refused("check", "-", "--json", stdin=content, says=says)
        self.refused("check", "/dev/zero", says="binary")
        self.refused("check", "/", says="folder")

    def test_an_endless_stream_ends(self):
        with subprocess.Popen(["yes", "0F0,"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as endless:
            done = subprocess.run([PLUMB, "check", "-"], stdin=endless.stdout, capture_output=True, text=True, timeout=LIMIT_S)
            endless.stdout.close()
        self.assertEqual(done.returncode, 2)
        self.assertIn("larger than the limit", done.stderr)

    def test_outputs_that_cannot_be_written_are_refused(self):
        shape = ("simulate", "1f1b", "--ranks", 2, "--microbatches", 2, "--costs", UNIT)
        self.refused(*shape, "--trace", "/nonexistent/x", says="cannot be written")
        self.refused(*shape, "--trace", "/", says="folder")
        self.refused(*shape, "--trace", "/dev/full", says="cannot be written")
        with open("/dev/full", "w") as full:
            done = subprocess.run([PLUMB, *map(str, shape)], stdout=full, stderr=subprocess.PIPE, text=True, timeout=LIMIT_S)
        self.assertEqual(done.returncode, 2)
        self.assertIn("standard output", done.stderr)

    def test_version_and_help_are_answers(self):
        self.assertEqual(run("--version").returncode, 0)
        self.assertTrue(run("--version").stdout.startswith("plumb "))
        self.assertIn("simulate", run("--help").stdout)


unittest.main()
