# One image for every process; the command chooses: node services/bridge/dist/main.js, node infra/postgres/dist/main.js …
FROM node:22-slim AS base
WORKDIR /app

# The package.json of every workspace and nothing else, so that a changed source file does not install again.
FROM base AS manifests
COPY . .
RUN find . -type f ! -name package.json ! -name package-lock.json ! -name .npmrc -delete && find . -type d -empty -delete

# Production dependencies of what runs in a container; those of tests and of the embedded Postgres stay out. Optional
# ones are TypeScript, a peer of the board's, and a native decoder for a format that BullMQ only encodes.
FROM base AS deps
COPY --from=manifests /app ./
RUN --mount=type=cache,target=/root/.npm \
    npm ci --omit=dev --omit=optional --ignore-scripts \
      -w services/bridge -w services/worker -w services/api -w packages/cli -w infra/postgres -w simulators

FROM base AS build
COPY --from=manifests /app ./
RUN --mount=type=cache,target=/root/.npm npm ci --omit=optional --ignore-scripts
COPY . .
RUN npx tsc -b services/bridge services/worker services/api packages/cli infra/postgres simulators demo
# What runs: compiled code, the package.json that names it, and the SQL files that migrate reads.
RUN mkdir /runtime \
    && find . -path '*/node_modules' -prune -o -path ./packages/testing -prune -o -path ./infra/local -prune \
         -o -type f \( -path '*/dist/*.js' -o -name '*.sql' -o -name package.json \) -exec cp --parents -t /runtime {} +

FROM base AS runtime
ENV NODE_ENV=production
COPY --from=deps /app/node_modules ./node_modules
COPY --from=build /runtime ./
# The user "node" by its number, so that Kubernetes can check that it is not root.
USER 1000:1000
# No shell between Docker and node, so that signals arrive.
ENTRYPOINT []
CMD ["node", "services/bridge/dist/main.js"]
