/* SPDX-License-Identifier: MIT
 * The chosen theme, before anything is drawn. app.js changes it later.
 */
try {
  const theme = localStorage.getItem("pregate/theme");
  if (theme === "light" || theme === "dark")
    document.documentElement.dataset.theme = theme;
} catch {
  /* Storage is blocked: the system's theme, then. */
}
