// What every part of the page may use, as window.i2v; it is loaded before any of them.
window.i2v = (() => {
  const words = /*words*/ {};
  const spoken = Object.keys(words).find((code) => navigator.language.split("-")[0] === code.split("-")[0]);
  const fill = (text, values) => text.replace(/\{(\w+)\}/g, (hole, name) => values[name] ?? hole);
  // Only literal texts may be given to say: a test looks for each of them in the catalogues.
  const say = (text, values = {}) => fill(words[spoken]?.[text] ?? text, values);
  // Puts the words of a part's frame into the language of the browser: those of nodes with data-say.
  const speak = (root) => {
    for (const node of root.querySelectorAll("[data-say]")) node.textContent = say(node.dataset.say);
    for (const node of root.querySelectorAll("[data-say-label]")) node.setAttribute("aria-label", say(node.dataset.sayLabel));
  };
  const put = (node, text) => { if (node.textContent !== (text ?? "")) node.textContent = text ?? ""; };
  const make = (name, fields = {}, ...children) => {
    const node = Object.assign(document.createElement(name), fields);
    node.append(...children);
    return node;
  };
  const bytes = (n) => n < 1048576 ? Math.round(n / 1024) + " KiB" : n < 1073741824 ? Math.round(n / 1048576) + " MiB" : (n / 1073741824).toFixed(n < 10737418240 ? 2 : 1) + " GiB";
  const clock = (s) => s >= 3600
    ? say("{hours} h {minutes} min", { hours: Math.floor(s / 3600), minutes: Math.round((s % 3600) / 60) })
    : s >= 60
      ? say("{minutes} min {seconds} s", { minutes: Math.floor(s / 60), seconds: Math.round(s % 60) })
      : say("{seconds} s", { seconds: s < 10 ? s.toFixed(1) : Math.round(s) });
  const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;
  const tab = (number) => document.querySelectorAll("#tabs > .tab-wrapper button[role=tab], #tabs button[role=tab]")[number]?.click();
  // Opens the models, and begins the download of one; static/models.js looks for what is wanted.
  const fetchModel = (name) => {
    fetchModel.wanted = name;
    tab(2);
    document.dispatchEvent(new Event("i2v:fetch-model"));
  };
  // Calls a part's server function, with {error: a sentence} when i2v is gone; Gradio then gives undefined, or throws.
  const ask = async (server, name, data = {}) =>
    (await server[name](data).catch(() => null)) || { error: say("i2v does not answer. Is it still running?") };
  return { ask, say, speak, put, make, bytes, clock, calm, tab, fetchModel, language: spoken || "en" };
})();

// A video of i2v that is dropped anywhere goes to the button that loads its settings; pictures are left to the start image.
(() => {
  const isVideo = (item) => item.kind === "file" && /^video\/|^image\/gif$|zip/.test(item.type);
  const carries = (event) => [...(event.dataTransfer?.items || [])].some(isVideo);
  const mark = (on) => document.body.classList.toggle("i2v-drop", on);
  const take = (event) => { event.preventDefault(); event.stopPropagation(); };
  document.addEventListener("dragover", (event) => { if (carries(event)) { take(event); mark(true); } }, true);
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) mark(false); }, true);
  document.addEventListener("drop", (event) => {
    mark(false);
    const input = document.querySelector("#settings input[type=file][accept*='.mp4']");
    if (!carries(event) || !input) return;
    take(event);
    const files = new DataTransfer();
    files.items.add(event.dataTransfer.files[0]);
    input.files = files.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  }, true);
})();

// Ctrl+Enter or Cmd+Enter anywhere in the form starts a generation.
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    document.querySelector("#generate")?.click();
  }
});
