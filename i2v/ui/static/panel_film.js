// The panel's preview, then the frames that are made already, played in a loop; the video takes their place. Part of panel.js.
const film = { job: "", attempt: "", frames: [], preview: "", fps: 12, at: 0, shown: 0, rolling: false, asking: false };

function takePictures(v) {
  const screen = $(".screen"), attempt = v.job + (v.preview || "").split(".")[0];
  if (attempt !== film.attempt && (v.preview || v.job !== film.job)) clear();
  Object.assign(film, { job: v.job, attempt });
  $(".view").style.setProperty("--shape", v.size ? v.size[0] / v.size[1] : 1.5);
  if (!v.running) {
    if (v.state === "done" && !screen.hidden) return; // until the video is there: it says so itself
    return leave();
  }
  put(".made", v.frames ? say("{ready} of {total} frames", v.frames) : say("Preview"));
  $(".film").setAttribute("aria-label", say("The {n} frames made so far", { n: v.frames?.ready || 0 }));
  if (v.preview) askForPictures(v);
}

async function askForPictures(v) {
  if (film.asking || document.hidden || !element.offsetParent) return; // the next tick asks again
  if (v.frames ? film.frames.length >= v.frames.ready : film.preview === v.preview) return;
  // Without motion the newest frame is enough.
  const have = !v.frames ? 0 : i2v.calm() ? v.frames.ready - 1 : film.frames.length, attempt = film.attempt;
  film.asking = true;
  try {
    const answer = await i2v.ask(server, "pictures", { job: v.job, have });
    if (attempt !== film.attempt || answer.error) return;
    if (v.frames) {
      film.fps = v.frames.fps;
      film.frames.length = have;
      for (const source of answer.frames) {
        const frame = source && (await picture(source));
        if (attempt !== film.attempt || !props.value.running) return; // it has ended meanwhile
        film.frames.push(frame);
        roll();
      }
    } else if (answer.preview) {
      const next = await picture(answer.preview);
      if (next && attempt === film.attempt && !film.frames.length && props.value.running) showPreview(next, v.preview);
    }
  } catch {
    return; // the connection is gone for a moment; the ticks say so
  } finally {
    film.asking = false;
  }
  const now = props.value;
  if (now.frames && now.job === v.job && film.frames.length < now.frames.ready) askForPictures(now);
}

async function picture(source) {
  const image = new Image();
  image.src = source;
  return image.decode().then(() => image, () => null);
}

function showPreview(next, name) {
  const image = $(".view img");
  film.preview = name;
  image.src = next.src;
  image.hidden = $(".screen").hidden = false;
}

function roll() {
  if (film.rolling) return;
  film.rolling = true;
  requestAnimationFrame(turn);
}

function turn(now) {
  const canvas = $(".film"), frames = film.frames.filter(Boolean);
  film.rolling = false;
  if (!frames.length || $(".screen").hidden && !canvas.hidden || document.hidden) return;
  if (i2v.calm()) return paint(canvas, frames.at(-1));
  if (now - film.shown >= 1000 / film.fps - 4) {
    film.shown = now;
    film.at = (film.at + 1) % frames.length;
    paint(canvas, frames[film.at]);
  }
  if (!canvas.hidden && !canvas.offsetParent) return; // on another tab; the next tick goes on
  roll();
}

function paint(canvas, frame) {
  if (canvas.width !== frame.naturalWidth) canvas.width = frame.naturalWidth;
  if (canvas.height !== frame.naturalHeight) canvas.height = frame.naturalHeight;
  canvas.getContext("2d").drawImage(frame, 0, 0);
  canvas.hidden = $(".screen").hidden = false;
}

function clear() {
  Object.assign(film, { frames: [], preview: "", at: 0 });
  $(".view img").hidden = $(".film").hidden = true;
}

function leave() {
  $(".screen").hidden = true;
  clear();
}
document.addEventListener("i2v:video", leave);
