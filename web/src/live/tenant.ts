/** The tenant that an admin of all of them looks at in this tab; empty: the usual one. */
const STORED = "runfold-tenant";
export const TENANT_HEADER = "Runfold-Tenant";

/** Read once: a page that is being left goes on asking for what it shows. */
const shown = stored();

function stored(): string {
  try {
    return sessionStorage.getItem(STORED) ?? "";
  } catch {
    return "";
  }
}

export function chosenTenant(): string {
  return shown;
}

/** Leave this page: every page, stream and download of this tab is of that tenant from then on. */
export function chooseTenant(name: string): void {
  try {
    if (name) sessionStorage.setItem(STORED, name);
    else sessionStorage.removeItem(STORED);
  } catch {
    return; // A browser that forbids storage shows the usual tenant.
  }
  location.assign("/runs");
}

export function tenantHeaders(): Record<string, string> {
  return shown ? { [TENANT_HEADER]: shown } : {};
}
