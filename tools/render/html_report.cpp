#include "tools/render/html_report.hpp"

#include "sim/idle.hpp"
#include "sim/live_activations.hpp"
#include "tools/render/palette.hpp"
#include "tools/render/sha256.hpp"
#include "tools/render/svg_picture.hpp"
#include "tools/render/svg_text.hpp"

#include <algorithm>
#include <iterator>
#include <string_view>
#include <utility>

#include <fmt/compile.h>
#include <fmt/format.h>

namespace plumb::render {
namespace {

constexpr std::string_view style = R"(
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 1720px; padding: 24px 32px 64px; color: #1b1f24; background: #fff;
  font: 14px/1.5 Inter, "Segoe UI", "Helvetica Neue", Arial, "DejaVu Sans", sans-serif; }
h1 { font-size: 26px; margin: 0; }
h2 { font-size: 18px; margin: 36px 0 8px; border-bottom: 1px solid #d8dee4; padding-bottom: 4px; }
p { margin: 4px 0 12px; color: #57606a; max-width: 90ch; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 12px; text-align: right; border-bottom: 1px solid #eaeef2; }
th { color: #57606a; font-weight: 600; border-bottom: 2px solid #d8dee4; }
th:first-child, td:first-child { text-align: left; }
tbody tr:hover { background: #f6f8fa; }
details { margin: 8px 0; }
summary { cursor: pointer; font-weight: 600; }
.wide { overflow-x: auto; }
.wide canvas { display: block; cursor: crosshair; }
#hint { position: fixed; pointer-events: none; background: #1b1f24; color: #fff; padding: 3px 8px;
  border-radius: 4px; font-size: 12px; visibility: hidden; }
)";

// Draws the timelines of a big report: wheel zooms, dragging moves, pointing names the action.
constexpr std::string_view script = R"(
'use strict';
const data = JSON.parse(document.getElementById('timelines').textContent);
const canvas = document.getElementById('picture'), hint = document.getElementById('hint');
const row = 20, pitch = 22, left = 70, head = 26, curve = 70, gap = 18, foot = 30;
let from = 0, to = data.full, width = 0, rows = [];
const height = data.timelines.reduce((h, t) => h + head + t.ranks.length * pitch + curve + gap, foot);
const x = ns => left + (ns - from) / (to - from) * (width - left - 10);
function visible(list, size) {  // the first span that ends after `from`
  let a = 0, b = list.length / size;
  while (a < b) { const m = a + b >> 1; if (list[m * size] + list[m * size + 1] <= from) a = m + 1; else b = m; }
  return a;
}
function draw() {
  const scale = window.devicePixelRatio || 1, c = canvas.getContext('2d');
  width = Math.max(700, canvas.parentElement.clientWidth);
  canvas.width = width * scale; canvas.height = height * scale;
  canvas.style.width = width + 'px'; canvas.style.height = height + 'px';
  c.setTransform(scale, 0, 0, scale, 0, 0);
  c.fillStyle = '#fff'; c.fillRect(0, 0, width, height);
  rows = [];
  let y = 0;
  for (const t of data.timelines) {
    c.fillStyle = '#1b1f24'; c.font = '600 14px sans-serif'; c.textAlign = 'left';
    c.fillText(t.name, left, y + 17); y += head;
    t.ranks.forEach((spans, r) => {
      c.fillStyle = '#6a737d'; c.font = '11px sans-serif'; c.textAlign = 'right';
      c.fillText('rank ' + r, left - 8, y + 14);
      c.save(); c.beginPath(); c.rect(left, y, width - left - 10, row); c.clip(); c.textAlign = 'center';
      for (let k = visible(spans, 8); k < spans.length / 8; ++k) {
        const s = spans.slice(8 * k, 8 * k + 8);
        if (s[0] > to) break;
        const a = x(s[0]), b = x(s[0] + s[1]), pair = s[5] >= 0, mid = pair ? a + (b - a) * t.forward_share : b;
        cell(c, a, mid, y, s[2], s[4]);
        if (pair) cell(c, mid, b, y, s[5], s[7]);
        // Closer than this, frames would be all that is seen.
        if (pair && b - a > 5) { c.strokeStyle = '#000'; c.strokeRect(a + .5, y + .5, b - a - 1, row - 1); }
      }
      c.restore(); c.strokeStyle = '#d8dee4'; c.strokeRect(left, y, width - left - 10, row);
      rows.push({ y, spans, idle: t.idle[r] }); y += pitch;
    });
    const level = v => y + curve - 10 - v / Math.max(1, data.most) * (curve - 26);
    c.save(); c.beginPath(); c.rect(left, y, width - left - 10, curve); c.clip();
    c.strokeStyle = '#8250df'; c.beginPath();
    t.curve.forEach(([ns, v], k) => { if (k) { c.lineTo(x(ns), level(t.curve[k - 1][1])); c.lineTo(x(ns), level(v)); } else c.moveTo(x(ns), level(v)); });
    c.stroke(); c.restore();
    c.fillStyle = '#6639ba'; c.textAlign = 'left'; c.fillText(t.peak, left + 4, y + 11);
    y += curve + gap;
  }
  c.fillStyle = '#6a737d'; c.textAlign = 'center'; c.font = '10px sans-serif';
  let step = 1; for (let k = 0; step * 12 < to - from; ++k) step *= k % 3 == 1 ? 2.5 : 2;
  for (let ns = Math.ceil(from / step) * step; ns <= to; ns += step) { c.fillRect(x(ns), y - 6, 1, 5); c.fillText(+(ns / data.unit).toPrecision(6) + ' ' + data.unit_name, x(ns), y + 12); }
}
function cell(c, a, b, y, fill, microbatch) {
  c.fillStyle = data.fills[fill]; c.fillRect(a, y, Math.max(.3, b - a - (b - a > 3 ? .6 : 0)), row);
  const text = data.letters[fill] + microbatch;
  if (b - a > 6.4 * text.length + 2) { c.fillStyle = '#1b1f24'; c.font = '10px sans-serif'; c.fillText(text, (a + b) / 2, y + 14); }
}
const time = px => from + (px - left) / (width - left - 10) * (to - from);
canvas.addEventListener('wheel', e => {
  e.preventDefault();
  const at = time(e.offsetX), zoom = e.deltaY > 0 ? 1.25 : .8;
  from = Math.max(0, at - (at - from) * zoom); to = Math.min(data.full, at + (to - at) * zoom); draw();
}, { passive: false });
let held = null;
canvas.addEventListener('pointerdown', e => { held = [e.offsetX, from, to]; });
window.addEventListener('pointerup', () => { held = null; });
canvas.addEventListener('dblclick', () => { from = 0; to = data.full; draw(); });
canvas.addEventListener('pointermove', e => {
  if (held) {
    const d = Math.min(held[1], Math.max(held[2] - data.full, (e.offsetX - held[0]) / (width - left - 10) * (held[2] - held[1])));
    from = held[1] - d; to = held[2] - d; draw(); return;
  }
  const at = time(e.offsetX), hit = rows.find(r => e.offsetY >= r.y && e.offsetY < r.y + row);
  let text = '';
  const ms = ns => +(ns / data.unit).toPrecision(6);
  if (hit && at >= 0) {
    const find = (list, size) => { let a = 0, b = list.length / size; while (a < b) { const m = a + b >> 1; if (list[m * size] + list[m * size + 1] <= at) a = m + 1; else b = m; } return a < list.length / size && list[a * size] <= at ? a : -1; };
    const k = find(hit.spans, 8), i = find(hit.idle, 3);
    const token = (f, s, m) => s + data.letters[f] + m;
    if (k >= 0) { const s = hit.spans.slice(8 * k, 8 * k + 8); text = token(s[2], s[3], s[4]) + (s[5] >= 0 ? ' + ' + token(s[5], s[6], s[7]) : '') + ': ' + ms(s[0]) + ' to ' + ms(s[0] + s[1]) + ' ' + data.unit_name; }
    else if (i >= 0) text = data.causes[hit.idle[3 * i + 2]] + ': ' + ms(hit.idle[3 * i + 1]) + ' ' + data.unit_name;
  }
  hint.textContent = text; hint.style.visibility = text ? 'visible' : 'hidden';
  hint.style.left = e.clientX + 14 + 'px'; hint.style.top = e.clientY + 14 + 'px';
});
canvas.addEventListener('pointerleave', () => { hint.style.visibility = 'hidden'; });
window.addEventListener('resize', draw);
draw();
)";

// A JSON string that can stand in a script element: nothing in it can close the element.
std::string in_json(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    const auto code = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (code < 0x20 || c == '<' || c == '>' || c == '&') {
      out += fmt::format("\\u{:04x}", static_cast<unsigned>(code));
    } else {
      out += c;
    }
  }
  return out + "\"";
}

// `[a,b,…]` of the names or colours of every kind of op in every shade, which a span's fill counts through.
template <class Text>
std::string of_every_fill(const Text& text) {
  std::string out = "[";
  for (const OpKind kind :
       {OpKind::forward, OpKind::backward_input, OpKind::backward_weight, OpKind::backward}) {
    for (std::uint32_t shade = 0; shade < shades; ++shade)
      out += fmt::format("{}\"{}\"", out.size() > 1 ? "," : "", text(kind, shade));
  }
  return out + "]";
}

// Eight numbers a span: begin, duration, fill, stage, microbatch, and fill, stage and microbatch of a pair's
// backward (fill -1: no pair).
void append_spans(std::string& out, const Timeline& timeline, std::uint32_t rank, const Shading& shading) {
  const TimePoint origin = step_bounds(timeline).begin;
  const auto fill_of = [&](const Op& op) {
    return static_cast<std::uint32_t>(op.kind) * shades + shading.of(Rank{rank}, op);
  };
  out += '[';
  for (const ComputeSpan& span : timeline.ranks[rank].compute) {
    if (out.back() != '[') out += ',';
    const Op& op = span.action.first();
    fmt::format_to(std::back_inserter(out), FMT_COMPILE("{},{},{},{},{},"), (span.begin - origin).ns,
                   (span.end - span.begin).ns, fill_of(op), op.stage.value, op.microbatch.value);
    if (span.action.is_pair()) {
      const Op& second = span.action.second();
      fmt::format_to(std::back_inserter(out), FMT_COMPILE("{},{},{}"), fill_of(second), second.stage.value,
                     second.microbatch.value);
    } else {
      out += "-1,0,0";
    }
  }
  out += ']';
}

// Three numbers an idle slice: begin, duration, cause.
void append_idle(std::string& out, const std::vector<IdleSlice>& slices, TimePoint origin) {
  out += '[';
  for (const IdleSlice& slice : slices) {
    fmt::format_to(std::back_inserter(out), FMT_COMPILE("{}{},{},{}"), out.back() == '[' ? "" : ",",
                   (slice.begin - origin).ns, (slice.end - slice.begin).ns,
                   static_cast<std::size_t>(slice.cause));
  }
  out += ']';
}

// What the fullest rank holds over time: in bytes, or in chunks of activations.
struct Held {
  std::size_t rank = 0;
  std::int64_t peak = 0;
  std::vector<std::pair<TimePoint, std::int64_t>> points;
};
Held held_by_the_fullest(const ReportInput& input, bool bytes) {
  Held most;
  for (std::size_t r = 0; r < input.timeline->ranks.size(); ++r) {
    Held own{r, 0, {}};
    if (!bytes) {
      for (const LivePoint& point : live_activations(input.timeline->ranks[r], input.timeline->microbatches))
        own.points.emplace_back(point.time, point.chunks);
    } else if (input.memory != nullptr && r < input.memory->ranks.size()) {
      for (const MemoryPoint& point : input.memory->ranks[r].curve)
        own.points.emplace_back(point.time, point.bytes.count);
    }
    for (const auto& [time, value] : own.points) own.peak = std::max(own.peak, value);
    if (r == 0 || own.peak > most.peak) most = std::move(own);
  }
  return most;
}

// What the script draws.
std::string canvas_data(const std::vector<ReportInput>& inputs) {
  Duration full{1};
  bool bytes = false;
  for (const ReportInput& input : inputs) {
    full = std::max(full, step_bounds(*input.timeline).makespan());
    if (input.memory == nullptr) continue;
    for (const RankMemory& rank : input.memory->ranks) bytes |= rank.peak.total() != Bytes{};
  }
  const TimeUnit unit = unit_for(full);
  std::string out = fmt::format(
      R"({{"full":{},"unit":{},"unit_name":"{}","fills":{},"letters":{},"causes":[)", full.ns, unit.ns,
      unit.name, of_every_fill([](OpKind kind, std::uint32_t shade) { return fill(kind, shade); }),
      of_every_fill([](OpKind kind, std::uint32_t) { return letters(kind); }));
  for (std::size_t c = 0; c < idle_causes; ++c)
    out += fmt::format("{}\"{}\"", c == 0 ? "" : ",", words(static_cast<IdleCause>(c)));
  out += R"(],"timelines":[)";
  std::int64_t most = 0;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const Timeline& timeline = *inputs[i].timeline;
    const TimePoint origin = step_bounds(timeline).begin;
    const Shading shading(timeline);
    out += fmt::format("{}{{\"name\":{},\"forward_share\":0.{:03},\"ranks\":[", i == 0 ? "\n" : ",\n",
                       in_json(title_of(inputs[i])), forward_share_milli(timeline));
    for (std::uint32_t r = 0; r < timeline.ranks.size(); ++r) {
      if (r > 0) out += ",\n";
      append_spans(out, timeline, r, shading);
    }
    out += "],\"idle\":[";
    const auto idle = idle_gaps(timeline);
    for (std::size_t r = 0; r < idle.size(); ++r) {
      if (r > 0) out += ",\n";
      append_idle(out, idle[r], origin);
    }
    const Held held = held_by_the_fullest(inputs[i], bytes);
    most = std::max(most, held.peak);
    out += "],\"curve\":[";
    for (const auto& [time, value] : held.points)
      out += fmt::format("{}[{},{}]", out.back() == '[' ? "" : ",", (time - origin).ns, value);
    out +=
        fmt::format("],\"peak\":\"{}, rank {}: peak {}\"}}", bytes ? "memory" : "live activations", held.rank,
                    bytes ? plumb::to_text(Bytes{held.peak}) : fmt::format("{} chunks", held.peak));
  }
  return out + fmt::format("],\"most\":{}}}", most);
}

}  // namespace

std::string html_report(const std::vector<ReportInput>& inputs, const HtmlOptions& options) {
  std::vector<ReportInput> drawn;
  std::vector<PictureInput> pictures;
  for (const ReportInput& input : inputs) {
    if (input.timeline == nullptr) continue;
    drawn.push_back({input.report, input.timeline, input.memory, input.title});
    pictures.push_back({*input.timeline, input.memory, &input.report, title_of(input)});
  }
  const bool canvas = count_cells(pictures) > options.most_svg_cells;

  std::string out = "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n";
  out += fmt::format(
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'sha256-{}'; "
      "{}base-uri 'none'; form-action 'none'\">\n",
      sha256_base64(style), canvas ? fmt::format("script-src 'sha256-{}'; ", sha256_base64(script)) : "");
  out += "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n";
  out +=
      fmt::format("<title>{}</title>\n<style>{}</style>\n</head>\n<body>\n", escaped(options.title), style);
  out += fmt::format("<h1>{}</h1>\n", escaped(options.title));
  const auto put_section = [&](const Section& section) {
    out += fmt::format("<h2>{}</h2>\n", escaped(section.title));
    if (!section.text.empty()) out += fmt::format("<p>{}</p>\n", escaped(section.text));
    if (!section.table.head.empty()) out += "<div class=\"wide\">\n" + to_html(section.table) + "</div>\n";
  };
  if (!options.sections.empty()) {
    put_section(options.sections.front());
    out += "<h2>Steps</h2>\n";
  }
  out += "<div class=\"wide\">\n" + to_html(step_table(inputs)) + "</div>\n";
  out +=
      "<p>The bubble is the idle share of ranks x makespan; the makespan runs from the first compute start "
      "to the "
      "last compute end, the step also to the end of the last gradient reduction. The span is the longest of "
      "one "
      "rank. Peaks are those of the fullest rank.</p>\n";

  if (!pictures.empty()) {
    out += "<h2>Timelines</h2>\n";
    if (canvas) {
      out +=
          "<p>One time axis for all. The wheel zooms, dragging moves, a double click shows all; point at an "
          "action or a wait for its name.</p>\n<div class=\"wide\"><canvas id=\"picture\"></canvas></div>\n"
          "<div id=\"hint\"></div>\n";
    } else {
      SvgOptions picture;
      picture.memory = true;
      picture.most_width = 1640;
      out +=
          "<p>One time axis for all. Point at an action for its times, at a wait for its cause.</p>\n"
          "<div class=\"wide\">\n" +
          svg_picture(pictures, picture) + "</div>\n";
    }
  }

  out += "<h2>Where the time goes</h2>\n<div class=\"wide\">\n" + cause_bars(inputs) +
         to_html(cause_table(inputs)) + "</div>\n";

  std::vector<TimeAndMemory> points = options.points;
  if (points.empty()) {
    for (const ReportInput& input : inputs) {
      if (!input.report.ranks.empty()) points.push_back(time_and_memory(input));
    }
  }
  if (points.size() > 1) {
    out +=
        "<h2>Time against memory</h2>\n<p>Filled: nothing else is both as fast and as small.</p>\n"
        "<div class=\"wide\">\n" +
        pareto_plot(points) + "</div>\n";
  }

  for (std::size_t i = 1; i < options.sections.size(); ++i) put_section(options.sections[i]);

  out += "<h2>Ranks</h2>\n";
  for (const ReportInput& input : inputs) {
    out += fmt::format("<details{}><summary>{}</summary>\n<div class=\"wide\">\n{}</div></details>\n",
                       inputs.size() == 1 ? " open" : "", escaped(title_of(input)),
                       to_html(rank_table(input.report)));
  }
  if (canvas) {
    out +=
        fmt::format("<script type=\"application/json\" id=\"timelines\">{}</script>\n<script>{}</script>\n",
                    canvas_data(drawn), script);
  }
  return out + "</body>\n</html>\n";
}

}  // namespace plumb::render
