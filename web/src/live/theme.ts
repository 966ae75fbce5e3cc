import { computed, ref } from "vue";

export const THEMES = { system: "System", light: "Light", dark: "Dark" } as const;
export type Theme = keyof typeof THEMES;
const STORED = "runfold-theme";

function stored(): Theme {
  try {
    const given = localStorage.getItem(STORED) ?? "";
    return given in THEMES ? (given as Theme) : "system";
  } catch {
    return "system"; // A browser may forbid storage; the page works without.
  }
}

export const theme = ref<Theme>(stored());

const system = window.matchMedia("(prefers-color-scheme: dark)");
const isSystemDark = ref(system.matches);
system.addEventListener("change", () => (isSystemDark.value = system.matches));

/** What is shown now, for what cannot be said in colours that know both. */
export const isDark = computed(() => (theme.value === "system" ? isSystemDark.value : theme.value === "dark"));

/** Light, dark, or as the system has it; kept in this browser. */
export function setTheme(chosen: Theme): void {
  theme.value = chosen;
  if (chosen === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = chosen;
  try {
    localStorage.setItem(STORED, chosen);
  } catch {
    // It holds until the page is left.
  }
}
