// Draws the gallery from props.value, the list that i2v/ui/example_gallery.py makes; a click tells an example's number.
const { make, say } = i2v;
i2v.speak(element);

function card(example, index) {
  const picture = make("img", { src: example.picture, alt: example.title, loading: "lazy" });
  const words = make("span", { className: "words" }, example.prompt);
  const extra = [example.loop && say("loop"), example.frames && say("{n} frames", { n: example.frames })].filter(Boolean).join(", ");
  if (extra) words.append(make("small", {}, extra));
  const button = make("button", { type: "button" }, picture, words);
  button.addEventListener("click", () => {
    trigger("select", { index, value: example.prompt });
    document.querySelector("#picture")?.scrollIntoView({ block: "nearest" }); // on a phone it is out of sight
  });
  return button;
}

function credit(example) {
  const link = (href, words) => href ? make("a", { href, target: "_blank", rel: "noopener noreferrer" }, words) : words;
  const licence = link(example.licence_text, example.licence);
  return make("li", {}, link(example.source, example.title), ": " + example.author + ", ", licence);
}

element.querySelector(".cards").replaceChildren(...props.value.map(card));
element.querySelector("ul").replaceChildren(...props.value.map(credit));
