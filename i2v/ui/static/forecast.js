// Draws the forecast from props.value, the dictionary that i2v/ui/forecast_box.py makes. The nodes stay; only their text
// and the bar change, so an opened explanation stays open.
const $ = (selector) => element.querySelector(selector);
const put = (selector, text) => i2v.put($(selector), text);
i2v.speak(element);

function show() {
  const v = props.value;
  if (!v || !v.state) return;
  $(".i2v-forecast").dataset.state = v.state;
  for (const part of ["clip", "verdict", "amount", "time", "message", "why"]) put("." + part, v[part]);
  put(".plan", v.plan);
  $(".message").hidden = !v.message;
  $("details").hidden = !v.plan;
  $(".missing").hidden = !v.missing;
  put(".missing span", v.missing);
  const meter = $(".meter");
  meter.hidden = v.fill == null;
  meter.setAttribute("aria-label", v.spoken || i2v.say("Forecast of the memory"));
  meter.querySelector("i").style.width = 100 * (v.fill || 0) + "%";
  meter.querySelector("b").style.left = 100 * (v.limit || 0) + "%";
  meter.querySelector("b").hidden = !(v.limit < 1);
  const notes = $(".notes");
  notes.replaceChildren(...(v.notes || []).map((text) => Object.assign(document.createElement("li"), { textContent: text })));
  notes.hidden = !notes.children.length;
}

$(".missing button").addEventListener("click", () => i2v.tab(2)); // where its size and licence are told
watch("value", show);
show();
