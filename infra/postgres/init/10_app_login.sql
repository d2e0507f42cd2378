-- Run by the postgres image once, on an empty volume (docker-compose.yml). The login of bridge, worker and API: it owns
-- nothing and inherits nothing; each process takes its own role after login (DATABASE_ROLE) and can do no more than that.
\getenv app_password APP_DB_PASSWORD

-- migrate finds these there and leaves them as they are (infra/postgres/roles.sql).
create role outbox_bridge nologin;
create role outbox_worker nologin;
create role outbox_api nologin;

create role outbox_app login noinherit password :'app_password';
grant outbox_bridge, outbox_worker, outbox_api to outbox_app;
