// Below the buttons: all preferences at once, comparing, opening a file, examples.
(async () => {
  while (!window.mpdStudio) await new Promise(done => setTimeout(done, 20));
  window.mpdStudio.mount(element);
})();
