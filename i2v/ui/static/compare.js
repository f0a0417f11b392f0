// Shows two videos in step: A plays, B follows it. The event i2v:compare on document names them, {a: id, b: id}, or is
// null to close; i2v:compared tells that it was closed here. Videos of other lengths meet at the same share of each.
const $ = (selector) => element.querySelector(selector);
const { say, put, make } = i2v;
const root = $(".i2v-compare"), [a, b] = element.querySelectorAll("video"), slider = $(".at"), divide = $(".divide");
const NEAR_S = 0.01, FAR_S = 0.04; // B is left alone; B is put where it belongs
let pair = "", steps = 1, wish = null, looping = true, away = false;
i2v.speak(element);

// ---- Which two

async function compare(wanted) {
  if (!wanted) return close(false);
  pair = wanted.a + wanted.b;
  const mine = pair;
  const answer = await i2v.ask(server, "compare", { a: wanted.a, b: wanted.b });
  if (mine !== pair) return;
  root.hidden = false;
  put($(".problem"), answer.error || "");
  $(".both").hidden = !!answer.error;
  if (!answer.error) show(answer);
  $("h2").focus({ preventScroll: true });
  root.scrollIntoView({ block: "start", behavior: i2v.calm() ? "auto" : "smooth" });
}

function show({ a: one, b: other, rows }) {
  a.pause();
  for (const [video, facts, letter] of [[a, one, "A"], [b, other, "B"]]) {
    video.muted = true;
    video.src = facts.video;
    video.dataset.fps = facts.fps;
    video.parentNode.style.setProperty("--shape", facts.shape);
    video.setAttribute("aria-label", say("Video {letter}: {prompt}", { letter, prompt: facts.prompt }));
    put(video.closest("figure").querySelector("figcaption"), facts.prompt);
  }
  root.style.setProperty("--shape", one.shape);
  const peak = (facts) => facts.peak_bytes ? i2v.bytes(facts.peak_bytes) : "–";
  const took = (facts) => facts.seconds == null ? "–" : i2v.clock(facts.seconds);
  const row = (name, left, right, className = "") =>
    make("tr", { className }, make("th", { scope: "row" }, name), make("td", {}, left), make("td", {}, right));
  $("tbody").replaceChildren(
    ...rows.map(({ name, a: left, b: right }) => row(name, left, right, "differs")),
    row(say("Time taken"), took(one), took(other)),
    row(say("Peak memory"), peak(one), peak(other)),
  );
  $(".same").hidden = rows.length > 0;
  wish = 0;
  playWords();
}

function close(tells = true) {
  pair = "";
  root.hidden = true;
  for (const video of [a, b]) {
    video.pause();
    video.removeAttribute("src");
    video.load();
  }
  if (tells) document.dispatchEvent(new CustomEvent("i2v:compared"));
}

// ---- In step

const isReady = () => a.readyState > 0 && b.readyState > 0 && a.duration > 0 && b.duration > 0;
const share = () => (a.currentTime % a.duration) / a.duration;

function begin() {
  if (!isReady()) return;
  steps = Math.max(1, ...[a, b].map((video) => Math.round(video.duration * (Number(video.dataset.fps) || 12))));
  slider.max = steps - 1;
  b.playbackRate = rate();
  seek(0);
  if (!i2v.calm()) play();
}

const rate = () => Math.min(16, Math.max(0.0625, b.duration / a.duration));

// Puts both where the slider is: amid a frame, so that rounding cannot show its neighbour. While a video is still on its
// way to an earlier place, only the newest wish is kept.
function seek(step) {
  wish = step;
  follow();
}

function follow() {
  if (wish === null || !isReady() || a.seeking || b.seeking) return;
  const at = (wish + 0.5) / steps;
  wish = null;
  a.currentTime = at * a.duration;
  b.currentTime = at * b.duration;
  tellPlace(at);
}

function tellPlace(at) {
  const step = Math.min(steps - 1, Math.floor(at * steps));
  if (document.activeElement !== slider || !a.paused) slider.value = step;
  const long = Math.max(a.duration, b.duration), seconds = (at * long).toFixed(2), all = long.toFixed(2);
  const words = say("{seconds} of {total} s", { seconds, total: all });
  put($(".clock"), words);
  slider.setAttribute("aria-valuetext", words);
}

// Runs with each frame of A that is shown; a little behind or ahead, B runs faster or slower, a frame off it is put right.
function step(now, frame) {
  if (a.paused) return;
  const at = frame.mediaTime / a.duration;
  let off = b.currentTime - (a.currentTime / a.duration) * b.duration;
  off -= Math.round(off / b.duration) * b.duration; // one may have begun anew already
  if (!b.seeking) {
    if (Math.abs(off) > FAR_S) {
      b.playbackRate = rate();
      b.currentTime = share() * b.duration;
    } else b.playbackRate = rate() * (Math.abs(off) < NEAR_S ? 1 : 1 - 3 * off);
  }
  if (b.paused && !b.ended) b.play().catch(() => {});
  tellPlace(at);
  a.requestVideoFrameCallback(step);
}

async function play() {
  if (!isReady()) return;
  if (a.ended || a.currentTime >= a.duration - 0.01) seek(0);
  try {
    await Promise.all([a.play(), b.play()]);
  } catch { // the browser does not allow it, or the videos were changed meanwhile
    pause();
  }
}

function pause() {
  a.pause();
  b.pause();
}

function playWords() {
  put($(".play"), a.paused ? say("Play") : say("Pause"));
}

// ---- What a person does

for (const video of [a, b]) {
  video.addEventListener("loadedmetadata", begin);
  video.addEventListener("seeked", follow);
  video.addEventListener("error", () => video.getAttribute("src") && put($(".problem"), say("A video cannot be shown. It may have been deleted.")));
}
a.addEventListener("play", () => { playWords(); a.requestVideoFrameCallback(step); });
a.addEventListener("pause", () => {
  playWords();
  b.pause();
  if (isReady() && !a.ended && !a.seeking) b.currentTime = share() * b.duration;
});
$(".play").addEventListener("click", () => (a.paused ? play() : pause()));
slider.addEventListener("input", () => { pause(); seek(Number(slider.value)); });
$(".loop").addEventListener("click", () => {
  looping = a.loop = b.loop = !looping;
  $(".loop").setAttribute("aria-pressed", looping);
});
$(".wipe").addEventListener("click", () => {
  const on = root.classList.toggle("wiped");
  $(".wipe").setAttribute("aria-pressed", on);
  divide.hidden = !on;
});
divide.addEventListener("input", () => {
  root.style.setProperty("--divide", divide.value + "%");
  divide.setAttribute("aria-valuetext", divide.value + " %");
});
$(".close").addEventListener("click", () => close());
root.addEventListener("keydown", (event) => event.key === "Escape" && close());
document.addEventListener("i2v:compare", (event) => compare(event.detail));

// Out of sight nothing plays; back in sight it goes on.
new IntersectionObserver((entries) => {
  const gone = !entries[entries.length - 1].isIntersecting;
  if (gone && !a.paused) { away = true; pause(); }
  if (!gone && away) { away = false; play(); }
}).observe(root);
