"use strict";
(() => {
  const strips = [...document.querySelectorAll(".film .strip")].map((image) => ({
    image,
    at: image.dataset.at.split(",").map(Number),
  }));
  const moment = document.getElementById("moment");
  const position = document.getElementById("position");
  const play = document.getElementById("play");
  let timer = null;

  const show = (percent) => {
    const share = percent / 100;
    position.textContent = percent >= 100 ? "final pictures" : `after ${Math.round(percent)} % of the denoiser calls`;
    for (const { image, at } of strips) {
      image.hidden = percent >= 100;
      let place = 0;
      while (place + 1 < at.length && at[place + 1] <= share + 1e-6) place += 1;
      image.style.transform = `translateX(${(-100 * place) / at.length}%)`;
    }
  };
  const stop = () => {
    clearInterval(timer);
    timer = null;
    play.textContent = "Play";
  };
  if (strips.length) {
    for (const { image, at } of strips) image.style.width = `${100 * at.length}%`;
    document.getElementById("scrubber").hidden = false;
    moment.addEventListener("input", () => {
      stop();
      show(Number(moment.value));
    });
    play.addEventListener("click", () => {
      if (timer !== null) return stop();
      let percent = 0;
      play.textContent = "Stop";
      timer = setInterval(() => {
        percent += 4;
        moment.value = String(Math.min(percent, 100));
        show(Math.min(percent, 100));
        if (percent >= 100) stop();
      }, 120);
    });
    show(Number(moment.value));
  }

  // An interactive chart replaces its static image once drawn; until then, and in print, the image is shown.
  const specs = JSON.parse(document.getElementById("charts").textContent);
  for (const [key, spec] of Object.entries(specs)) {
    const place = document.getElementById(`chart-${key}`);
    if (!place) continue;
    const still = place.querySelector("img");
    const live = document.createElement("div");
    live.className = "live";
    live.setAttribute("role", "img");
    live.setAttribute("aria-label", still.alt);
    place.append(live);
    window
      .vegaEmbed(live, spec, { ast: true, actions: false, renderer: "svg", logLevel: 1 })
      .then(() => still.remove())
      .catch((error) => {
        live.remove();
        console.error(error);
      });
  }
})();
