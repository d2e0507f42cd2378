import { setTimeout as sleep } from 'node:timers/promises';
import type { Request, Response } from 'express';
import type { FaultScript, ScriptedFault } from './faults.ts';
import type { LoggedRequest, RequestLog } from './request-log.ts';

/** What is sent back. A string is HTML unless `headers` say otherwise, all else is JSON; no body is no body. */
export interface Reply {
  status: number;
  body?: unknown;
  headers?: Record<string, string>;
}

/** What the answer to a request comes to; null means the connection is reset instead. */
export type Answer = Reply | null;

/** Where a simulator looks up its faults and writes down what was asked. */
export interface Desk<Fault extends ScriptedFault, Entry extends LoggedRequest> {
  faults: Pick<FaultScript<Fault>, 'take'>;
  requests: Pick<RequestLog<Entry>, 'add'>;
  now: () => number;
}

/** One request to a simulated API, in the words of its provider. */
export interface Exchange<Fault extends ScriptedFault, About> {
  request: Request;
  response: Response;
  /** Bad credentials or a limit: answered before a fault is used up. */
  refusal?: Reply | undefined;
  /** Whether a scripted fault means this request. */
  fits: (fault: Fault) => boolean;
  /** The answer that goes with a scripted status. */
  refuse: (fault: StatusFaultOf<Fault>) => Reply;
  /** Carries the request out. It is told of the fault, for the kinds that only this provider has. */
  act: (fault: Fault | undefined) => Reply;
  /** What the request was about, for the log; asked after it was answered. */
  about: (answer: Answer) => About;
}

type StatusFaultOf<Fault extends ScriptedFault> = Extract<Fault, { kind: 'status' }>;

/** Refusal first, then a scripted fault, then the real answer; then the log. */
export async function exchange<Fault extends ScriptedFault, About>(
  desk: Desk<Fault, LoggedRequest & About>,
  { request, response, refusal, fits, refuse, act, about }: Exchange<Fault, About>,
): Promise<void> {
  const at = new Date(desk.now()).toISOString();
  const fault = refusal ? undefined : desk.faults.take(fits);
  const answer = refusal ?? (await behave(fault, refuse, () => act(fault)));
  give(response, answer);
  desk.requests.add({
    at,
    method: request.method,
    path: request.path,
    status: answer?.status ?? null,
    fault: fault?.kind ?? null,
    ...about(answer),
  });
}

async function behave<Fault extends ScriptedFault>(
  fault: Fault | undefined,
  refuse: (fault: StatusFaultOf<Fault>) => Reply,
  act: () => Reply,
): Promise<Answer> {
  if (!fault) return act();
  if (isStatus(fault)) return asScripted(fault, refuse(fault));
  if (isDelay(fault)) {
    // Acted on at once and answered late: whoever gives up waiting cannot know that it was carried out.
    const reply = act();
    // Unreferenced: an answer nobody waits for does not keep a test run alive.
    await sleep(fault.delayMs, undefined, { ref: false });
    return reply;
  }
  switch (fault.kind) {
    case 'drop-before':
      return null;
    case 'drop-after':
      act();
      return null;
    case 'html':
      return htmlPage(502, 'Bad Gateway');
    default:
      return act();
  }
}

function isStatus<Fault extends ScriptedFault>(fault: Fault): fault is StatusFaultOf<Fault> {
  return fault.kind === 'status';
}

function isDelay(fault: ScriptedFault): fault is ScriptedFault & { delayMs: number } {
  return fault.kind === 'delay';
}

/** The scripted body, or else the provider's own, under the scripted headers. */
function asScripted({ body, headers, retryAfter }: ScriptedFault, reply: Reply): Reply {
  const allHeaders: Record<string, string> = { ...reply.headers, ...headers };
  if (retryAfter !== undefined) allHeaders['Retry-After'] = String(retryAfter);
  return { ...reply, ...(body !== undefined && { body }), headers: allHeaders };
}

/** What proxies in front of an API answer instead of its JSON. */
export function htmlPage(status: number, title: string): Reply {
  return { status, body: `<html><body><h1>${status} ${title}</h1></body></html>` };
}

function give(response: Response, answer: Answer): void {
  if (answer === null) {
    response.socket?.resetAndDestroy();
    return;
  }
  const { status, body, headers = {} } = answer;
  response.status(status).set(headers);
  if (body === undefined) response.end();
  else if (typeof body !== 'string') response.json(body);
  else if (response.get('Content-Type') === undefined) response.type('html').send(body);
  else response.send(body);
}
