// The live part of a page: fragments come as server-sent events and are swapped in by htmx.
//
// <div data-live="/live/market"> names the stream, [data-slot="chains"] inside it the place of the
// event "chains". The stream rests while nobody looks and while the reader has paused it.
"use strict";

(() => {
  const page = document.querySelector("[data-live]");

  function startLive() {
    const slots = [...page.querySelectorAll("[data-slot]")];
    const button = page.querySelector("[data-pause]");
    let source = null;
    let isPaused = false;

    const show = (state) => { page.dataset.state = state; };
    const swapInto = (slot) => (event) =>
      htmx.swap(slot, event.data, { swapStyle: "innerHTML", settleDelay: 0, swapDelay: 0 });

    function open() {
      if (source || isPaused || document.hidden) return;
      source = new EventSource(page.dataset.live);
      source.onopen = () => show("live");
      source.onerror = () => show("lost");
      for (const slot of slots) source.addEventListener(slot.dataset.slot, swapInto(slot));
    }

    function close() {
      if (source) source.close();
      source = null;
      show("paused");
    }

    document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
    window.addEventListener("pagehide", close);
    window.addEventListener("pageshow", open);
    if (button) {
      button.hidden = false;
      button.addEventListener("click", () => {
        isPaused = !isPaused;
        button.setAttribute("aria-pressed", String(isPaused));
        button.textContent = isPaused ? button.dataset.resumeLabel : button.dataset.pauseLabel;
        if (isPaused) close(); else open();
      });
    }
    open();
  }

  if (page) startLive();

  // A verdict takes the focus, so that a keyboard or a screen reader is where the news is.
  let asker = null;
  document.addEventListener("click", (event) => {
    const verify = event.target.closest("[data-verify]");
    if (verify) asker = verify;
    if (event.target.closest("[data-close]")) closeVerdict();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") closeVerdict();
    const verify = event.target.closest && event.target.closest("[data-verify]");
    if (verify && event.key === " ") { event.preventDefault(); verify.click(); }
  });
  document.addEventListener("htmx:afterSwap", (event) => {
    if (event.target.id === "verdict") event.target.focus({ preventScroll: true });
  });
  function closeVerdict() {
    const verdict = document.getElementById("verdict");
    if (!verdict || !verdict.firstElementChild) return;
    verdict.replaceChildren();
    if (asker && asker.isConnected) asker.focus();
  }
})();
