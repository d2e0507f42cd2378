import type { Request } from 'express';

/** GET and HEAD: what changes nothing. */
export function isRead({ method }: Request): boolean {
  return method === 'GET' || method === 'HEAD';
}

/**
 * True when a browser says that the request comes from another site than ours. What says nothing is no browser, and has
 * nobody's cookies to abuse.
 */
export function comesFromElsewhere(request: Request, publicUrl: string | undefined): boolean {
  const site = request.get('sec-fetch-site');
  if (site) return !['same-origin', 'none'].includes(site);
  return request.get('origin') !== undefined && !hasOwnOrigin(request, publicUrl);
}

/** True when the request names an origin, and it is ours. */
export function hasOwnOrigin(request: Request, publicUrl: string | undefined): boolean {
  const origin = request.get('origin');
  const ours = [publicUrl && new URL(publicUrl).host, request.get('host')];
  return origin !== undefined && URL.canParse(origin) && ours.includes(new URL(origin).host);
}
