// Panels lie over one photograph, so that opacity needs no server. `element`, `props`, `trigger` and `watch` are given
// by Gradio's HTML component.
const underlay = () => element.style.setProperty("--ov-photo", props.photo ? `url("${props.photo}")` : "none");

// The bar of what is read now: `done` is the share of a download; without one, below zero, it only moves.
function follow() {
  for (const bar of element.querySelectorAll("progress[data-running]")) {
    if (props.done >= 0) bar.value = props.done;
    else bar.removeAttribute("value");
  }
}

function enlarge(panel) {
  if (document.fullscreenElement) document.exitFullscreen();
  else panel.requestFullscreen();
}

async function save(panel) {
  const cells = panel.querySelector("img"), photo = new Image(), sheet = document.createElement("canvas");
  photo.src = props.photo;
  await photo.decode();
  [sheet.width, sheet.height] = [cells.naturalWidth, cells.naturalHeight];
  const pen = sheet.getContext("2d");
  pen.drawImage(photo, 0, 0, sheet.width, sheet.height);
  pen.globalAlpha = Number(getComputedStyle(cells).opacity);
  pen.drawImage(cells, 0, 0);
  const link = document.createElement("a");
  link.href = sheet.toDataURL("image/png");
  link.download = panel.dataset.file;
  link.click();
}

function touch(panel, event) {
  const grid = panel.closest(".ov-panels"), box = panel.querySelector("img").getBoundingClientRect();
  const across = (event.clientX - box.left) / box.width, down = (event.clientY - box.top) / box.height;
  if (grid.dataset.lens !== "click") return enlarge(panel);
  if (across < 0 || down < 0 || across >= 1 || down >= 1) return;
  trigger("point", { x: Math.floor(across * grid.dataset.width), y: Math.floor(down * grid.dataset.height) });
}

element.addEventListener("click", (event) => {
  const panel = event.target.closest(".ov-panel");
  if (!panel) return;
  if (event.target.closest("[data-full]")) enlarge(panel);
  else if (event.target.closest("[data-save]")) save(panel);
  else if (event.target.closest("img")) touch(panel, event);
});
watch(["photo", "value"], underlay);
watch(["done", "value"], follow);
underlay();
