// The panel's memory chart, part of panel.js. Its points are [seconds, allocated, reserved, whole card], amounts in MiB.
const chart = { job: null, points: [], memory: null, drawn: "", at: null };
const STEPS_S = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600];

function takeMemory(job, m) {
  if (job !== chart.job || m.whole) Object.assign(chart, { job, points: [], at: null });
  const idle = !m.stages, last = chart.points.at(-1)?.[0] ?? -1;
  const used = m.device_used_bytes / MIB;
  // Without a run there is nothing but the machine's own memory, a point for each tick.
  chart.points.push(...(idle ? [[performance.now() / 1000, used, 0, used]] : m.points.filter((point) => point[0] > last)));
  if (chart.points.length > 600) chart.points = idle ? chart.points.slice(-300) : chart.points.filter((_, i) => !(i % 2));
  chart.memory = m;
  tellMemory(m, idle);
  draw();
}

function tellMemory(m, idle) {
  const foreseen = $(".foreseen"), reserved = $(".reserved");
  const total = say("{used} of {total}", { used: bytes(m.device_used_bytes), total: bytes(m.device_total_bytes) });
  put(".what", m.label);
  put(".used", idle ? total : bytes(m.used_bytes));
  $(".device").hidden = idle;
  put(".where", m.device_label);
  put(".total", total);
  reserved.hidden = !m.reserved_bytes;
  i2v.put(reserved.querySelector("b"), bytes(m.reserved_bytes || 0));
  foreseen.hidden = !m.peak_words;
  foreseen.querySelector("i").hidden = !m.foreseen_bytes;
  put(".peak", m.peak_words);
  const now = bytes(idle ? m.device_used_bytes : m.used_bytes), peak = m.peak_words;
  const words = peak ? say("Memory over time: now {now}, {peak}", { now, peak }) : say("Memory over time: now {now}", { now });
  $(".chart canvas").setAttribute("aria-label", words);
}

function draw() {
  const canvas = $(".chart canvas"), width = canvas.clientWidth, height = canvas.clientHeight, m = chart.memory;
  if (!m || !width) return;
  const dark = document.body.classList.contains("dark"), density = window.devicePixelRatio || 1, points = chart.points;
  const drawn = [chart.job, points.length, points.at(-1)?.[0], width, density, dark, chart.at, m.foreseen_bytes, m.stages?.length, m.marks?.length].join();
  if (drawn === chart.drawn) return;
  chart.drawn = drawn;
  if (canvas.width !== Math.round(width * density)) canvas.width = Math.round(width * density);
  if (canvas.height !== Math.round(height * density)) canvas.height = Math.round(height * density);
  const style = getComputedStyle(element), colour = (name) => style.getPropertyValue(name).trim();
  const accent = colour("--i2v-good"), faint = colour("--body-text-color-subdued"), warn = colour("--i2v-warn");
  const g = canvas.getContext("2d");
  g.setTransform(density, 0, 0, density, 0, 0);
  g.clearRect(0, 0, width, height);
  g.font = "11px system-ui, sans-serif";
  if (points.length < 2) return;
  const idle = !m.stages, foreseen = (m.foreseen_bytes || 0) / MIB;
  const own = Math.max(1, foreseen, ...points.map((p) => Math.max(p[1], p[2]))), whole = Math.max(...points.map((p) => p[3]));
  const clipped = whole > 1.7 * own; // the machine's own line would press the run's flat
  const top = idle ? m.device_total_bytes / MIB : 1.14 * (clipped ? own : Math.max(own, whole));
  const from = idle ? points[0][0] : Math.min(0, points[0][0]), to = Math.max(points.at(-1)[0], from + 1);
  const head = idle ? 6 : 20, foot = height - 17;
  const x = (t) => 6 + ((t - from) / (to - from)) * (width - 12), y = (mib) => foot - (Math.min(mib, top) / top) * (foot - head);
  const line = (of, stroke, thick) => {
    g.beginPath();
    points.forEach((p, i) => (i ? g.lineTo(x(p[0]), y(of(p))) : g.moveTo(x(p[0]), y(of(p)))));
    Object.assign(g, { strokeStyle: stroke, lineWidth: thick, lineJoin: "round" });
    g.stroke();
  };
  const rule = (x1, y1, x2, y2, stroke, dash) => {
    g.setLineDash(dash);
    Object.assign(g, { strokeStyle: stroke, lineWidth: 1 });
    g.beginPath();
    g.moveTo(x1, y1);
    g.lineTo(x2, y2);
    g.stroke();
    g.setLineDash([]);
  };
  const paper = colour("--background-fill-secondary");
  const word = (text, at, base, align, fill) => { // on a halo, for lines may cross it
    Object.assign(g, { fillStyle: fill, textAlign: align, strokeStyle: paper, lineWidth: 3, lineJoin: "round" });
    g.strokeText(text, at, base);
    g.fillText(text, at, base);
  };

  const stages = m.stages || []; // bands: every other one is shaded, each is named where its name fits
  stages.forEach(([begun, name], i) => {
    const left = i ? x(begun) : 6, right = i + 1 < stages.length ? x(stages[i + 1][0]) : width - 6;
    g.globalAlpha = i % 2 ? 0.05 : 0.11;
    g.fillStyle = faint;
    g.fillRect(left, 0, Math.max(0, right - left), foot);
    g.globalAlpha = 1;
    if (right - left > g.measureText(name).width + 8) word(name, (left + right) / 2, 13, "center", faint);
  });
  rule(6, foot + 0.5, width - 6, foot + 0.5, faint, []);
  if (!idle) {
    const every = STEPS_S.find((s) => ((to - from) / s) * 58 < width) || 86400;
    for (let t = 0; t <= to; t += every) {
      rule(x(t), foot, x(t), foot + 4, faint, []);
      const text = every < 60 ? say("{seconds} s", { seconds: t }) : say("{n} min", { n: t / 60 });
      word(text, x(t), height - 3, t === 0 ? "left" : x(t) > width - 24 ? "right" : "center", faint);
    }
    g.globalAlpha = 0.55;
    line((p) => p[3], faint, 1.2);
    g.globalAlpha = 1;
  }
  if (m.reserved_bytes) line((p) => p[2], accent, 1);
  line((p) => p[1], accent, 2);
  g.lineTo(x(to), foot);
  g.lineTo(x(points[0][0]), foot);
  g.globalAlpha = 0.15;
  g.fillStyle = accent;
  g.fill();
  g.globalAlpha = 1;
  let name = () => {};
  if (foreseen) {
    rule(6, y(foreseen), width - 6, y(foreseen), accent, [5, 4]);
    name = () => word(say("foreseen {amount}", { amount: bytes(m.foreseen_bytes) }), 10, y(foreseen) + (y(foreseen) > head + 9 ? -4 : 12), "left", accent);
  }
  for (const t of m.marks || []) {
    const at = Math.min(width - 11, Math.max(11, x(t)));
    rule(at, head - 4, at, foot, warn, [2, 3]);
    word("▼", at, head + 4, "center", warn);
  }
  name();
  const above = $(".above");
  above.hidden = idle || !clipped;
  i2v.put(above, say("(above the chart)"));
  if (chart.at != null) point(g, x, y, foot, head, accent, m, idle);
  else $(".tip").hidden = true;
  chart.time = (left) => from + ((left - 6) / (width - 12)) * (to - from);
}

// Shows the values at the time that is pointed at.
function point(g, x, y, foot, head, stroke, m, idle) {
  const near = chart.points.reduce((a, b) => (Math.abs(b[0] - chart.at) < Math.abs(a[0] - chart.at) ? b : a));
  const at = x(near[0]), tip = $(".tip"), amount = (mib) => bytes(mib * MIB);
  Object.assign(g, { strokeStyle: stroke, fillStyle: stroke, lineWidth: 1 });
  g.beginPath();
  g.moveTo(at, head);
  g.lineTo(at, foot);
  g.stroke();
  g.beginPath();
  g.arc(at, y(near[1]), 4, 0, 7);
  g.fill();
  const lines = [m.label + "  " + amount(near[1])];
  if (m.reserved_bytes) lines.push(say("reserved") + "  " + amount(near[2]));
  if (!idle) lines.unshift(clock(near[0])), lines.push(m.device_label + "  " + amount(near[3]));
  i2v.put(tip, lines.join("\n"));
  tip.hidden = false;
  const room = $(".chart").clientWidth - tip.offsetWidth;
  tip.style.left = Math.max(0, Math.min(room, at + (at > room - 12 ? -tip.offsetWidth - 12 : 12))) + "px";
}

for (const kind of ["pointermove", "pointerdown"])
  $(".chart").addEventListener(kind, (event) => {
    if (!chart.time) return;
    chart.at = chart.time(event.clientX - $(".chart").getBoundingClientRect().left);
    draw();
  });
for (const kind of ["pointerleave", "pointercancel"]) $(".chart").addEventListener(kind, () => { chart.at = null; draw(); });
new ResizeObserver(draw).observe($(".chart"));
