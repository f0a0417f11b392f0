// Draws the live panel from props.value, the dictionary that i2v/ui/panel.py makes. The nodes stay; only their text, the
// pictures and the chart change, so nothing flickers and the focus is kept.
const $ = (selector) => element.querySelector(selector);
const { say, bytes, clock } = i2v;
const put = (selector, text) => i2v.put($(selector), text);
const MIB = 1048576;
i2v.speak(element);
$(".view img").alt = say("Preview of the video so far");

// ---- The memory chart. Its points are [seconds, allocated, reserved, whole card], amounts in MiB.
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

// ---- The preview, then the frames that are made already, played in a loop; the video takes their place.
const film = { folder: "", frames: [], asked: 0, fps: 12, at: 0, shown: 0, rolling: false, told: "" };

function takePictures(v) {
  const screen = $(".screen"), image = $(".view img"), canvas = $(".film");
  if (v.job !== film.job) Object.assign(film, { job: v.job, folder: "", frames: [], asked: 0, at: 0 }), forget(image, canvas);
  $(".view").style.setProperty("--shape", v.size ? v.size[0] / v.size[1] : 1.5);
  if (!v.running) {
    if (v.state === "done" && !screen.hidden) return; // until the video is there, see below
    return leave();
  }
  if (v.preview && image.dataset.now !== v.preview) {
    const next = new Image();
    image.dataset.now = next.src = v.preview;
    next.decode().then(() => { if (image.dataset.now === v.preview) image.src = next.src, (image.hidden = false), (screen.hidden = false); }, () => {});
  }
  if (v.frames) takeFrames(v.frames);
  put(".made", v.frames ? say("{ready} of {total} frames", v.frames) : say("Preview"));
}

function takeFrames(f) {
  film.fps = f.fps;
  for (; film.asked < f.ready; film.asked++) {
    const frame = new Image(), number = film.asked, job = film.job;
    frame.src = f.folder + "/" + String(number).padStart(5, "0") + ".jpg";
    // One that is gone already, because the run has just ended, is left out.
    frame.decode().then(() => { if (film.job === job) film.frames[number] = frame, roll(); }, () => {});
  }
  $(".film").setAttribute("aria-label", say("The {n} frames made so far", { n: f.ready }));
}

function roll() {
  if (film.rolling) return;
  film.rolling = true;
  requestAnimationFrame(turn);
}

function turn(now) {
  const canvas = $(".film"), frames = film.frames.filter(Boolean);
  film.rolling = false;
  if (!frames.length || $(".screen").hidden && !canvas.hidden || document.hidden) return;
  if (i2v.calm()) return paint(canvas, frames.at(-1));
  if (now - film.shown >= 1000 / film.fps - 4) {
    film.shown = now;
    film.at = (film.at + 1) % frames.length;
    paint(canvas, frames[film.at]);
  }
  if (!canvas.hidden && !canvas.offsetParent) return; // on another tab; the next tick goes on
  roll();
}

function paint(canvas, frame) {
  if (canvas.width !== frame.naturalWidth) canvas.width = frame.naturalWidth;
  if (canvas.height !== frame.naturalHeight) canvas.height = frame.naturalHeight;
  canvas.getContext("2d").drawImage(frame, 0, 0);
  canvas.hidden = $(".screen").hidden = false;
}

function forget(image, canvas) {
  image.hidden = canvas.hidden = true;
  image.dataset.now = "";
}

function leave() {
  $(".screen").hidden = true;
  Object.assign(film, { frames: [], asked: 0, at: 0 });
  forget($(".view img"), $(".film"));
}
document.addEventListener("i2v:video", leave);

// ---- The end of a job: the title of the tab, and a notification for those who asked for one.
const bell = $(".notify");
const wanted = () => localStorage.getItem("i2v_notify") === "1" && window.Notification?.permission === "granted";
const ring = () => bell.setAttribute("aria-pressed", wanted());
bell.addEventListener("click", async () => {
  const on = !wanted();
  localStorage.setItem("i2v_notify", on ? "1" : "0");
  const allowed = !on || (await Notification.requestPermission()) === "granted";
  put(".refused", allowed ? "" : say("The browser does not allow notifications from this page."));
  $(".refused").hidden = allowed;
  ring();
});
ring();

let before = { job: null, state: "" }, mark = "";
document.addEventListener("visibilitychange", () => {
  if (document.hidden) return;
  if (mark) document.title = "i2v";
  mark = "";
  if (film.frames.length) roll();
});

function tellTheEnd(v, percent) {
  const ended = before.job === v.job && ["done", "failed"].includes(v.state) && !["done", "failed", "cancelled"].includes(before.state);
  if (ended && document.hidden) {
    mark = v.state === "done" ? "✓ " : "! ";
    if (wanted()) notify(v.state === "done" ? say("Your video is done.") : say("The video could not be made."), v.job);
  }
  const title = v.running ? percent + " % · i2v" : v.state === "queued" ? "… · i2v" : mark + "i2v";
  if (document.title !== title) document.title = title;
}

function notify(text, tag) {
  try {
    const shown = new Notification("i2v", { body: text, tag });
    shown.onclick = () => { window.focus(); shown.close(); };
  } catch (error) { // phones allow them to service workers only
    if (!(error instanceof TypeError)) throw error;
  }
}

// ---- Everything else.
function follow(v) {
  if (v.job === before.job) return;
  const here = new URL(location.href);
  if (v.job) here.searchParams.set("job", v.job);
  else here.searchParams.delete("job");
  if (here.href !== location.href) history.replaceState(history.state, "", here);
  if (before.job !== null && v.job) requestAnimationFrame(bringIntoView);
}

// A job just begun or opened: on a phone it may stand far from the button.
function bringIntoView() {
  const box = document.querySelector("#result .i2v-result:not([hidden])") || $(".i2v-panel"), top = box.getBoundingClientRect().top;
  if (top < 0 || top > innerHeight - 160) box.scrollIntoView({ block: "start", behavior: i2v.calm() ? "auto" : "smooth" });
}

function speed(v) {
  if (!v.per_second) return "";
  if (v.per_second < 1) return v.stage === "decode" ? say("{seconds} s a frame", { seconds: (1 / v.per_second).toFixed(1) }) : say("{seconds} s a step", { seconds: (1 / v.per_second).toFixed(1) });
  const n = v.per_second.toFixed(1);
  return v.stage === "decode" ? say("{n} frames/s", { n }) : say("{n} steps/s", { n });
}

function count(v) {
  if (!v.total) return "";
  return v.stage === "decode" ? say("frame {step} of {total}", v) : say("step {step} of {total}", v);
}

function left(v) {
  if (v.wait_s != null) return say("starts in about {time}", { time: clock(v.wait_s) });
  return v.eta_s != null ? say("about {time} left", { time: clock(v.eta_s) }) : "";
}

function show() {
  const v = props.value;
  if (!v || !v.state) return;
  const percent = Math.round(100 * (v.fraction || 0)), bar = $(".bar"), over = !v.running && v.state !== "queued";
  $(".i2v-panel").dataset.state = v.state;
  put(".state", v.state_words);
  put(".left", left(v));
  put(".stage", count(v));
  put(".speed", speed(v));
  put(".elapsed", v.elapsed_s ? (over ? say("took {time}", { time: clock(v.elapsed_s) }) : say("{time} elapsed", { time: clock(v.elapsed_s) })) : "");
  bar.hidden = !v.running;
  bar.setAttribute("aria-valuenow", percent);
  bar.setAttribute("aria-valuetext", [percent + " %", v.state_words, count(v)].filter(Boolean).join(", "));
  bar.firstElementChild.style.width = percent + "%";
  bell.hidden = over || !("Notification" in window) || !window.isSecureContext;
  if (over) $(".refused").hidden = true;
  put(".plan", v.plan || "");
  put(".why", v.why || "");
  $(".reason").hidden = !v.plan;
  showEvents(v.events || []);
  takePictures(v);
  takeMemory(v.job, v.memory);
  if (film.frames.length) roll();
  follow(v);
  tellTheEnd(v, percent);
  before = { job: v.job, state: v.state };
}

function showEvents(sentences) {
  const list = $(".events"), shown = JSON.stringify(sentences);
  if (list.dataset.shown === shown) return;
  list.dataset.shown = shown;
  list.replaceChildren(...sentences.map((text) => i2v.make("li", { textContent: text })));
  list.hidden = !sentences.length;
}

watch("value", show);
show();
