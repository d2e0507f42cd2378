import express from 'express';
import { createBubbleApp, createBubbleStores, describeBubble } from './bubble/app.ts';
import { createGoliothApp, createGoliothStores, describeGolioth } from './golioth/app.ts';
import { createGoogleApp, describeGoogle } from './google/app.ts';
import { createGoogleStores } from './google/stores.ts';
import { addSampleAccount, addSampleProject } from './sample-data.ts';
import { sendPage } from './shared/page.ts';
import { startServer, type ServerOptions, type SimulatorServer } from './shared/server.ts';
import { createTwilioApp } from './twilio/app.ts';
import { describeSection } from './twilio/page.ts';
import { createTwilioStores } from './twilio/stores.ts';

/**
 * All providers on one port: Twilio at the root, the others under /bubble, /google and /golioth, with one page at / that
 * shows what arrived anywhere. Google and Golioth begin with the sample data.
 */
export async function startSimulators(options: ServerOptions = {}): Promise<SimulatorServer> {
  const [twilio, bubble, google, golioth] = [
    createTwilioStores(),
    createBubbleStores(),
    createGoogleStores(),
    createGoliothStores(),
  ];
  addSampleAccount(google);
  addSampleProject(golioth);

  const app = express().disable('x-powered-by').disable('etag');
  app.get('/', (_request, response) => {
    sendPage(response, [
      describeSection(twilio),
      describeBubble(bubble),
      describeGoogle(google),
      describeGolioth(golioth),
    ]);
  });
  app.use('/bubble', createBubbleApp(bubble));
  app.use('/google', createGoogleApp(google));
  app.use('/golioth', createGoliothApp(golioth));
  app.use(createTwilioApp({}, twilio));
  return startServer(app, options);
}
