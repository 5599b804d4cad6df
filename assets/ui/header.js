// The header: the pack's title, the device, and the switch between light and dark, which is kept.
element.querySelector('.mpd-pack').textContent = props.title;

const themeSwitch = element.querySelector('.mpd-theme');
const showTheme = () => {
  themeSwitch.setAttribute('aria-pressed', String(document.body.classList.contains('dark')));
};
let theme = null;
try { theme = localStorage.getItem('mpd-theme'); } catch { /* storage is switched off */ }
if (theme === 'dark' || theme === 'light') document.body.classList.toggle('dark', theme === 'dark');
themeSwitch.addEventListener('click', () => {
  const dark = document.body.classList.toggle('dark');
  try { localStorage.setItem('mpd-theme', dark ? 'dark' : 'light'); } catch { /* kept for this visit alone */ }
});
new MutationObserver(showTheme).observe(document.body, {attributeFilter: ['class']});
showTheme();

// Where a page around this one gives it all the height it asks for, as Spaces does, the window says
// nothing of what a visitor sees: what is as high as that would grow without end, and what stands at
// its edge would be out of sight. The page around says what is seen, whenever it scrolls.
const fit = ({clientHeight, scrollTop, offsetTop, iframeHeight}) => {
  const above = Math.max(0, scrollTop - offsetTop), below = Math.max(0, iframeHeight + offsetTop - scrollTop - clientHeight);
  const sizes = {seen: clientHeight, above, below};
  window.mpdSeen = sizes;
  for (const [name, size] of Object.entries(sizes)) document.documentElement.style.setProperty(`--mpd-window-${name}`, `${Math.round(size)}px`);
};
const nest = () => {
  const height = window.innerHeight;
  fit({clientHeight: Math.min(height, window.screen.availHeight), scrollTop: 0, offsetTop: 0, iframeHeight: height});  // until it says so
  window.parentIFrame.getPageInfo(fit);
};
if (window.parentIFrame) nest();
else window.addEventListener('gradio:iframe-resizer-ready', nest, {once: true});
