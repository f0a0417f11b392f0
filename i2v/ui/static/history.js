// Draws the history: a page of cards that i2v/ui/history.py makes, asked for with server.history_page. While it can be
// seen, it asks again every few seconds; only what changed of a card is touched, so focus and scrolling stay. Two cards
// chosen to compare are told to static/compare.js by the event i2v:compare on document.
const $ = (selector) => element.querySelector(selector);
const { say, put } = i2v;
const PAGE = 24, MOST_AT_ONCE = 96, AGAIN_MS = 4000, PAUSE_MS = 250, UNDO_MS = 10000;
const list = $(".cards"), field = $("input");
const nodes = new Map(); // by job id: { item, card }
const problems = { page: "", click: "" };
let wanted = PAGE, total = 0, favourites = false, asked = 0, seen = false;
let chosen = [], gone = [], refreshing, typing, undoing, saying;
i2v.speak(element);
field.placeholder = say("Search the prompts");

// ---- Asking

// Asks the server; what went wrong stands above the cards and gives null. What a click met stays until the next one.
async function ask(name, data) {
  const answer = await i2v.ask(server, name, data);
  problems[name === "history_page" ? "page" : "click"] = answer.error || "";
  put($(".problem"), problems.click || problems.page);
  return answer.error ? null : answer;
}

// Brings everything on show up to date, `known` from the first page alone where only its cards may have changed; an
// answer that was overtaken by a newer question is dropped.
async function load(known = false) {
  const mine = ++asked, search = field.value.trim(), cards = [];
  let page;
  do {
    const limit = Math.min(known ? PAGE : MOST_AT_ONCE, wanted - cards.length);
    page = await ask("history_page", { offset: cards.length, limit, search, favourites });
    if (mine !== asked) return;
    if (!page) break;
    cards.push(...page.cards);
    if (known && page.total === total && isAsShown(page.cards)) {
      cards.push(...shown().slice(cards.length));
      break;
    }
  } while (page.cards.length && cards.length < Math.min(wanted, page.total));
  if (page) show(cards, page, search);
  again();
}

const shown = () => [...list.children].map((item) => nodes.get(item.dataset.job).card);
const isAsShown = (cards) => shown().every((card, index) => index >= cards.length || card.id === cards[index].id);

function again() {
  clearTimeout(refreshing);
  if (seen && !document.hidden) refreshing = setTimeout(load, AGAIN_MS, true);
}

// ---- Showing

function show(cards, page, search) {
  total = page.total;
  const there = cards.filter((card) => !gone.includes(card.id));
  $(".i2v-history").setAttribute("aria-busy", "false");
  const filtered = search || favourites, all = !filtered && !total;
  put($(".total"), all ? say("History") : count(filtered));
  const disk = { used: i2v.bytes(page.disk.videos), bin: i2v.bytes(page.disk.bin), free: i2v.bytes(page.disk.free) };
  put($(".disk"), page.disk.bin ? say("Videos {used} · in the bin {bin} · {free} free", disk) : say("Videos {used} · {free} free", disk));
  $(".tools").hidden = all && !isTyping();
  arrange(there);
  const left = total - cards.length;
  $(".more").hidden = left <= 0;
  put($(".more"), say("Show more"));
  nothing(there.length ? "" : search ? "search" : favourites ? "favourites" : "all", search);
}

const isTyping = () => element.contains(document.activeElement) && document.activeElement === field;
const count = (filtered) => filtered
  ? total === 1 ? say("1 video found") : say("{n} videos found", { n: total })
  : total === 1 ? say("1 video") : say("{n} videos", { n: total });

// Puts the cards in order without moving those that are in their place; a focus on a card that goes finds the next one.
function arrange(cards) {
  const staying = new Set(cards.map((card) => card.id));
  const held = document.activeElement?.closest?.(".card"), at = held ? [...list.children].indexOf(held) : -1;
  for (const [id, { item }] of nodes) if (!staying.has(id)) { item.remove(); nodes.delete(id); }
  cards.forEach((card, index) => {
    let node = nodes.get(card.id);
    if (!node) nodes.set(card.id, (node = { item: build(card.id) }));
    if (JSON.stringify(node.card) !== JSON.stringify(card)) draw(node.item, (node.card = card));
    if (list.children[index] !== node.item) list.insertBefore(node.item, list.children[index] || null);
  });
  if (at >= 0 && !held.isConnected) (list.children[Math.min(at, list.children.length - 1)]?.querySelector(".open") || field).focus();
  chosen = chosen.filter((id) => nodes.has(id));
  marks();
}

function nothing(kind, search) {
  const box = $(".nothing"), button = box.querySelector("button");
  box.hidden = !kind;
  box.dataset.kind = kind;
  if (!kind) return;
  put(box.querySelector("p"), kind === "search"
    ? say("No video’s prompt has “{search}” in it.", { search })
    : kind === "favourites"
      ? say("No favourites yet. The star on a video makes it one.")
      : say("Your videos will be here, newest first. Choose a picture, say what should happen, and make the first one."));
  put(button, kind === "search" ? say("Clear the search") : kind === "favourites" ? say("Show all videos") : say("Make a video"));
}

function build(id) {
  const item = $("template").content.firstElementChild.cloneNode(true), at = (selector) => item.querySelector(selector);
  i2v.speak(item);
  for (const one of [".star", ".link", ".remove"]) at(one).title = at(one).ariaLabel;
  at(".pair").title = say("Compare with another video");
  at("img").addEventListener("error", () => (at("img").hidden = true));
  at(".open").addEventListener("click", () => open(id));
  at(".star").addEventListener("click", () => star(id));
  at(".pair").addEventListener("click", () => choose(id));
  at(".link").addEventListener("click", () => copyLink(id));
  at(".remove").addEventListener("click", () => remove(id));
  return item;
}

function stateWords(card) {
  switch (card.state) {
    case "done": return card.has_video ? "" : say("The video is no longer there");
    case "queued": return say("Waiting");
    case "running": return say("Running, {percent} %", { percent: card.percent });
    case "stopping": return say("Stopping, keeping what is there…");
    case "cancelling": return say("Cancelling…");
    case "cancelled": return say("Cancelled");
    default: return say("Failed");
  }
}

// Joins facts so that a line breaks only between two of them. A dot stays with the fact before it.
const listed = (facts) => facts.filter((fact, index) => fact || !index).map((fact) => fact.replaceAll(" ", "\u00a0")).join("\u00a0· ");

function draw(item, card) {
  const at = (selector) => item.querySelector(selector), image = at("img"), source = card.poster || card.picture;
  item.dataset.state = card.state;
  item.dataset.job = card.id;
  image.hidden = !source;
  if (source && image.getAttribute("src") !== source) image.src = source;
  put(at(".state"), stateWords(card));
  at(".state").hidden = !stateWords(card);
  put(at(".prompt"), card.prompt);
  put(at(".facts"), listed([card.model, card.width + " × " + card.height, say("{n} frames", { n: card.frames })]));
  const made = new Date(card.created_at * 1000);
  at("time").dateTime = made.toISOString();
  put(at("time"), made.toLocaleString(navigator.language, { dateStyle: "medium", timeStyle: "short" }));
  const took = card.took_s == null ? "" : say("took {time}", { time: i2v.clock(card.took_s) });
  put(at(".when span"), listed(["", took, card.from_command_line ? say("from the command line") : ""]));
  at(".star").setAttribute("aria-pressed", card.favourite);
  at(".pair").hidden = !card.has_video;
  at(".remove").hidden = !card.is_over;
}

function marks() {
  for (const [id, { item }] of nodes) {
    item.classList.toggle("picked", chosen.includes(id));
    item.querySelector(".pair").setAttribute("aria-pressed", chosen.includes(id));
  }
  $(".chosen").hidden = chosen.length !== 1;
  put($(".chosen span"), chosen.length === 1 ? say("Choose another video to compare it with.") : "");
}

function tell(text) {
  put($(".said"), text);
  clearTimeout(saying);
  saying = setTimeout(() => put($(".said"), ""), 4000);
}

// ---- Doing

// The page shows the job on its first tab; where that is long, its video is brought into view.
function open(id, tries = 30) {
  if (tries === 30) trigger("select", { index: 0, value: id });
  const panel = document.querySelector("#panel");
  if (!panel?.offsetParent) {
    if (tries) setTimeout(open, 100, id, tries - 1);
  } else if (panel.getBoundingClientRect().top > innerHeight / 2 || panel.getBoundingClientRect().top < 0)
    panel.scrollIntoView({ block: "start", behavior: i2v.calm() ? "auto" : "smooth" });
}

async function star(id) {
  const { item, card } = nodes.get(id), on = !card.favourite;
  item.querySelector(".star").setAttribute("aria-pressed", on); // at once; taken back if it fails
  const answer = await ask("favourite", { id, on });
  if (!answer) return item.querySelector(".star").setAttribute("aria-pressed", !on);
  card.favourite = on;
  if (favourites) load();
}

function choose(id) {
  chosen = chosen.includes(id) ? chosen.filter((one) => one !== id) : [...chosen.slice(-1), id];
  marks();
  const pair = chosen.length === 2 ? { a: chosen[0], b: chosen[1] } : null;
  document.dispatchEvent(new CustomEvent("i2v:compare", { detail: pair }));
}

async function copyLink(id) {
  const link = location.origin + location.pathname + "?job=" + encodeURIComponent(id);
  try {
    await navigator.clipboard.writeText(link);
    tell(say("The link is copied."));
  } catch { // only pages of this machine and those by https may write to the clipboard
    tell(say("The link: {link}", { link }));
  }
}

async function remove(id) {
  if (!(await ask("remove", { id }))) return;
  gone.push(id);
  arrange(shown().filter((card) => card.id !== id));
  put($(".gone span"), gone.length === 1 ? say("Deleted.") : say("{n} videos deleted.", { n: gone.length }));
  $(".gone").hidden = false;
  wait();
  load();
}

// The offer to undo goes after a while, but not from under a finger.
function wait() {
  clearTimeout(undoing);
  undoing = setTimeout(() => ($(".gone").matches(":hover, :focus-within") ? wait() : forget()), UNDO_MS);
}

function forget() {
  clearTimeout(undoing);
  $(".gone").hidden = true;
  gone = [];
}

async function undo() {
  const back = gone;
  forget();
  for (const id of back) if (!(await ask("restore", { id }))) break;
  await load();
  nodes.get(back[0])?.item.querySelector(".open").focus();
}

function search() {
  clearTimeout(typing);
  $(".clear").hidden = !field.value;
  wanted = PAGE;
  load();
}

function clearSearch() {
  field.value = "";
  field.focus();
  search();
}

function onlyFavourites(on) {
  favourites = on;
  $(".only").setAttribute("aria-pressed", on);
  wanted = PAGE;
  load();
}

field.addEventListener("input", () => {
  $(".clear").hidden = !field.value;
  clearTimeout(typing);
  typing = setTimeout(search, PAUSE_MS);
});
field.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && field.value) clearSearch();
  else if (event.key === "Enter") search();
});
$(".clear").addEventListener("click", clearSearch);
$(".only").addEventListener("click", () => onlyFavourites(!favourites));
$(".more").addEventListener("click", async () => {
  const before = list.children.length;
  wanted += PAGE;
  await load();
  if ($(".more").hidden) list.children[before]?.querySelector(".open").focus();
});
$(".nothing button").addEventListener("click", () => {
  const kind = $(".nothing").dataset.kind;
  if (kind === "search") clearSearch();
  else if (kind === "favourites") onlyFavourites(false);
  else i2v.tab(0);
});
$(".chosen button").addEventListener("click", () => { chosen = []; marks(); });
$(".gone button").addEventListener("click", undo);
document.addEventListener("i2v:compared", () => { chosen = []; marks(); }); // the comparison was closed

new IntersectionObserver((entries) => {
  const now = entries[entries.length - 1].isIntersecting;
  if (now && !seen) { seen = true; load(); }
  if (!now) { seen = false; clearTimeout(refreshing); }
}, { rootMargin: "400px" }).observe(element);
document.addEventListener("visibilitychange", () => (seen && !document.hidden ? load() : clearTimeout(refreshing)));
