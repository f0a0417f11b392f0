// Shows the sentence in props.value, {"about": the prompt, "say": the sentence or ""}. One that is no longer true goes
// at once; a new one waits until the typing pauses, so that a word half written is not called unknown, and an answer
// about what is no longer in the field is not shown at all. The node stays, so a screen reader hears it once.
const node = element.querySelector(".i2v-note");
const PAUSE_MS = 700;
let timer, typed = 0;

function settle() {
  clearTimeout(timer);
  const { about, say } = props.value;
  if (node.textContent === say || about !== document.querySelector("#prompt textarea")?.value) return;
  const left = say ? typed + PAUSE_MS - Date.now() : 0;
  if (left > 0) timer = setTimeout(settle, left);
  else node.textContent = say;
}

document.addEventListener("input", (event) => {
  if (!event.target.closest?.("#prompt")) return;
  typed = Date.now();
  settle();
});
watch("value", settle);
