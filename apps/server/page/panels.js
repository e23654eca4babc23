/* SPDX-License-Identifier: MIT
 * The theme, and which of the columns are there. On narrow pages the list lies over the rest, which is out of reach
 * until it closes; on phones the experts are below, and away at first.
 */
import { byId, say, setIcon } from "./dom.js";
import { saveTheme } from "./store.js";

const THEMES = { system: "Theme: as the system has it", light: "Theme: light", dark: "Theme: dark" };

const narrow = matchMedia("(max-width: 1099px)");
const phone = matchMedia("(max-width: 759px)");
const dark = matchMedia("(prefers-color-scheme: dark)");

export class Panels {
  /* host: {settings, keep(), recolored(), resizing(act)}; settings gets {side, picture, pictureBelow}. */
  constructor(host) {
    this.host = host;
    this.drawer = false; /* the list, while it lies over the rest */
    byId("theme").addEventListener("click", () => this.nextTheme());
    dark.addEventListener("change", () => this.showTheme());
    byId("side-toggle").addEventListener("click", () => this.toggleSide());
    byId("side-close").addEventListener("click", () => {
      this.toggleSide();
      byId("side-toggle").focus();
    });
    byId("scrim").addEventListener("click", () => this.closeDrawer());
    byId("picture-toggle").addEventListener("click", () => this.togglePicture());
    byId("picture-close").addEventListener("click", () => {
      this.togglePicture();
      byId("picture-toggle").focus();
    });
    for (const query of [narrow, phone])
      query.addEventListener("change", () => {
        this.drawer = false;
        this.show();
      });
    this.show();
    this.showTheme();
  }

  showTheme() {
    const theme = document.documentElement.dataset.theme || "system", button = byId("theme");
    setIcon(button, theme);
    button.setAttribute("aria-label", THEMES[theme]);
    button.title = THEMES[theme];
    this.host.recolored();
  }

  nextTheme() {
    const names = Object.keys(THEMES), root = document.documentElement;
    const theme = names[(names.indexOf(root.dataset.theme || "system") + 1) % names.length];
    if (theme === "system")
      delete root.dataset.theme;
    else
      root.dataset.theme = theme;
    saveTheme(theme);
    this.showTheme();
    say(THEMES[theme]);
  }

  show() {
    const { settings } = this.host;
    const side = narrow.matches ? this.drawer : settings.side !== false;
    const beside = phone.matches ? settings.pictureBelow === true : settings.picture !== false;
    document.body.classList.toggle("side-open", side);
    document.body.classList.toggle("side-over", this.drawer);
    document.body.classList.toggle("picture-open", beside);
    byId("main").inert = byId("picture").inert = this.drawer;
    byId("side-toggle").setAttribute("aria-expanded", String(side));
    byId("picture-toggle").setAttribute("aria-expanded", String(beside));
  }

  toggleSide() {
    if (narrow.matches)
      this.drawer = !this.drawer;
    else
      this.host.settings.side = this.host.settings.side === false;
    this.host.keep();
    this.host.resizing(() => this.show());
    if (this.drawer)
      byId("side-close").focus();
  }

  closeDrawer() {
    if (!this.drawer)
      return;
    this.toggleSide();
    byId("side-toggle").focus();
  }

  togglePicture() {
    const { settings } = this.host, name = phone.matches ? "pictureBelow" : "picture";
    settings[name] = !(phone.matches ? settings[name] === true : settings[name] !== false);
    this.host.keep();
    this.host.resizing(() => this.show());
  }
}
