// The header: the pack's title, the device, and the switch between light and dark.
element.querySelector('.mpd-pack').textContent = props.title;
element.querySelector('.mpd-device').textContent = props.facts;

const themeSwitch = element.querySelector('.mpd-theme');
const showTheme = () => {
  themeSwitch.setAttribute('aria-pressed', String(document.body.classList.contains('dark')));
};
themeSwitch.addEventListener('click', () => document.body.classList.toggle('dark'));
new MutationObserver(showTheme).observe(document.body, {attributeFilter: ['class']});
showTheme();
