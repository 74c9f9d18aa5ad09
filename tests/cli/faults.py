#!/usr/bin/env python3
"""What becomes of a job when something goes wrong: a rank is killed, frozen, missing or told something else, a
checkpoint is damaged, the disk is full, somebody presses Ctrl-C. Each ends within its deadline, says which rank and
what it was at, and leaves no process (whatever it has started), no file of its own and no torn checkpoint behind.

usage: faults.py PLUMB [cpu|cuda] [unittest's arguments] [-- FLAGS]
  cuda    through NCCL, four ranks on one GPU under an MPS of their own; fewer of the cases, each going on from the
          checkpoint that the one before left
  FLAGS   of plumb run, in every case: --shared-threads
  -v      also when each job began to train, when and how it ended, and all that it said
"""
import atexit
import glob
import json
import os
import resource
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest
import uuid

FLAGS = " ".join(sys.argv[sys.argv.index("--") + 1:]) if "--" in sys.argv else ""
if FLAGS:
    del sys.argv[sys.argv.index("--"):]
VERBOSE = "-v" in sys.argv
BEGIN = time.monotonic()
PLUMB = os.path.abspath(sys.argv.pop(1))
DEVICE = sys.argv.pop(1) if len(sys.argv) > 1 and sys.argv[1] in ("cpu", "cuda") else "cpu"
GPU = DEVICE == "cuda"
RANKS = 4
VICTIMS = (2,) if GPU else (2, 0)
DEADLINE_S = 1.5 if not GPU else 6
SLACK_S = 8 if not GPU else 20  # for a loaded machine, and for those that have to be killed
LIMIT_S = 60 if not GPU else 30
MANY = 1 << 30
LONG_S = 50  # a deadline that nobody is to wait for
SHAPE = ("--model mlp --hidden 64 --ffn 128 --sequence 16" if not GPU else
         "--model mlp --hidden 256 --sequence 512")
ON = "--device cpu" if not GPU else "--device cuda --transport nccl"
OWN = "--processes" if not GPU else ""
AT = r"(training step \d+|at step \d+, \d|step \d+, \d|ahead of its step|at the end of its step)"
FOLDER = tempfile.mkdtemp()
TEMPORARY = os.path.join(FOLDER, "temporary")  # where jobs put what they need for themselves
os.mkdir(TEMPORARY)
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)
# A disk of our own, as large as SIZE, for the program behind it alone; its files are copied to KEPT at the end.
DISK = ("unshare", "--mount", *(() if os.geteuid() == 0 else ("--map-root-user",)), "sh", "-c",
        'mount -t tmpfs -o size="${SIZE:-64k}" plumb "$FULL" && { "$@"; code=$?; [ -z "$KEPT" ] || cp -r "$FULL/." "$KEPT"; exit $code; }',
        "sh")
PART = "*.part"
# Whatever a job starts, and whatever that starts, has this in its environment: so we know it when it is left over.
MARK = f"PLUMB_FAULTS={uuid.uuid4()}"
BASE = f"--schedule 1f1b --ranks {RANKS} --microbatches 8 {SHAPE} {ON} --deadline {DEADLINE_S}s {FLAGS}"


def clean_environment(**more):
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    prefixes = ("OMPI_", "PMI", "SLURM_", "TORCHELASTIC")
    kept = {k: v for k, v in os.environ.items() if k not in names and not k.startswith(prefixes)}
    name, value = MARK.split("=")
    return {**kept, "TMPDIR": TEMPORARY, name: value, **more}


def start(line, limit_bytes=None, before=(), **environment):
    """`before`: the words of a program that is given plumb's to run."""
    def limit():
        if limit_bytes:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
    return subprocess.Popen([*before, PLUMB, "run", *shlex.split(line)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True, preexec_fn=limit, env=clean_environment(**environment))


def run(line, **more):
    return ended(start(line, **more))


class Ended:
    def __init__(self, code, out, err, seconds):
        self.code, self.out, self.err, self.seconds = code, out, err, seconds

    def __repr__(self):
        return f"exit code {self.code} after {self.seconds:.1f} s\n{self.out}\n{self.err}"


def tell(what):
    if VERBOSE:
        print(f"\n[{time.monotonic() - BEGIN:.1f} s] {what}", file=sys.stderr, flush=True)


def ended(process):
    begin = time.monotonic()
    try:
        out, err = process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()  # which ends its ranks
        out, err = process.communicate()
        raise AssertionError(f"it had not ended after {LIMIT_S} s\n{out}\n{err}") from None
    done = Ended(process.returncode, out, err, time.monotonic() - begin)
    tell(done)
    return done


def ranks_of(process):
    """The processes that one has started, by rank."""
    found = {}
    for folder in glob.glob("/proc/[0-9]*"):
        try:
            with open(f"{folder}/stat") as file:
                parent = int(file.read().rsplit(") ", 1)[1].split()[1])
            with open(f"{folder}/environ", "rb") as file:
                variables = dict(v.split(b"=", 1) for v in file.read().split(b"\0") if b"=" in v)
        except (OSError, IndexError):
            continue
        if parent == process.pid and b"RANK" in variables:
            found[int(variables[b"RANK"])] = int(folder.rsplit("/", 1)[1])
    return found


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(") ", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def wait_for(condition, what, seconds=LIMIT_S):
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise AssertionError(f"{what}: not within {seconds} s")
        time.sleep(0.01)


def port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def by_hand(lines, limit_bytes_of={}):
    """A process for each line that is not None, as a launcher would start them."""
    meet = port()
    return {rank: start(line, limit_bytes_of.get(rank), RANK=str(rank), WORLD_SIZE=str(len(lines)), LOCAL_RANK=str(rank),
                        LOCAL_WORLD_SIZE=str(len(lines)), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(meet - 1))
            for rank, line in enumerate(lines) if line is not None}


def left_over():
    """What is still alive of all that we have started, with its words."""
    found = {}
    for folder in glob.glob("/proc/[0-9]*"):
        pid = int(folder.rsplit("/", 1)[1])
        try:
            with open(f"{folder}/environ", "rb") as file:
                if MARK.encode() not in file.read().split(b"\0"):
                    continue
            with open(f"{folder}/cmdline", "rb") as file:
                words = file.read().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if is_alive(pid):
            found[pid] = words
    return found


def can_mount():
    tried = subprocess.run([*DISK, "true"], capture_output=True, env=clean_environment(FULL=TEMPORARY))
    return tried.returncode == 0


class Faults(unittest.TestCase):
    def setUp(self):
        self.base = BASE
        self.checkpoints = os.path.join(FOLDER, "checkpoints")
        if not GPU:
            shutil.rmtree(self.checkpoints, ignore_errors=True)

    def tearDown(self):
        try:
            wait_for(lambda: not left_over(), "a process is left", SLACK_S)
        except AssertionError as error:
            raise AssertionError(f"{error}: {left_over()}") from None
        self.assertEqual(os.listdir(TEMPORARY), [])

    def newest(self):
        """The step of the newest checkpoint; 0: there is none."""
        return max([int(path[-8:]) for path in glob.glob(f"{self.checkpoints}/step-*[0-9]")], default=0)

    def training(self, more="", own=OWN, base=None, every=3):
        """A job in the middle of its steps, with at least one checkpoint written, and its ranks."""
        if not GPU:
            shutil.rmtree(self.checkpoints, ignore_errors=True)
        before = self.newest()
        process = start(f"{base or self.base} {own} --steps {MANY} --checkpoint {self.checkpoints} --checkpoint-every {every} {more}"
                        f"{' --resume' if before else ''}")
        self.addCleanup(lambda: process.poll() is None and process.kill())
        wait_for(lambda: process.poll() is not None or self.newest() > before, "a checkpoint")
        if process.poll() is not None:
            self.fail(repr(ended(process)))
        tell(f"it trains, and has written step {self.newest()}")
        ranks = ranks_of(process)
        self.assertEqual(sorted(ranks), list(range(RANKS)) if own or GPU else [])
        return process, ranks

    def check_ended(self, done, ranks, code=3):
        self.assertEqual(done.code, code, done)
        self.assertLess(done.seconds, DEADLINE_S + SLACK_S, done)
        wait_for(lambda: not any(map(is_alive, ranks.values())), "a rank is left", 5)
        if code != -signal.SIGINT:  # at once means at once: the next run tidies up
            self.assertEqual(glob.glob(f"{self.checkpoints}/{PART}"), [])
        self.check_resumes()

    def check_resumes(self):
        """Whatever happened, what is called a checkpoint is a whole one, of one step: a run that goes on from it is as
        one to which nothing happened."""
        for step in sorted(glob.glob(f"{self.checkpoints}/step-*[0-9]"), reverse=True):
            number = int(step.rsplit("-", 1)[1])
            copy = os.path.join(FOLDER, "copy")
            shutil.copytree(step, f"{copy}/{os.path.basename(step)}")
            # A GPU's by CPU ranks, which read every byte as well.
            base = self.base if not GPU else ("--schedule 1f1b --ranks 4 --microbatches 4 --device cpu --model mlp "
                                         "--hidden 256 --sequence 1")
            line = f"{base} --steps {number + 1} --json"
            done = run(f"{line} --checkpoint {copy} --resume")
            shutil.rmtree(copy)
            self.assertEqual(done.code, 0, done)
            if not GPU:
                self.assertEqual(json.loads(done.out)["loss"], json.loads(run(line).out)["loss"][-1:])

    def test_processes_compute_what_threads_do(self):
        line = f"{BASE} --steps 3 --json"
        other = f"{line} {OWN}" if not GPU else line
        self.assertEqual(json.loads(run(line).out)["loss"], json.loads(run(other).out)["loss"])

    def test_a_rank_that_is_killed_is_named(self):
        for victim in VICTIMS:
            with self.subTest(rank=victim):
                # So that it shows if somebody waits for the deadline.
                process, ranks = self.training(base=BASE.replace(f"--deadline {DEADLINE_S}s", f"--deadline {LONG_S}s"))
                os.kill(ranks[victim], signal.SIGKILL)
                done = ended(process)
                self.assertIn(f"rank {victim} was killed by signal 9", done.err)
                self.assertIn(f"rank {victim} is gone", done.err)
                self.assertRegex(done.err, rf"rank \d, {AT}")
                self.assertLess(done.seconds, SLACK_S)
                self.check_ended(done, ranks)

    def test_a_rank_that_is_killed_at_any_time_leaves_whole_checkpoints(self):
        # Most of the time goes into writing: 4 x 6 MB a step of next to nothing.
        self.base = BASE.replace("--hidden 64 --ffn 128 --sequence 16", "--hidden 256 --ffn 1024 --sequence 1")
        self.assertNotEqual(self.base, BASE)
        for attempt, victim in enumerate((0, 1, 0, 2, 0, 3)):  # rank 0 renames and takes away
            process, ranks = self.training(every=1)
            time.sleep(0.007 * attempt)
            os.kill(ranks[victim], signal.SIGKILL)
            self.check_ended(ended(process), ranks)

    def test_a_pause_within_the_deadline_is_no_fault(self):
        process, ranks = self.training(base=BASE.replace(f"--deadline {DEADLINE_S}s", "--deadline 10s"))
        os.kill(ranks[2], signal.SIGSTOP)
        time.sleep(0.6)
        os.kill(ranks[2], signal.SIGCONT)
        seen = self.newest()
        wait_for(lambda: process.poll() is not None or self.newest() > seen, "another checkpoint")
        process.send_signal(signal.SIGTERM)
        self.check_ended(ended(process), ranks, 143)

    def test_a_rank_that_is_frozen_is_named_with_what_it_was_at(self):
        for victim in VICTIMS:
            with self.subTest(rank=victim):
                process, ranks = self.training()
                os.kill(ranks[victim], signal.SIGSTOP)
                done = ended(process)
                self.assertRegex(done.err, rf"rank {victim}(, last {AT}.*)? (has|have) not (been heard of|come to)"
                                 if not GPU else rf"waiting for .* rank {victim}\b")
                self.assertRegex(done.err, rf"rank \d, {AT}")
                self.assertIn(f"rank {victim}, which somebody had stopped, was killed", done.err)
                self.check_ended(done, ranks)

    def test_ranks_end_with_whoever_started_them(self):
        process, ranks = self.training()
        process.kill()
        process.communicate()
        wait_for(lambda: not any(map(is_alive, ranks.values())), "a rank is left", 5)
        self.check_resumes()

    def test_a_rank_that_never_comes_is_named(self):
        jobs = by_hand([f"{BASE} --steps 1"] * (RANKS - 1) + [None])
        for rank, process in jobs.items():
            done = ended(process)
            self.assertEqual(done.code, 3, done)
            self.assertIn(f"rank {RANKS - 1} of {RANKS} has not come", done.err)
            self.assertLess(done.seconds, DEADLINE_S + SLACK_S)

    def test_ranks_that_were_given_different_things_are_refused(self):
        cases = (("--schedule zb-h1", "--schedule must be the same on all ranks, and is 1f1b on ranks 0, 1, 3, "
                                                 "zb-h1 on rank 2"),
                            ("--microbatches 16", "16 on rank 2, 8 on ranks 0, 1, 3"),
                            ("--hidden 128", "--model must be the same"), ("--ffn 256", "the model's shape must be the same"),
                            ("--seed 2", "--seed must be the same"),
                            ("--steps 7", "--steps must be the same"),
                            ("--comms batched", "--comms must be the same"),
                            ("--checkpoint /nowhere", "--checkpoint must be the same"))
        for flags, says in cases[:1] if GPU else cases:
            with self.subTest(flags=flags):
                name = flags.split()[0]
                words = f"{BASE} --steps 1".split()
                if name in words:
                    words[words.index(name) + 1] = flags.split()[1]
                    other = " ".join(words)
                else:
                    other = f"{BASE} --steps 1 {flags}"
                jobs = by_hand([other if rank == 2 else f"{BASE} --steps 1" for rank in range(RANKS)])
                alone = [ended(process) for process in jobs.values()]
                self.assertEqual([done.code for done in alone], [2] * RANKS, alone)
                self.assertIn(says, alone[0].err)
                self.assertEqual(alone[0].err.count("\n"), 1)
                self.assertEqual([done.err for done in alone[1:]], [""] * (RANKS - 1))

    def test_a_rank_that_cannot_begin_says_why_to_all(self):
        jobs = by_hand([f"{BASE} --steps 1" + (" --data /nowhere/text" if rank == 1 else "") for rank in range(RANKS)])
        alone = {rank: ended(process) for rank, process in jobs.items()}
        self.assertEqual(alone[0].code, 2, alone[0])
        self.assertIn("--data", alone[0].err)

        line = f"{BASE} --steps 1"
        jobs = by_hand([line.replace("--schedule 1f1b", "--schedule /nowhere/x.csv") if rank == 1 else line
                        for rank in range(RANKS)])
        alone = {rank: ended(process) for rank, process in jobs.items()}
        self.assertEqual({rank: done.code for rank, done in alone.items()}, {0: 3, 1: 2, 2: 3, 3: 3}, alone)
        for done in alone.values():
            self.assertIn("/nowhere/x.csv", done.err)
        self.assertIn("rank 1 aborted", alone[2].err)

    def test_another_number_of_processes_than_ranks_is_refused(self):
        alone = [ended(process) for process in by_hand([f"{BASE} --steps 1"] * (RANKS - 1)).values()]
        self.assertEqual([done.code for done in alone], [2] * (RANKS - 1))
        self.assertIn("torchrun started 3", alone[0].err)

    def a_checkpoint(self):
        if self.newest() == 0:
            self.assertEqual(run(f"{BASE} {OWN} --steps 1 --checkpoint {self.checkpoints}").code, 0)
        return self.newest()

    def test_a_damaged_checkpoint_is_refused_with_its_file_and_what_is_wrong(self):
        step = self.a_checkpoint()
        path = f"{self.checkpoints}/step-{step:08}/stage-0002.plumb"
        with open(path, "rb") as file:
            whole = file.read()
        flipped = lambda at: whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1:]
        cases = ((whole[:-3], "it is cut short"), (whole[:len(whole) // 2], "it is cut short"), (b"", "is no checkpoint"),
                 (whole[:40], "is no checkpoint"), (whole + b"x", "is longer than"), (flipped(3), "is no checkpoint"),
                 (flipped(25), "stage-0002.plumb"), (flipped(len(whole) // 2), "is damaged"),
                 (flipped(len(whole) - 3), "is damaged"))
        # One process says it as well as four, and sooner; what is cut short is seen before any GPU is.
        for content, says in cases[:2] if GPU else cases:
            with open(path, "wb") as file:
                file.write(content)
            done = run(f"{BASE} {OWN if content == b'' else ''} --steps {MANY} --checkpoint {self.checkpoints} --resume")
            self.assertEqual(done.code, 2, done)
            self.assertIn(path, done.err)
            self.assertIn(says, done.err)
        os.remove(path)
        if not GPU:
            done = run(f"{BASE} --steps {MANY} --checkpoint {self.checkpoints} --resume")
            self.assertEqual(done.code, 2, done)
            self.assertIn(f"step-{step:08}", done.err)
        with open(path, "wb") as file:
            file.write(whole)

    def test_a_full_disk_leaves_the_older_checkpoint_whole(self):
        for own in (OWN,) if GPU else ("", OWN):
            # Not from the beginning: NCCL has files of its own in memory.
            process, ranks = self.training(own=own)
            for pid in ranks.values() if ranks else (process.pid,):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (20_000, 20_000))
            done = ended(process)
            self.assertEqual(done.code, 2, done)
            self.assertRegex(done.err, r"step-\d+.part/stage-\d+.plumb: cannot be written: File too large")
            self.assertEqual(glob.glob(f"{self.checkpoints}/{PART}"), [])
        self.check_resumes()

    def test_a_disk_without_room_for_another_checkpoint_keeps_those_that_are_there(self):
        if not can_mount():
            self.skipTest("SKIPPED: no file system can be mounted here, so no disk can be filled")
        for own in ("", OWN):
            full, kept = tempfile.mkdtemp(dir=FOLDER), tempfile.mkdtemp(dir=FOLDER)
            # A checkpoint is 4 x 197 kB: there is room for two of them, and for no third.
            done = run(f"{BASE} {own} --steps {MANY} --checkpoint {full} --checkpoint-every 1", before=DISK, SIZE="2m",
                       FULL=full, KEPT=kept)
            self.assertEqual(done.code, 2, done)
            self.assertRegex(done.err, r"step-00000003.part(/stage-\d+.plumb)?: cannot be written: No space left on device")
            self.assertEqual(sorted(os.listdir(kept)), ["step-00000001", "step-00000002"])
            self.checkpoints = kept
            self.check_resumes()

    def test_a_disk_without_room_for_a_timeline_has_no_half_of_one(self):
        if not can_mount():
            self.skipTest("SKIPPED: no file system can be mounted here, so no disk can be filled")
        full, kept = tempfile.mkdtemp(dir=FOLDER), tempfile.mkdtemp(dir=FOLDER)
        for flag in ("--timeline", "--trace"):
            done = run(f"{BASE} --steps 1 {flag} {full}/step.json", before=DISK, SIZE="8k", FULL=full, KEPT=kept)
            self.assertEqual(done.code, 2, done)
            self.assertIn("step.json: cannot be written: the device is full", done.err)
            self.assertEqual(os.listdir(kept), [])

    def test_a_full_disk_on_one_machine_ends_all(self):
        jobs = by_hand([f"{BASE} --steps 2 --checkpoint {self.checkpoints} --checkpoint-every 1"] * RANKS,
                       limit_bytes_of={2: 20_000})
        alone = {rank: ended(process) for rank, process in jobs.items()}
        self.assertEqual({rank: done.code for rank, done in alone.items()}, {0: 3, 1: 3, 2: 2, 3: 3}, alone)
        for done in alone.values():
            self.assertRegex(done.err, r"step-00000001.part/stage-0002.plumb: cannot be written: File too large")
        self.assertEqual(os.listdir(self.checkpoints), [])

    def test_a_wish_to_stop_ends_the_step_and_is_reported(self):
        ways = [(signal.SIGINT, 130, OWN), (signal.SIGTERM, 143, OWN), (signal.SIGINT, 130, "")]
        for asked, code, own in ways[:1] if GPU else ways:
            with self.subTest(signal=asked, own=own):
                before = self.newest() if GPU else 0
                process, ranks = self.training("--json", own)
                process.send_signal(asked)
                done = ended(process)
                self.assertEqual(len(json.loads(done.out)["ranks"]), RANKS)
                steps = before + len(json.loads(done.out)["loss"])
                self.assertIn(f"stopped by {asked.name} after step {steps} of {MANY}", done.err)
                self.assertTrue(os.path.exists(f"{self.checkpoints}/step-{steps:08}"), os.listdir(self.checkpoints))
                self.check_ended(done, ranks, code)

    def test_a_wish_told_to_one_rank_alone_stops_all(self):
        jobs = by_hand([f"{BASE} --steps {MANY} --checkpoint {self.checkpoints} --checkpoint-every 3"] * RANKS)
        wait_for(lambda: glob.glob(f"{self.checkpoints}/step-*[0-9]"), "a checkpoint")
        jobs[3].send_signal(signal.SIGTERM)
        alone = [ended(process) for process in jobs.values()]
        self.assertEqual([done.code for done in alone], [143] * RANKS, alone)
        self.assertIn("stopped by SIGTERM", alone[0].err)
        self.check_resumes()
        process, ranks = self.training()
        os.kill(ranks[1], signal.SIGINT)
        self.check_ended(ended(process), ranks, 130)

    def test_a_second_wish_ends_at_once(self):
        process, ranks = self.training(base=BASE.replace(f"--deadline {DEADLINE_S}s", f"--deadline {LONG_S}s"))
        os.kill(ranks[1], signal.SIGSTOP)  # so that the step in flight does not end
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        self.assertIsNone(process.poll())
        process.send_signal(signal.SIGINT)
        self.check_ended(ended(process), ranks, -signal.SIGINT)


ON_ONE_GPU = ("test_ranks_that_were_given_different_things_are_refused", "test_a_rank_that_is_killed_is_named",
              "test_a_damaged_checkpoint_is_refused_with_its_file_and_what_is_wrong",
              "test_a_rank_that_is_frozen_is_named_with_what_it_was_at",
              "test_a_full_disk_leaves_the_older_checkpoint_whole", "test_ranks_end_with_whoever_started_them",
              "test_a_wish_to_stop_ends_the_step_and_is_reported")


def load_tests(loader, tests, pattern):
    return unittest.TestSuite(map(Faults, ON_ONE_GPU)) if GPU else tests


class AtOnce(unittest.TextTestResult):
    """Says what failed when it fails: whoever ends the script early has seen it."""

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self.stream.writeln(self.failures[-1][1])

    def addError(self, test, err):
        super().addError(test, err)
        self.stream.writeln(self.errors[-1][1])

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        if err is not None:
            self.stream.writeln(self._exc_info_to_string(err, subtest))


if __name__ == "__main__":
    unittest.main(testRunner=unittest.TextTestRunner(resultclass=AtOnce, verbosity=2 if VERBOSE else 1))
