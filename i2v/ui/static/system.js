// Draws the machine from what i2v/ui/system.py answers; asks every 3 s, only while it is seen. The log comes only while
// it is open.
const { say, make, put, bytes } = i2v;
const $ = (selector) => element.querySelector(selector);
const AGAIN_MS = 3000, FULL = 0.9, NEAR_END_PX = 24;
const bars = new Map();
let seen = false, again = 0, isMute = false;
i2v.speak(element);

function tell(text, bad = false) {
  $(".said").dataset.bad = bad;
  put($(".said"), text);
}

// Asks the server; what went wrong is said here and gives null.
async function ask(name) {
  const answer = await i2v.ask(server, name);
  if (answer.error || isMute) tell(answer.error || "", true);
  isMute = !!answer.error;
  return answer.error ? null : answer;
}

async function refresh() {
  clearTimeout(again);
  if (!seen || document.hidden || !element.isConnected) return;
  const [machine, log] = await Promise.all([ask("machine"), $(".log").open ? ask("log") : null]);
  if (machine) show(machine);
  if (log) showLog(log.lines);
  clearTimeout(again);
  if (seen && !document.hidden) again = setTimeout(refresh, AGAIN_MS);
}

// ---- Showing

function bar(key, name, amount) {
  if (!bars.has(key)) {
    const words = make("span"), used = make("span"), meter = make("div", { className: "meter", role: "meter" }, make("i"));
    bars.set(key, { words, used, meter, node: make("li", {}, make("div", { className: "line" }, words, used), meter) });
  }
  const { words, used, meter, node } = bars.get(key);
  const share = amount.used_bytes / Math.max(1, amount.total_bytes);
  put(words, name);
  const values = { used: bytes(amount.used_bytes), total: bytes(amount.total_bytes), free: bytes(amount.total_bytes - amount.used_bytes) };
  put(used, share > FULL
    ? say("{used} of {total} used, nearly full: {free} free", values)
    : say("{used} of {total} used, {free} free", values));
  meter.dataset.full = share > FULL;
  meter.ariaLabel = name;
  meter.ariaValueMin = "0";
  meter.ariaValueMax = "100";
  meter.ariaValueNow = String(Math.round(100 * share));
  meter.ariaValueText = used.textContent;
  meter.firstChild.style.width = 100 * share + "%";
  return node;
}

function keep(list, nodes) { // those that are there already stay, so nothing flickers
  if (nodes.length !== list.children.length || nodes.some((node, at) => list.children[at] !== node)) list.replaceChildren(...nodes);
}

// Draws a list anew only when what it says has changed.
function listing(list, values, draw) {
  const said = JSON.stringify(values);
  if (list.dataset.said === said) return;
  list.dataset.said = said;
  list.replaceChildren(...values.map(draw));
}

function show(machine) {
  const cards = machine.gpus.map((gpu, at) => bar("gpu" + at, say("{name}, driver {driver}", gpu), gpu));
  keep($(".bars"), [...cards, bar("ram", say("Main memory"), machine.ram), bar("disk", say("Disk of the home folder"), machine.disk)]);
  $(".no-card").hidden = machine.gpus.length > 0;
  put($(".cores"), say("Processors: {n}", { n: machine.cpu_count }));
  put($(".home"), say("Home folder: {folder}", { folder: machine.home }));
  showWorker(machine.worker);
  listing($("tbody"), machine.versions, ([name, version]) =>
    make("tr", {}, make("th", { scope: "row", textContent: name }), make("td", { textContent: version })));
  listing($(".problems"), machine.problems, ({ problem, remedy }) => make("li", {}, make("b", { textContent: problem }), remedy));
  $(".problems").hidden = !machine.problems.length;
}

function showWorker(worker) {
  const values = { model: worker.model, size: bytes(worker.weights_bytes), precision: worker.precision, device: worker.device };
  put($(".holds"),
    worker.pid == null ? say("Not running: it starts with the next video.")
      : worker.model ? say("{model} is loaded: {size} of weights in {precision} on {device}.", values)
        : say("No model is loaded."));
  const process = { pid: worker.pid, size: bytes(worker.rss_bytes) };
  put($(".process"),
    worker.pid == null ? ""
      : worker.is_running ? say("Process {pid} takes {size} of main memory and is making a video.", process)
        : say("Process {pid} takes {size} of main memory and waits for work.", process));
  $(".unload").hidden = !worker.model;
}

function showLog(lines) {
  const log = $("pre"), atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < NEAR_END_PX;
  put(log, lines.join("\n") || say("The log is empty."));
  if (atEnd) log.scrollTop = log.scrollHeight;
}

// ---- Doing

async function busy(button, work) {
  if (button.ariaBusy === "true") return;
  button.ariaBusy = "true";
  await work();
  button.ariaBusy = null;
}

$(".unload").addEventListener("click", () => busy($(".unload"), async () => {
  const machine = await ask("unload_model");
  if (!machine) return;
  show(machine);
  tell(say("The model is unloaded and its memory is free. The next video loads it again."));
}));

$(".copy").addEventListener("click", () => busy($(".copy"), async () => {
  const report = await ask("report");
  if (report) await copy(report.text);
}));

async function copy(text) {
  const byHand = $(".by-hand"), done = say("Copied. It holds no passwords, no prompts and not your name.");
  byHand.hidden = true;
  try {
    await navigator.clipboard.writeText(text); // not there without https, or not allowed
    return tell(done);
  } catch {
    byHand.value = text;
    byHand.hidden = false;
    byHand.select();
  }
  byHand.hidden = document.execCommand("copy");
  tell(byHand.hidden ? done : say("Copy it from here:"));
}

$(".log").addEventListener("toggle", refresh);
document.addEventListener("visibilitychange", refresh);
new IntersectionObserver((entries) => {
  seen = entries[entries.length - 1].isIntersecting;
  refresh();
}).observe(element);
