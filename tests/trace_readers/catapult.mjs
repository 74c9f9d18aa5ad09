// The viewer of chrome://tracing (catapult's trace viewer, BSD licence) in headless Chromium. Debian's Chromium is built
// without that page, but Go's sources carry the viewer whole, for `go tool trace`.
import {spawn} from 'node:child_process';
import fs from 'node:fs';
import http from 'node:http';
import os from 'node:os';
import path from 'node:path';

// Asks the server for one trace after the other, imports each as chrome://tracing does, shows it, and answers what the
// importer said and what the model holds.
const page = `<!DOCTYPE html>
<html><head><meta charset="utf-8"><script src="/viewer/webcomponents.min.js"></script>
<link rel="import" href="/viewer/trace_viewer_full.html">
<style>html, body, #viewer { width: 100%; height: 100%; margin: 0; overflow: hidden }</style></head><body><script>
async function read(text, viewer) {
  const model = new tr.Model();
  const options = new tr.importer.ImportOptions();
  options.showImportWarnings = false;  // they are listed, not shown over the page
  new tr.importer.Import(model, options).importTraces([text]);
  viewer.model = model;
  await new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
  const lanes = [];
  let counterSamples = 0;
  for (const process of model.getAllProcesses()) {
    for (const counter of Object.values(process.counters)) counterSamples += counter.numSamples;
    for (const thread of Object.values(process.threads)) {
      const slices = thread.sliceGroup.slices;
      lanes.push({process: process.name, thread: thread.name, slices: slices.length,
                  unfinished: slices.filter((s) => s.didNotFinish).length,
                  duration: slices.reduce((sum, s) => sum + s.duration, 0)});
    }
  }
  return {warnings: model.importWarnings.map((w) => w.type + ': ' + w.message), lanes, counterSamples,
          flows: model.flowEvents.filter((f) => f.startSlice && f.endSlice).length,
          looseFlows: model.flowEvents.filter((f) => !f.startSlice || !f.endSlice).length};
}
window.addEventListener('WebComponentsReady', async () => {
  const container = document.createElement('track-view-container');
  container.id = 'track_view_container';
  const viewer = document.createElement('tr-ui-timeline-view');
  viewer.track_view_container = container;
  Polymer.dom(viewer).appendChild(container);
  viewer.id = 'viewer';
  viewer.globalMode = true;
  Polymer.dom(document.body).appendChild(viewer);
  for (;;) {
    const next = await fetch('/next');
    let answer;
    window.onerror = (message) => { answer = {refusal: 'while showing it: ' + message}; };
    try {
      const seen = await read(await next.text(), viewer);
      answer ??= seen;
    } catch (refusal) {
      answer = {refusal: String(refusal && refusal.message || refusal)};
    }
    await fetch('/answer', {method: 'POST', body: JSON.stringify(answer)});
  }
});
</script></body></html>`;

/// Starts the browser once; `read` then passes it one trace after the other.
export async function openCatapult(viewerFolder, chromium) {
  let giveTrace;  // to the page that waits for one
  let takeAnswer;
  let pageWaits = new Promise((resolve) => { giveTrace = resolve; });
  const server = http.createServer((request, response) => {
    if (request.url === '/') {
      response.setHeader('content-type', 'text/html');
      response.end(page);
    } else if (request.url === '/next') {
      giveTrace((trace) => fs.createReadStream(trace).pipe(response));
    } else if (request.url === '/answer') {
      pageWaits = new Promise((resolve) => { giveTrace = resolve; });
      let body = '';
      request.on('data', (part) => { body += part; });
      request.on('end', () => {
        response.end();
        takeAnswer(JSON.parse(body));
      });
    } else if (request.url.startsWith('/viewer/')) {
      const name = path.basename(request.url);
      response.setHeader('content-type', name.endsWith('.js') ? 'text/javascript' : 'text/html');
      fs.createReadStream(path.join(viewerFolder, name))
          .on('error', () => { response.statusCode = 404; response.end(); })
          .pipe(response);
    } else {
      response.statusCode = 404;
      response.end();
    }
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));

  const profile = fs.mkdtempSync(path.join(os.tmpdir(), 'plumb-chromium-'));
  const browser = spawn(chromium, [
    '--headless', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--disable-quic', '--no-first-run',
    '--disable-background-networking', '--disable-component-update', '--disable-sync', '--window-size=1500,800',
    '--remote-debugging-port=0',  // keeps the headless browser running after the page has loaded
    `--user-data-dir=${profile}`, `http://127.0.0.1:${server.address().port}/`,
  ], {detached: true, stdio: ['ignore', 'ignore', 'pipe']});
  let said = '';
  browser.stderr.on('data', (part) => { said = (said + part).slice(-4000); });
  const died = new Promise((_, reject) => {
    browser.on('error', reject);
    browser.on('exit', (code) => reject(new Error(`${chromium} ended with ${code}:\n${said}`)));
  });
  died.catch(() => {});

  async function within(seconds, what, promise) {
    let timer;
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error(`${what} took more than ${seconds} s; Chromium said:\n${said}`)),
                         seconds * 1000);
    });
    try {
      return await Promise.race([promise, died, late]);
    } finally {
      clearTimeout(timer);
    }
  }

  return {
    /// {refusal} where the viewer doesn't import the file, else {warnings, lanes, counterSamples, flows, looseFlows}.
    async read(trace) {
      const give = await within(120, 'starting the viewer', pageWaits);
      const answer = new Promise((resolve) => { takeAnswer = resolve; });
      give(trace);
      return await within(120, `reading ${trace}`, answer);
    },
    async close() {
      const gone = new Promise((resolve) => browser.on('exit', resolve));
      if (browser.exitCode === null && browser.signalCode === null) {
        process.kill(-browser.pid, 'SIGTERM');
        await gone;
      }
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
      fs.rmSync(profile, {recursive: true, force: true, maxRetries: 5});
    },
  };
}
