import { createHash } from 'node:crypto';

const STYLE = `
  :root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
  body { margin: 0; min-height: 100vh; display: grid; place-items: center; background: light-dark(#f4f5f7, #151a21); }
  form { width: min(20rem, 90vw); box-sizing: border-box; padding: 2rem; border-radius: .75rem;
    background: light-dark(#fff, #1f2630); box-shadow: 0 1px 3px #0003; }
  h1 { margin: 0 0 1rem; font-size: 1.25rem; }
  label { display: block; margin-top: .75rem; font-size: .875rem; }
  input { display: block; width: 100%; box-sizing: border-box; margin-top: .25rem; padding: .5rem; font: inherit;
    border: 1px solid #8889; border-radius: .375rem; }
  button { width: 100%; margin-top: 1.25rem; padding: .5rem; font: inherit; border: 0; border-radius: .375rem;
    background: #2f6fed; color: #fff; cursor: pointer; }
  p { margin: 0 0 .5rem; color: light-dark(#b42318, #ff8a7a); }
`;

/** Lets exactly this style through the content security policy. */
export const LOGIN_STYLE_HASH = `'sha256-${createHash('sha256').update(STYLE).digest('base64')}'`;

export interface LoginForm {
  /** Where to go afterwards. */
  next: string;
  user?: string;
  /** Why the last try failed. */
  problem?: string;
}

export function renderLoginPage({ next, user = '', problem }: LoginForm): string {
  return page(
    'Log in',
    `<form method="post" action="/admin/login">
      <h1>Outbox Bridge</h1>
      ${problem === undefined ? '' : `<p role="alert">${escapeHtml(problem)}</p>`}
      <input type="hidden" name="next" value="${escapeHtml(next)}">
      <label>User <input name="user" value="${escapeHtml(user)}" autocomplete="username" required autofocus></label>
      <label>Password <input name="password" type="password" autocomplete="current-password" required></label>
      <button>Log in</button>
    </form>`,
  );
}

export function renderLogoutPage(): string {
  return page(
    'Log out',
    `<form method="post" action="/admin/logout">
      <h1>Outbox Bridge</h1>
      <button autofocus>Log out</button>
    </form>`,
  );
}

function page(title: string, body: string): string {
  return `<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <title>${title} – Outbox Bridge</title>
    <link rel="icon" href="data:,">
    <style>${STYLE}</style>
  </head>
  <body>
    ${body}
  </body>
</html>
`;
}

function escapeHtml(text: string): string {
  return text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}
