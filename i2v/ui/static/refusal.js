// Shows why a click on Generate was refused, {"field": the id of the field's block or "", "message": a sentence or ""},
// below that field until any field is changed. Where the field is folded away it is shown here, by the button.
const home = element.querySelector(".i2v-refusal");
let undo = () => {};

function show() {
  undo();
  const { field, message } = props.value;
  if (!message) return;
  const block = field && document.getElementById(field);
  const seen = block?.checkVisibility() ? block : null;
  const node = seen ? i2v.make("p", { className: "i2v-refusal", id: "i2v-refused", role: "alert" }) : home;
  seen?.after(node);
  node.hidden = false;
  node.textContent = message;
  node.scrollIntoView({ block: "nearest", behavior: i2v.calm() ? "auto" : "smooth" });
  const input = seen?.querySelector("textarea, input");
  input?.setAttribute("aria-invalid", "true");
  input?.setAttribute("aria-describedby", "i2v-refused");
  undo = () => {
    input?.removeAttribute("aria-invalid");
    input?.removeAttribute("aria-describedby");
    if (seen) node.remove(); else node.hidden = true;
    undo = () => {};
  };
}

document.addEventListener("i2v:changed", () => undo());
watch("value", show);
