import { createPinia } from "pinia";
import { createApp } from "vue";
import App from "./App.vue";
import { setTheme, theme } from "./live/theme";
import { router } from "./router";
import "./styles/tokens.css";
import "./styles/base.css";

setTheme(theme.value);
createApp(App).use(createPinia()).use(router).mount("#app");
