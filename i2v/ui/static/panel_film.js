// The panel's preview, then the frames that are made already, played in a loop; the video takes their place. Part of panel.js.
const film = { folder: "", frames: [], asked: 0, fps: 12, at: 0, shown: 0, rolling: false, told: "" };

function takePictures(v) {
  const screen = $(".screen"), image = $(".view img"), canvas = $(".film");
  if (v.job !== film.job) Object.assign(film, { job: v.job, folder: "", frames: [], asked: 0, at: 0 }), forget(image, canvas);
  $(".view").style.setProperty("--shape", v.size ? v.size[0] / v.size[1] : 1.5);
  if (!v.running) {
    if (v.state === "done" && !screen.hidden) return; // until the video is there, see below
    return leave();
  }
  if (v.preview && image.dataset.now !== v.preview) {
    const next = new Image();
    image.dataset.now = next.src = v.preview;
    next.decode().then(() => { if (image.dataset.now === v.preview) image.src = next.src, (image.hidden = false), (screen.hidden = false); }, () => {});
  }
  if (v.frames) takeFrames(v.frames);
  put(".made", v.frames ? say("{ready} of {total} frames", v.frames) : say("Preview"));
}

function takeFrames(f) {
  film.fps = f.fps;
  for (; film.asked < f.ready; film.asked++) {
    const frame = new Image(), number = film.asked, job = film.job;
    frame.src = f.folder + "/" + String(number).padStart(5, "0") + ".jpg";
    // One that is gone already, because the run has just ended, is left out.
    frame.decode().then(() => { if (film.job === job) film.frames[number] = frame, roll(); }, () => {});
  }
  $(".film").setAttribute("aria-label", say("The {n} frames made so far", { n: f.ready }));
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

function forget(image, canvas) {
  image.hidden = canvas.hidden = true;
  image.dataset.now = "";
}

function leave() {
  $(".screen").hidden = true;
  Object.assign(film, { frames: [], asked: 0, at: 0 });
  forget($(".view img"), $(".film"));
}
document.addEventListener("i2v:video", leave);
