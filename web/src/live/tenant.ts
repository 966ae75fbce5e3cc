/** The tenant that an admin of all of them looks at in this tab; empty: the usual one. */
const STORED = "runfold-tenant";
export const TENANT_HEADER = "Runfold-Tenant";

export function chosenTenant(): string {
  try {
    return sessionStorage.getItem(STORED) ?? "";
  } catch {
    return "";
  }
}

/** Every page, stream and download of this tab is of that tenant from now on. */
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
  const tenant = chosenTenant();
  return tenant ? { [TENANT_HEADER]: tenant } : {};
}
