-- Outside (views, bodies, RPCs) ids are uuids, as in the systems this replaces; inside they are bigints. The mapping is
-- reversible: the prefix 6f757462 ("outb") marks a uuid as ours, 15 + 48 bits carry the id.

create or replace function outbox.job_uuid(id bigint) returns uuid
language sql immutable strict parallel safe
return (
  '6f757462-' || lpad(to_hex(id >> 48), 4, '0') || '-8000-8000-' || lpad(to_hex(id & 281474976710655), 12, '0')
)::uuid;

-- The id behind a uuid of ours, null for any other uuid.
create or replace function outbox.job_id(uuid uuid) returns bigint
language sql immutable strict parallel safe
return case
  when uuid::text ~ '^6f757462-[0-7][0-9a-f]{3}-8000-8000-[0-9a-f]{12}$'
  then ('x' || substr(uuid::text, 10, 4) || substr(uuid::text, 25, 12))::bit(64)::bigint
end;

-- The text as a uuid, null when it is none: one odd row must not break a view.
create or replace function outbox.uuid_or_null(value text) returns uuid
language sql immutable strict parallel safe
return case when value ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then value::uuid end;

-- The user of a request, as PostgREST leaves it behind; null outside of one.
create or replace function outbox.request_user() returns uuid
language sql stable parallel safe
return nullif(
  coalesce(
    nullif(current_setting('request.jwt.claim.sub', true), ''),
    nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub'
  ),
  ''
)::uuid;
