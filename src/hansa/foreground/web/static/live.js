// The live part of a page: fragments come as server-sent events and are swapped in by htmx.
//
// <div data-live="/live/market"> names the stream, [data-slot="chains"] inside it the place of the
// event "chains". The stream rests while nobody looks and while the reader has paused it.
"use strict";

(() => {
  const page = document.querySelector("[data-live]");
  const findLink = (root, href) =>
    [...root.querySelectorAll("[href]")].find((link) => link.getAttribute("href") === href);
  const findButton = (root, id) =>
    [...root.querySelectorAll("button[id]")].find((button) => button.id === id);

  function startLive() {
    const slots = [...page.querySelectorAll("[data-slot]")];
    const button = page.querySelector("[data-pause]");
    let source = null;
    let isPaused = false;

    const show = (state) => { page.dataset.state = state; };
    // News must not take the focus from whoever is about to press Enter on a link in it.
    const swapInto = (slot) => (event) => {
      const held = slot.contains(document.activeElement) ? document.activeElement : null;
      htmx.swap(slot, event.data, { swapStyle: "innerHTML", settleDelay: 0, swapDelay: 0 });
      const again = held && (findLink(slot, held.getAttribute("href")) || findButton(slot, held.id));
      if (again) again.focus({ preventScroll: true });
    };

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
  // The verdict's own place asks: the link may be replaced by news before the answer is there.
  let asked = null;
  document.addEventListener("click", (event) => {
    const verify = event.target.closest("[data-verify]");
    const verdict = document.getElementById("verdict");
    if (verify && verdict && !(event.ctrlKey || event.metaKey || event.shiftKey)) {
      event.preventDefault();
      asked = verify.getAttribute("href");
      htmx.ajax("GET", asked, { source: verdict, target: verdict, swap: "innerHTML" });
    }
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
    const asker = asked && findLink(document, asked);
    if (asker) asker.focus();
  }
})();
