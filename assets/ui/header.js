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
