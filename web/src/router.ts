import { createRouter, createWebHistory } from "vue-router";
import RunListView from "@/views/runs/RunListView.vue";

/** The address is the state: filters, tab, selection and playhead live in the query, so any screen can be shared. */
export const router = createRouter({
  history: createWebHistory(),
  routes: [
    { path: "/", redirect: "/runs" },
    { path: "/runs", name: "runs", component: RunListView, meta: { title: "Runs" } },
    {
      path: "/runs/:id",
      name: "run",
      component: () => import("@/views/runs/RunDetailView.vue"),
      props: true,
      meta: { title: "Run" },
    },
    { path: "/approvals", name: "approvals", component: () => import("@/views/ApprovalsView.vue"), meta: { title: "Approvals" } },
    { path: "/compare", name: "compare", component: () => import("@/views/CompareView.vue"), meta: { title: "Compare" } },
    { path: "/audit", name: "audit", component: () => import("@/views/AuditView.vue"), meta: { title: "Audit" } },
    { path: "/costs", name: "costs", component: () => import("@/views/CostsView.vue"), meta: { title: "Costs" } },
    { path: "/tokens", name: "tokens", component: () => import("@/views/TokensView.vue"), meta: { title: "Tokens" } },
    { path: "/admin", name: "admin", component: () => import("@/views/AdminView.vue"), meta: { title: "Admin" } },
    { path: "/api/docs", name: "api", component: () => import("@/views/ApiDocsView.vue"), meta: { title: "API" } },
    { path: "/:path(.*)*", name: "lost", component: () => import("@/views/NotFoundView.vue"), meta: { title: "Not found" } },
  ],
});

router.afterEach((to) => {
  document.title = `${to.meta.title ?? "runfold"} · runfold`;
});
