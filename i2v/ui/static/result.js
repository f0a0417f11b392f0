// Draws what a job ended with from props.value, the dictionary that i2v/ui/result.py makes: its video, or why there is
// none. Buttons that change the form or the job are told to Python as {do: …}; the others are done here.
const $ = (selector) => element.querySelector(selector);
const { say, make } = i2v;
const KINDS = { mp4: "MP4", gif: "GIF", webp: "WebP" };
const video = $("video"), box = $(".i2v-result");
let shown = "", gone = "";
i2v.speak(element);

function tell(text, bad = false) {
  $(".said").dataset.bad = bad;
  i2v.put($(".said"), text);
}

// Asks the server; what went wrong is said here and gives null.
async function ask(name, data) {
  const answer = await i2v.ask(server, name, data);
  tell(answer.error || "", !!answer.error);
  return answer.error ? null : answer;
}

const wish = (value) => trigger("select", { index: 0, value });

function fillForm(value) {
  wish(value);
  if (value.do === "fill") box.hidden = true; // the form is as it was offered, so nothing is refused any more
  if (["reuse", "extend", "fill", "refill"].includes(value.do))
    document.querySelector("#picture")?.scrollIntoView({ block: "nearest", behavior: i2v.calm() ? "auto" : "smooth" });
}

const button = (words, click, className = "") => {
  const node = make("button", { type: "button", className, textContent: words });
  node.addEventListener("click", () => click(node));
  return node;
};

// ---- Files

// The server says another name with the file, and that would count: so the page fetches it and gives it its good one.
async function keep(event, file) {
  if (event.ctrlKey || event.metaKey || event.shiftKey) return; // in a tab of its own
  event.preventDefault();
  let answer;
  try {
    answer = await fetch(file.url);
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
  }
  if (!answer?.ok) return tell(say("The file cannot be fetched. Is i2v still running?"), true);
  const url = URL.createObjectURL(await answer.blob());
  make("a", { href: url, download: file.name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
}

function save(file) {
  const words = file.kind === "png" ? say("PNG frames") : KINDS[file.kind];
  const link = make("a", {
    href: file.url,
    download: file.name,
    className: file.kind === "mp4" ? "first" : "",
    textContent: file.kind === "mp4" ? say("Download {kind}", { kind: words }) : words,
    ariaLabel: say("Download {kind}", { kind: words }),
  });
  link.addEventListener("click", (event) => keep(event, file));
  return link;
}

function download(job, file) {
  if (file.url) return save(file);
  const words = file.kind === "png" ? say("PNG frames") : KINDS[file.kind];
  const node = button(words, async () => {
    if (node.ariaBusy === "true") return;
    node.ariaBusy = "true";
    node.textContent = say("Making {kind}…", { kind: words });
    const made = await ask("convert", { job, kind: file.kind });
    node.ariaBusy = "false";
    node.textContent = words;
    if (!made) return;
    const link = save({ ...file, url: made.url });
    node.replaceWith(link);
    link.focus();
    link.click();
  });
  node.ariaLabel = say("Download {kind}", { kind: words });
  return node;
}

// ---- What can be done with it

async function copy(text, done) {
  const by_hand = $(".by-hand");
  by_hand.hidden = true;
  if (navigator.clipboard) {
    try {
      await navigator.clipboard.writeText(text);
      return tell(done);
    } catch (error) { // the browser does not allow it
      if (!(error instanceof DOMException)) throw error;
    }
  }
  by_hand.value = text; // without https: the older way, and where that fails too, by hand
  by_hand.hidden = false;
  by_hand.select();
  const copied = document.execCommand("copy");
  by_hand.hidden = copied;
  tell(copied ? done : say("Copy it from here:"));
}

function address(job) {
  const here = new URL(location.href);
  here.searchParams.set("job", job);
  here.hash = "";
  return here.href;
}

function star(v) {
  const node = button(say("Favourite"), async () => {
    const answer = await ask("favourite", { job: v.job, on: node.ariaPressed !== "true" });
    if (answer) node.ariaPressed = String(answer.on);
  }, "star");
  node.ariaPressed = String(!!v.favourite);
  return node;
}

async function discard(job) {
  if (!(await ask("discard", { job, undo: false }))) return;
  gone = job;
  video.pause();
  $(".shown").hidden = true;
  $(".gone").hidden = false;
  $(".undo").focus();
}

$(".undo").addEventListener("click", async () => {
  if (!(await ask("discard", { job: gone, undo: true }))) return;
  gone = "";
  $(".gone").hidden = true;
  $(".shown").hidden = false;
  wish({ do: "show" });
});

function tools(v) {
  const has = !!v.video;
  return [
    !has && !v.card && button(say("Try again"), () => wish({ do: "retry" }), "first retry"),
    has && button(say("Extend"), () => fillForm({ do: "extend" }), "extend"),
    button(say("Reuse settings"), () => fillForm({ do: "reuse" }), "reuse"),
    button(say("Copy settings"), () => copy(v.settings, say("The settings are copied."))),
    has && button(say("Copy link"), () => copy(address(v.job), say("The link is copied."))),
    has && star(v),
    button(say("Delete"), () => discard(v.job), "delete"),
  ].filter(Boolean);
}

// ---- A card that says why there is no video

function showCard(v) {
  const card = $(".card"), c = v.card;
  card.hidden = !c;
  if (!c) return;
  i2v.put($(".what"), c.what);
  i2v.put($(".todo"), c.todo);
  $(".did").replaceChildren(...c.did.map((text) => make("li", { textContent: text })));
  $(".did").hidden = !c.did.length;
  $(".actions").replaceChildren(...c.actions.map((a, i) => button(a.words, () => fillForm(a.value), i ? "" : "first")));
  $(".more").hidden = !v.job;
  $(".more").open = false;
  i2v.put($(".about"), say("{kind} · job {job}", { kind: c.kind, job: v.job }));
  i2v.put($(".log"), "");
}

$(".more").addEventListener("toggle", async () => {
  if (!$(".more").open) return;
  const answer = await ask("log", { job: shown });
  if (!answer) return;
  i2v.put($(".log"), answer.lines.join("\n"));
  $(".log").scrollTop = $(".log").scrollHeight;
});

// ---- The video

// The frames that the panel shows stay until the video can take their place, also on the screen: the page is scrolled by
// what was put above. A video that does not come must not keep them.
function reveal() {
  if (!box.hidden) return;
  const before = filmBox()?.top, root = document.documentElement;
  root.style.overflowAnchor = "none"; // else the browser keeps the place of what stands below
  box.hidden = false;
  document.dispatchEvent(new Event("i2v:video"));
  if (before != null && before < innerHeight) scrollBy({ top: $(".view").getBoundingClientRect().top - before, behavior: "instant" });
  requestAnimationFrame(() => requestAnimationFrame(() => { root.style.overflowAnchor = ""; }));
}

const filmBox = () => document.querySelector("#panel .screen:not([hidden]) .view")?.getBoundingClientRect();

function showVideo(v) {
  $(".view").hidden = !v.video;
  if (!v.video) {
    video.removeAttribute("src");
    video.load();
    return reveal();
  }
  $(".view").style.setProperty("--shape", v.size[0] / v.size[1]);
  video.ariaLabel = say("The video of “{prompt}”", { prompt: v.prompt });
  video.autoplay = !i2v.calm();
  video.poster = v.poster || "";
  video.src = v.video;
  if (!filmBox()) return reveal();
  for (const kind of ["loadeddata", "error"]) video.addEventListener(kind, reveal, { once: true });
  setTimeout(reveal, 3000);
}

function show() {
  const v = props.value || {};
  if (!v.job && !v.card) return empty();
  shown = v.job;
  gone = "";
  tell("");
  $(".by-hand").hidden = $(".gone").hidden = true;
  $(".shown").hidden = false;
  box.hidden = true;
  showCard(v);
  $(".about-it").hidden = !v.job;
  i2v.put($(".prompt"), v.job ? say("“{prompt}”", { prompt: v.prompt }) : "");
  $(".facts").replaceChildren(...(v.facts || []).map((text) => make("li", { textContent: text })));
  $(".files").replaceChildren(...(v.files || []).map((file) => download(v.job, file)));
  $(".tools").replaceChildren(...(v.job ? tools(v) : []));
  showVideo(v);
  if (v.card && !v.job) requestAnimationFrame(() => box.scrollIntoView({ block: "nearest" }));
}

function empty() {
  shown = "";
  if (gone) return; // it was deleted here, and can be brought back here
  video.removeAttribute("src");
  video.load();
  box.hidden = true;
}

watch("value", show);
show();
