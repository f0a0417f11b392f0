// Draws the live panel from props.value, the dictionary that i2v/ui/panel.py makes. The nodes stay; only their text
// and the canvas change, so nothing flickers and the focus is kept.
const root = element;
const $ = (selector) => root.querySelector(selector);
const gib = (bytes) => (bytes / 1073741824).toFixed(bytes < 10737418240 ? 2 : 1) + " GiB";
const clock = (s) => s >= 60 ? Math.floor(s / 60) + " min " + Math.round(s % 60) + " s" : (s < 10 ? s.toFixed(1) : Math.round(s)) + " s";
const put = (selector, text) => { const node = $(selector); if (node && node.textContent !== text) node.textContent = text; };
let idle = [];

function drawMemory(memory) {
  const canvas = $("canvas");
  if (!canvas || !memory) return;
  const width = canvas.clientWidth || 300, height = 120, scale = window.devicePixelRatio || 1;
  canvas.width = width * scale;
  canvas.height = height * scale;
  const style = getComputedStyle(root), colour = (name, otherwise) => style.getPropertyValue(name) || otherwise;
  const accent = colour("--color-accent", "#0d8277"), faint = colour("--body-text-color-subdued", "#888");
  const warn = colour("--i2v-warn", "#b45309");
  const points = memory.points.length ? memory.points : idle;
  const foreseen = memory.foreseen_bytes || 0;
  const top = Math.max(1, foreseen, memory.peak_bytes, ...points.map((p) => p[1])) * 1.1;
  const from = points.length ? points[0][0] : 0;
  const span = Math.max(1, (points.length ? points[points.length - 1][0] : 1) - from);
  const x = (t) => ((t - from) / span) * (width - 8) + 4, y = (bytes) => height - 6 - (bytes / top) * (height - 24);
  const g = canvas.getContext("2d");
  const line = (x1, y1, x2, y2, stroke, dash) => {
    g.setLineDash(dash);
    g.strokeStyle = stroke;
    g.lineWidth = 1;
    g.beginPath();
    g.moveTo(x1, y1);
    g.lineTo(x2, y2);
    g.stroke();
    g.setLineDash([]);
  };
  const level = (bytes, words, stroke, dash, atRight, below) => {
    line(4, y(bytes), width - 4, y(bytes), stroke, dash);
    g.fillStyle = stroke;
    g.textAlign = atRight ? "right" : "left";
    g.fillText(words + " " + gib(bytes), atRight ? width - 8 : 8, below ? y(bytes) + 12 : Math.max(12, y(bytes) - 4));
  };
  g.scale(scale, scale);
  g.clearRect(0, 0, width, height);
  g.font = "11px system-ui, sans-serif";
  if (points.length < 2) return;
  g.beginPath();
  points.forEach(([t, bytes], i) => (i ? g.lineTo(x(t), y(bytes)) : g.moveTo(x(t), y(bytes))));
  g.strokeStyle = accent;
  g.lineWidth = 2;
  g.lineJoin = "round";
  g.stroke();
  g.lineTo(x(points[points.length - 1][0]), height);
  g.lineTo(x(from), height);
  g.globalAlpha = 0.15;
  g.fillStyle = accent;
  g.fill();
  g.globalAlpha = 1;
  for (const t of memory.marks || []) {
    const at = Math.min(width - 5, Math.max(5, x(t)));
    line(at, 0, at, height, warn, [2, 3]);
    g.fillStyle = warn;
    g.textAlign = "center";
    g.fillText("▼", at, 10);
  }
  // The lower of the two is named below its line, so that neither line crosses the other's name.
  if (memory.peak_bytes) level(memory.peak_bytes, "peak", faint, [4, 4], false, memory.peak_bytes < foreseen);
  if (foreseen) level(foreseen, "foreseen", accent, [1, 3], true, foreseen < memory.peak_bytes);
}

function showEvents(sentences) {
  const list = $(".events");
  if (list.dataset.shown === JSON.stringify(sentences)) return;
  list.dataset.shown = JSON.stringify(sentences);
  list.replaceChildren(...sentences.map((text) => Object.assign(document.createElement("li"), { textContent: text })));
  list.hidden = !sentences.length;
}

function show() {
  const v = props.value;
  if (!v || !v.state) return;
  put(".state", v.state_words);
  put(".left", v.eta_s != null ? "about " + clock(v.eta_s) + " left" : "");
  const percent = Math.round(100 * (v.fraction || 0)), bar = $("[role=progressbar]");
  if (bar) {
    bar.setAttribute("aria-valuenow", percent);
    bar.firstElementChild.style.width = percent + "%";
  }
  put(".stage", v.total > 1 ? v.stage + " " + v.step + " of " + v.total : v.stage || "");
  put(".speed", v.per_second ? (v.per_second >= 1 ? v.per_second.toFixed(1) + " per second" : (1 / v.per_second).toFixed(1) + " s each") : "");
  put(".elapsed", v.elapsed_s ? clock(v.elapsed_s) + " elapsed" : "");
  const message = $(".message");
  message.hidden = !v.message;
  put(".message", v.message || "");
  put(".plan", v.plan || "");
  showEvents([...(v.step_downs || []), ...(v.warnings || [])]);
  if (v.preview) {
    $(".preview img").src = v.preview;
    $(".preview").hidden = false;
  } else if (!v.keep_preview) $(".preview").hidden = true;
  const m = v.memory;
  if (m) {
    if (!m.points.length) {
      idle.push([Date.now() / 1000, m.used_bytes]);
      idle = idle.slice(-120);
    }
    put(".what", m.label);
    put(".used", m.points.length ? gib(m.used_bytes) : "");
    put(".peak", m.peak_words ? "· " + m.peak_words : "");
    put(".total", m.device_label + gib(m.device_used_bytes) + " of " + gib(m.device_total_bytes));
    $("canvas").setAttribute("aria-label", "Memory over time: now " + gib(m.used_bytes) + (m.peak_words ? ", " + m.peak_words : ""));
    drawMemory(m);
  }
  document.title = v.running ? percent + " % · i2v" : "i2v";
}

watch("value", show);
show();
