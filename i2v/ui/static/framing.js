// Draws how the picture is put into the video's frame, from props.value, the dictionary that i2v/ui/framing.py makes: over a
// small copy of the picture either what is cut (dark, outside a white frame) or the fitted picture on its blurred copy.
const $ = (selector) => element.querySelector(selector);
const SIDE = 84;

function place(node, left, top, width, height) {
  Object.assign(node.style, { left: left + "px", top: top + "px", width: width + "px", height: height + "px" });
}

function draw(v) {
  const shown = document.querySelector("#picture img")?.src;
  const stage = $(".stage"), fits = v.fit === "fit";
  stage.hidden = !v.differs || !shown;
  if (stage.hidden) return;
  for (const img of stage.querySelectorAll("img")) if (img.src !== shown) img.src = shown;
  const [width, height] = fits ? v.video : v.picture, [inWidth, inHeight] = fits ? v.picture : v.video;
  const scale = SIDE / Math.max(width, height), inner = Math.min(width / inWidth, height / inHeight) * scale;
  Object.assign(stage.style, { width: width * scale + "px", height: height * scale + "px" });
  const box = [(width * scale - inWidth * inner) / 2, (height * scale - inHeight * inner) / 2, inWidth * inner, inHeight * inner];
  $(".back").hidden = !fits;
  $("i").hidden = fits;
  if (fits) {
    const cover = Math.max(width / inWidth, height / inHeight) * scale;
    place($(".back"), (width * scale - inWidth * cover) / 2, (height * scale - inHeight * cover) / 2, inWidth * cover, inHeight * cover);
    place($(".front"), ...box);
  } else {
    place($(".front"), 0, 0, width * scale, height * scale);
    place($("i"), ...box);
  }
  stage.setAttribute("aria-label", v.words);
}

function show() {
  const v = props.value || {};
  $(".i2v-framing").hidden = !v.picture;
  if (!v.picture) return;
  for (const part of ["facts", "words", "warning"]) i2v.put($("." + part), v[part]);
  draw(v);
  if (v.differs && !document.querySelector("#picture img")?.complete) setTimeout(() => draw(props.value), 300);
}

watch("value", show);
show();
