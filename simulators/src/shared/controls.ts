import express, { type ErrorRequestHandler, type Express } from 'express';
import { z } from 'zod';
import type { FaultScript, ScriptedFault } from './faults.ts';
import { sendPage, type PageSection } from './page.ts';
import type { LoggedRequest, RequestLog } from './request-log.ts';

interface Controlled {
  faults: Pick<FaultScript<ScriptedFault>, 'add' | 'all' | 'clear'>;
  requests: Pick<RequestLog<LoggedRequest>, 'all' | 'clear'>;
  /** What the page at `/` shows. */
  section: () => PageSection;
}

/** What tests and people use beside the API: the page, what was asked, and the faults to come. */
export function mountControls(app: Express, { faults, requests, section }: Controlled): void {
  app.get('/healthz', (_request, response) => void response.json({ status: 'ok' }));
  app.get('/', (_request, response) => sendPage(response, [section()]));

  app.get('/requests', (_request, response) => void response.json(requests.all()));
  app.delete('/requests', (_request, response) => {
    requests.clear();
    response.status(204).end();
  });

  app.get('/faults', (_request, response) => void response.json(faults.all()));
  app.post('/faults', express.json(), (request, response) => {
    response.status(201).json(faults.add(request.body));
  });
  app.delete('/faults', (_request, response) => {
    faults.clear();
    response.status(204).end();
  });
}

/** The four parameters make it an error handler to express. */
export const answerBadInput: ErrorRequestHandler = (error: unknown, _request, response, next) => {
  if (response.headersSent) next(error);
  else if (error instanceof z.ZodError) response.status(400).json({ error: z.prettifyError(error) });
  else response.status(400).json({ error: error instanceof Error ? error.message : String(error) });
};
