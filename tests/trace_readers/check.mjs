// Passes a trace of every generator through both real readers, and compares what they hold with what the tool says.
// Usage: node check.mjs PLUMB PERFETTO_ASSETS VIEWER_FOLDER CHROMIUM FOLDER        traces are left in FOLDER
//
// For each trace: no error and no warning from either reader; every lane has in both readers as many slices, of as much
// time, as the file; the compute lanes have one slice for each action of `plumb schedule`, and a flow for each send;
// the idle time that SQL finds in Perfetto is the report's, rank by rank to the nanosecond.
//
// Then the same checks run over traces that were broken on purpose, and each must be noticed in the way it should be.
import {execFileSync} from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import {openCatapult} from './catapult.mjs';
import {openPerfetto} from './perfetto.mjs';

const ranks = 4, microbatches = 8;
// Durations that are no round numbers of microseconds, with messages that take time and with messages that don't: the
// first have lanes of their own, the second are arrows between compute slices.
const costs = 'forward=1234567ns,backward_input=1100003ns,backward_weight=900001ns,overlapped=2.9ms';
const variants = {messages: `${costs},p2p=123457ns`, instant: `${costs},p2p=0ns`};

const [plumb, assets, viewer, chromium, folder] = process.argv.slice(2);
if (!folder) {
  console.error('usage: node check.mjs PLUMB PERFETTO_ASSETS VIEWER_FOLDER CHROMIUM FOLDER');
  process.exit(2);
}

function run(...words) {
  return JSON.parse(execFileSync(plumb, words, {encoding: 'utf8', maxBuffer: 1 << 28}));
}

const shape = ['--ranks', String(ranks), '--microbatches', String(microbatches)];

/// Writes the trace, and says what it has to hold.
function makeTrace(name, variant) {
  const file = path.join(folder, `${name}.${variant}.json`);
  const report = run('simulate', name, ...shape, '--costs', variants[variant], '--trace', file, '--json');
  const schedule = run('schedule', name, ...shape, '--comms', 'per-op', '--format', 'json');
  const sends = (tokens) => tokens.filter((t) => t.includes('SEND_')).length;
  const receives = (tokens) => tokens.filter((t) => t.includes('RECV_')).length;
  return {
    file,
    idleShare: report.idle_share,
    flows: schedule.actions.map(sends).reduce((a, b) => a + b),
    ranks: schedule.actions.map((tokens, rank) => ({
      actions: tokens.length - sends(tokens) - receives(tokens),
      messages: variant === 'messages' ? sends(tokens) + receives(tokens) : 0,
      idleNs: report.ranks[rank].idle_ns,
    })),
  };
}

/// What the file itself says, without either reader: slices and time of each lane, and how many of the other events.
function holds(text) {
  const names = {process_name: new Map(), thread_name: new Map()};
  const lanes = new Map();
  let flows = 0, counterSamples = 0;
  const {traceEvents} = JSON.parse(text);
  for (const e of traceEvents) {
    if (e.ph === 'M') names[e.name]?.set(e.name === 'process_name' ? e.pid : e.tid, e.args.name);
  }
  for (const e of traceEvents) {
    if (e.ph === 's') ++flows;
    if (e.ph === 'C') ++counterSamples;
    if (e.ph !== 'X') continue;
    const key = `${names.process_name.get(e.pid)}, ${names.thread_name.get(e.tid)}`;
    const lane = lanes.get(key) ?? {slices: 0, ns: 0};
    ++lane.slices;
    lane.ns += Math.round(e.dur * 1000);
    lanes.set(key, lane);
  }
  return {lanes, flows, counterSamples};
}

function differingLanes(reader, expected, found) {
  const problems = [];
  for (const key of new Set([...expected.keys(), ...found.keys()])) {
    const here = expected.get(key) ?? {slices: 0, ns: 0};
    const there = found.get(key) ?? {slices: 0, ns: 0};
    if (here.slices !== there.slices || here.ns !== there.ns) {
      problems.push(`${reader}: ${key}: ${there.slices} slices of ${there.ns} ns in all, where the file has ` +
                    `${here.slices} of ${here.ns} ns`);
    }
  }
  return problems;
}

async function askPerfetto(perfetto, expected, inFile) {
  const problems = (await perfetto.read(expected.file)).map((line) => `perfetto: ${line}`);
  if (problems.some((line) => line.includes('not loaded'))) return problems;
  const rows = await perfetto.query(`
    select p.name process, t.name thread, count(*) slices, sum(s.dur) ns from slice s
    join thread_track tt on s.track_id = tt.id join thread t using (utid) join process p using (upid) group by 1, 2`);
  const lanes = new Map(rows.map((r) => [`${r.process}, ${r.thread}`, r]));
  if (inFile) problems.push(...differingLanes('perfetto', inFile.lanes, lanes));

  const [counts] = await perfetto.query('select (select count(*) from flow) flows, (select count(*) from counter) samples');
  if (counts.flows !== expected.flows) problems.push(`perfetto: ${counts.flows} flows, where the schedule sends ${expected.flows}`);
  if (inFile && counts.samples !== inFile.counterSamples) {
    problems.push(`perfetto: ${counts.samples} counter samples, where the file has ${inFile.counterSamples}`);
  }

  // The idle figure from the slices alone, by the definition in words: the step's length less what the rank computed.
  const idle = await perfetto.query(`
    with compute as (
      select p.name process, s.ts, s.dur from slice s join thread_track tt on s.track_id = tt.id
      join thread t using (utid) join process p using (upid) where t.name = 'compute')
    select process, (select max(ts + dur) - min(ts) from compute) - sum(dur) idle, count(*) actions,
           (select max(ts + dur) - min(ts) from compute) makespan
    from compute group by process order by process`);
  if (idle.length !== ranks) problems.push(`perfetto: ${idle.length} ranks compute, where there are ${ranks}`);
  idle.forEach((found, rank) => {
    const wanted = expected.ranks[rank];
    if (found.idle !== wanted?.idleNs) problems.push(`perfetto: ${found.process} idles ${found.idle} ns, where the report says ${wanted?.idleNs}`);
    if (found.actions !== wanted?.actions) problems.push(`perfetto: ${found.process} runs ${found.actions} actions, where the schedule has ${wanted?.actions}`);
  });
  const share = idle.reduce((sum, r) => sum + r.idle, 0) / (ranks * (idle[0]?.makespan ?? 0));
  if (!(Math.abs(share - expected.idleShare) < 1e-12)) problems.push(`perfetto: idle share ${share}, where the report says ${expected.idleShare}`);
  return problems;
}

async function askCatapult(catapult, expected, inFile) {
  const seen = await catapult.read(expected.file);
  if (seen.refusal) return [`catapult: not loaded: ${seen.refusal}`];
  const problems = seen.warnings.map((line) => `catapult: warning: ${line}`);
  const lanes = new Map(seen.lanes.filter((l) => l.slices > 0).map(
      (l) => [`${l.process}, ${l.thread}`, {slices: l.slices - l.unfinished, ns: Math.round(l.duration * 1e6)}]));
  if (inFile) {
    problems.push(...differingLanes('catapult', inFile.lanes, lanes));
    if (seen.counterSamples !== inFile.counterSamples) {
      problems.push(`catapult: ${seen.counterSamples} counter samples, where the file has ${inFile.counterSamples}`);
    }
  }
  if (seen.looseFlows > 0) problems.push(`catapult: ${seen.looseFlows} flows that end in no slice`);
  if (seen.flows !== expected.flows) problems.push(`catapult: ${seen.flows} flows, where the schedule sends ${expected.flows}`);
  return problems;
}

async function problemsOf(readers, expected) {
  let inFile = null;
  try {
    inFile = holds(fs.readFileSync(expected.file, 'utf8'));
  } catch (refusal) {
    if (!(refusal instanceof SyntaxError)) throw refusal;
  }
  const problems = inFile ? [] : ['file: no JSON'];
  inFile?.lanes.forEach((lane, key) => {
    const rank = Number(/^rank (\d+)/.exec(key)?.[1]);
    if (/, idle$/.test(key) && lane.ns !== expected.ranks[rank]?.idleNs) {
      problems.push(`file: ${key}: ${lane.ns} ns, where the report says ${expected.ranks[rank]?.idleNs}`);
    }
  });
  for (const [rank, wanted] of expected.ranks.entries()) {
    let messages = 0;
    inFile?.lanes.forEach((lane, key) => {
      if (Number(/^rank (\d+), (?:send|recv)/.exec(key)?.[1] ?? -1) === rank) messages += lane.slices;
    });
    if (inFile && messages !== wanted.messages) problems.push(`file: rank ${rank} has ${messages} messages, where the schedule has ${wanted.messages}`);
  }
  problems.push(...await askPerfetto(readers.perfetto, expected, inFile));
  problems.push(...await askCatapult(readers.catapult, expected, inFile));
  return problems;
}

// What is done to a good trace, and the line that has to be among its problems then. Each is a mistake that a writer of
// traces can make.
const onCompute = (e) => e.ph === 'X' && e.cat === 'compute';
const controls = {
  'a slice begins 1 ns before the one in front of it ends':
    [(events) => { const [, second] = events.filter((e) => onCompute(e) && e.pid === 0); second.ts -= 0.001; },
     /^perfetto: error: slice_drop_overlapping_complete_event/],
  'a slice is 1 ns too short': [(events) => { events.find(onCompute).dur -= 0.001; }, /^perfetto: rank 00 idles/],
  'a slice is missing': [(events) => { events.splice(events.findIndex(onCompute), 1); }, /^perfetto: rank 00 runs/],
  'a slice lasts less than nothing': [(events) => { events.find(onCompute).dur = -1; }, /^perfetto: error: slice_negative_duration/],
  'a colour that the viewer does not know': [(events) => { events.find(onCompute).cname = 'red'; }, /^catapult: not loaded/],
  'the two ends of a flow have different names':
    [(events) => { events.find((e) => e.ph === 'f').name = 'other'; }, /^perfetto: \d+ flows, where/],
  'an end without its flow': [(events) => { events.splice(events.findIndex((e) => e.ph === 's'), 1); }, /^catapult: warning: flow_slice_ordering_error/],
  'two flows share an id':
    [(events) => { for (const ph of ['s', 'f']) { const [a, b] = events.filter((e) => e.ph === ph); b.id = a.id; } },
     /^perfetto: error: flow_duplicate_id/],
  'a counter without a value': [(events) => { const c = events.find((e) => e.ph === 'C'); c.args = {[Object.keys(c.args)[0]]: null}; }, /^perfetto: error: json_parser_failure/],
};

const readers = {perfetto: await openPerfetto(assets), catapult: await openCatapult(viewer, chromium)};
let failures = 0;
function fail(title, lines) {
  ++failures;
  console.log(`FAILED ${title}`);
  for (const line of lines.slice(0, 10)) console.log(`    ${line}`);
}
try {
  fs.mkdirSync(folder, {recursive: true});
  const names = run('schedules', '--json').schedules.map((s) => s.name);
  for (const name of names) {
    for (const variant of Object.keys(variants)) {
      const expected = makeTrace(name, variant);
      const problems = await problemsOf(readers, expected);
      if (problems.length > 0) fail(`${name}, ${variant}`, problems);
    }
  }
  console.log(`${names.length} generators, ${Object.keys(variants).length} traces each: ${failures === 0 ? 'both readers agree with the tool' : `${failures} failed`}`);

  const before = failures;
  const good = makeTrace('1f1b', 'messages');
  for (const [title, [breakIt, notice]] of Object.entries(controls)) {
    const trace = JSON.parse(fs.readFileSync(good.file, 'utf8'));
    breakIt(trace.traceEvents);
    const file = path.join(folder, 'broken.json');
    fs.writeFileSync(file, JSON.stringify(trace));
    const problems = await problemsOf(readers, {...good, file});
    if (!problems.some((line) => notice.test(line))) fail(`not noticed: ${title}`, problems);
  }
  const file = path.join(folder, 'truncated.json');
  fs.writeFileSync(file, fs.readFileSync(good.file).subarray(0, 20000));
  const problems = await problemsOf(readers, {...good, file});
  if (problems.length === 0) fail('not noticed: half a file', problems);
  if (failures === before) console.log(`${Object.keys(controls).length + 1} traces broken on purpose: each was noticed`);
} finally {
  await readers.catapult.close();
  readers.perfetto.close();
}
process.exitCode = failures === 0 ? 0 : 1;
