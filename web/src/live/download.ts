import { chosenTenant, tenantHeaders } from "./tenant";

/** A link to a file is followed by the browser itself, but for another tenant's, which it cannot ask for by a link. */
export async function download(click: MouseEvent, name: string): Promise<void> {
  if (!chosenTenant()) return;
  click.preventDefault();
  const answer = await fetch((click.currentTarget as HTMLAnchorElement).href, { headers: tenantHeaders() });
  if (!answer.ok) return;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await answer.blob());
  link.download = name;
  link.click();
  URL.revokeObjectURL(link.href);
}
