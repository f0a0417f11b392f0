// Draws the models as cards from what i2v/ui/models_part.py answers. Asks only while it is seen: once a second during a
// download. A card's nodes stay. What the form must know is told to Python as {do: …}.
const { say, make, put, bytes } = i2v;
const $ = (selector) => element.querySelector(selector);
const SURE_MS = 5000, BUSY_MS = 1000, CALM_MS = 5000, DISMISSED = "i2v_first_choice";
const cards = new Map();
let models = [], seen = false, again = 0, asked = 0, answered = 0;
i2v.speak(element);

// ---- Asking

async function ask(name, data = {}) {
  const turn = ++asked;
  const answer = await i2v.ask(server, name, data);
  if (turn < answered) return; // a later one is shown already
  answered = turn;
  put($(".said"), answer.error || "");
  if (answer.models) show(answer.models);
}

const isBusy = () => models.some((model) => model.download?.state === "downloading");

async function refresh() {
  clearTimeout(again);
  if (!seen || document.hidden || !element.isConnected) return;
  await ask("models");
  clearTimeout(again);
  if (seen && !document.hidden) again = setTimeout(refresh, isBusy() ? BUSY_MS : CALM_MS);
}

async function act(name, model, button) {
  if (button?.ariaBusy === "true") return;
  if (button) button.ariaBusy = "true";
  await ask(name, { name: model.name });
  if (button) button.ariaBusy = null;
  refresh();
}

const tell = (value) => trigger("select", { index: 0, value });

// ---- One card

const fact = (list, words) => {
  const value = make("dd");
  list.append(make("dt", { textContent: words }), value);
  return value;
};

function newCard(name) {
  const button = (className) => make("button", { type: "button", className });
  const facts = make("dl"), bar = make("div", { className: "bar", role: "progressbar" }, make("i"));
  const card = {
    title: make("h3"), where: make("span", { className: "where" }), summary: make("p", { className: "summary" }),
    licence: fact(facts, say("Licence")), size: fact(facts, say("Files")), fits: make("span", { className: "fits" }),
    bar, amount: make("p", { className: "amount" }), error: make("p", { className: "error", role: "alert" }),
    use: button("use"), go: button("go"), remove: button("remove"),
    page: make("a", { target: "_blank", rel: "noopener noreferrer", textContent: say("Its page on the hub") }),
    sure: 0,
  };
  fact(facts, say("Here")).append(card.fits);
  card.note = make("small");
  card.terms = make("span");
  card.licence.append(card.terms, card.note);
  card.loading = make("div", {}, bar, card.amount);
  card.node = make(
    "li", { className: "card" },
    make("div", { className: "head" }, card.title, card.where),
    card.summary, facts, card.loading, card.error,
    make("div", { className: "row" }, card.use, card.go, card.remove, card.page),
  );
  card.node.dataset.name = name;
  const model = () => models.find((one) => one.name === name);
  card.use.addEventListener("click", () => tell({ do: "use", model: name }));
  card.go.addEventListener("click", () => act(model().download?.state === "downloading" ? "pause_model" : "fetch_model", model(), card.go));
  card.remove.addEventListener("click", () => {
    const isSure = card.sure;
    clearTimeout(card.sure);
    card.sure = isSure ? 0 : setTimeout(calm, SURE_MS, card);
    showCard(card, model());
    if (isSure) act("delete_model", model(), card.remove);
  });
  return card;
}

function calm(card) {
  card.sure = 0;
  show(models);
}

const fitWords = ({ fits, is_slow: isSlow }) =>
  (fits === "fits" || fits === "tight") && isSlow ? say("Fits in memory, but is slow without an NVIDIA card")
    : fits === "fits" ? say("Fits this machine")
      : fits === "tight" ? say("Fits this machine, but tight")
        : fits === "too_big" ? say("Too large for this machine at its default size; smaller settings may fit")
          : fits === "unknown" ? say("What it needs could not be worked out")
            : say("Being worked out…");

function sizeWords(model) {
  if (model.ships || model.installed) return say("{size} on disk", { size: bytes(model.disk_bytes) });
  return say("{size} to download", { size: bytes(model.download_bytes) });
}

function amountWords(now) {
  const words = [say("{done} of {total}", { done: bytes(now.done_bytes), total: bytes(now.total_bytes) })];
  if (now.state === "paused") words.push(say("paused"));
  if (now.bytes_per_s) words.push(say("{size} a second", { size: bytes(now.bytes_per_s) }));
  if (now.eta_s != null) words.push(say("about {time} left", { time: i2v.clock(Math.max(1, now.eta_s)) }));
  return words.join(" · ");
}

function goWords(model) {
  const state = model.download?.state;
  if (state === "downloading") return say("Pause");
  if (state === "paused") return say("Resume");
  return state === "failed" ? say("Try again") : say("Download {size}", { size: bytes(model.download_bytes) });
}

function showCard(card, model) {
  const now = model.download, here = model.ships || model.installed, kept = now ? now.done_bytes : model.disk_bytes;
  put(card.title, model.title);
  put(card.where, model.ships ? say("Ships with i2v") : model.installed ? say("Downloaded")
    : now?.state === "downloading" ? say("Downloading…") : say("Not downloaded"));
  card.where.dataset.here = here;
  put(card.summary, model.summary);
  put(card.terms, model.licence);
  put(card.note, model.licence_note);
  put(card.size, sizeWords(model));
  put(card.fits, fitWords(model));
  card.fits.dataset.fits = model.fits === "fits" && model.is_slow ? "tight" : model.fits;
  card.loading.hidden = !now;
  if (now) {
    const share = now.total_bytes ? Math.min(1, now.done_bytes / now.total_bytes) : 0;
    put(card.amount, amountWords(now));
    card.bar.dataset.state = now.state;
    card.bar.ariaLabel = say("Download of {model}", { model: model.title });
    card.bar.ariaValueMin = "0";
    card.bar.ariaValueMax = "100";
    card.bar.ariaValueNow = String(Math.floor(100 * share));
    card.bar.ariaValueText = card.amount.textContent;
    card.bar.firstChild.style.width = 100 * share + "%";
  }
  put(card.error, now?.error);
  card.error.hidden = !now?.error;
  put(card.use, say("Use this model"));
  card.use.hidden = !here;
  put(card.go, goWords(model));
  card.go.hidden = here;
  card.go.classList.toggle("first", now?.state !== "downloading");
  card.remove.hidden = model.ships || !kept || now?.state === "downloading";
  put(card.remove, card.sure ? say("Really delete {size}?", { size: bytes(kept) }) : say("Delete"));
  card.remove.dataset.sure = !!card.sure;
  card.page.hidden = !model.hub_page;
  card.page.href = model.hub_page;
}

// ---- All of them

function show(now) {
  const installed = (list) => list.filter((model) => model.installed).map((model) => model.name).join(" ");
  const changed = models.length && installed(models) !== installed(now);
  models = now;
  for (const model of models) {
    if (!cards.has(model.name)) {
      cards.set(model.name, newCard(model.name));
      $(".cards").append(cards.get(model.name).node);
    }
    showCard(cards.get(model.name), model);
  }
  showChoice();
  if (changed) tell({ do: "refresh" });
  takeWanted();
}

// The first thing to say to a person who has only the built-in model; never again once it was answered.
const dismissed = () => { try { return localStorage.getItem(DISMISSED); } catch { return ""; } };
function dismiss() {
  try { localStorage.setItem(DISMISSED, "yes"); } catch { /* not allowed here: it will be said again */ }
  showChoice();
}

const larger = () => models.find((model) => !model.ships);
function showChoice() {
  const model = larger(), alone = model && models.every((one) => one.ships || (!one.installed && !one.download));
  $(".choice").hidden = !alone || !!dismissed();
  if (!model) return;
  const values = { model: model.title, size: bytes(model.download_bytes) };
  put($(".offer"), say("To paint new motion, download {model} ({size}, wants an NVIDIA card).", values));
  put($(".get"), say("Download {model}", values));
}

$(".start").addEventListener("click", () => { dismiss(); i2v.tab(0); });
$(".get").addEventListener("click", () => { dismiss(); i2v.fetchModel(larger().name); });

// A model that another part of the page asked for: its download begins, and its card is brought into view.
function takeWanted() {
  const model = models.find((one) => one.name === i2v.fetchModel.wanted);
  if (!model || !element.offsetParent) return;
  i2v.fetchModel.wanted = "";
  const card = cards.get(model.name);
  for (const other of cards.values()) delete other.node.dataset.wanted;
  card.node.dataset.wanted = "";
  card.node.scrollIntoView({ block: "nearest", behavior: i2v.calm() ? "auto" : "smooth" });
  if (!model.ships && !model.installed && model.download?.state !== "downloading") act("fetch_model", model);
}

document.addEventListener("i2v:fetch-model", refresh);
document.addEventListener("visibilitychange", refresh);
new IntersectionObserver((entries) => {
  seen = entries[entries.length - 1].isIntersecting;
  refresh();
}, { rootMargin: "600px" }).observe(element);
