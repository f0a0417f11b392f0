// Draws the live panel from props.value, the dictionary that i2v/ui/panel.py makes. The nodes stay; only their text, the
// pictures and the chart change, so nothing flickers and the focus is kept. panel_chart.js and panel_film.js are run with it.
const $ = (selector) => element.querySelector(selector);
const { say, bytes, clock } = i2v;
const put = (selector, text) => i2v.put($(selector), text);
const MIB = 1048576;
i2v.speak(element);
$(".view img").alt = say("Preview of the video so far");

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
  if (v.job === before.job || (!v.job && !before.job)) return; // a link's job may not be known in the first moment
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
queueMicrotask(show); // once the scripts that go with it have run
