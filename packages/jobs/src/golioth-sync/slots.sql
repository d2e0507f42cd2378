-- When a schedule runs. Everything that has to know asks golioth.next_slot: the columns of the host's table, the jobs, the
-- sweep and people. docs/families/golioth.md states the rule with examples.
--
-- A wall clock shows some times twice (when clocks go back) and leaves some out (when they go forward). One sentence
-- decides both: a local time stands for the first instant at which the zone's clock shows it or a later one.
--   left out   the first instant after the gap
--   twice      its first time round; the second does not count
-- All arithmetic is in whole seconds.

set local role outbox_owner;

-- How far the zone's clock is ahead of UTC at that instant.
create or replace function golioth.utc_offset(instant timestamptz, zone text) returns interval
language sql immutable strict parallel safe
return (instant at time zone zone) - (instant at time zone 'UTC');

-- The first instant after `since`, and not after `until`, at which the offset is another than at `since`. Expects that the
-- clock changes once between the two; zones change on whole seconds.
create or replace function golioth.clock_change(zone text, since timestamptz, until timestamptz) returns timestamptz
language plpgsql immutable strict parallel safe set search_path = pg_catalog, pg_temp
as $$
declare
  before constant interval := golioth.utc_offset(since, zone);
  low bigint := extract(epoch from since);
  high bigint := extract(epoch from until);
  middle bigint;
begin
  while high - low > 1 loop
    middle := (low + high) / 2;
    if golioth.utc_offset(to_timestamp(middle), zone) = before then
      low := middle;
    else
      high := middle;
    end if;
  end loop;
  return to_timestamp(high);
end $$;

-- The first instant at which the zone's clock shows `reading` or a later time.
create or replace function golioth.first_instant(reading timestamp, zone text) returns timestamptz
language plpgsql immutable strict parallel safe set search_path = pg_catalog, pg_temp
as $$
declare
  -- Of a time that is left out, PostgreSQL counts on from before the gap; of one that comes twice, it takes the second.
  instant constant timestamptz := reading at time zone zone;
  shown constant timestamp := instant at time zone zone;
  earlier timestamptz;
begin
  if shown <> reading then
    return golioth.clock_change(zone, instant - (shown - reading), instant);
  end if;
  -- No clock has ever gone back by more than a day.
  earlier := (reading - golioth.utc_offset(instant - interval '24 hours', zone)) at time zone 'UTC';
  if earlier < instant and earlier at time zone zone = reading then
    return earlier;
  end if;
  return instant;
end $$;

-- The latest time that the zone's clock has shown up to that instant. Right after it went back, that is not what it shows
-- now but what it showed last before.
create or replace function golioth.latest_reading(instant timestamptz, zone text) returns timestamp
language plpgsql immutable strict parallel safe set search_path = pg_catalog, pg_temp
as $$
declare
  shown constant timestamp := instant at time zone zone;
  first constant timestamptz := golioth.first_instant(shown, zone);
begin
  if first = instant then
    return shown;
  end if;
  return shown + (golioth.clock_change(zone, first, instant) - first) - interval '1 second';
end $$;

-- Seconds from the opening of a window to its end. A window that ends when it opens lasts a whole day, one that ends at an
-- earlier time crosses midnight.
create or replace function golioth.window_seconds(opens int, closes int) returns int
language sql immutable strict parallel safe
return (closes - opens + 86399) % 86400 + 1;

-- The first slot after `after`.
--   With a window: its start + k · frequency on every local day, as long as that lies before its end. [start, end)
--   Without one: created_at + k · frequency, in elapsed time, whatever clocks do.
-- A window with one open side reaches to midnight there. k = 0, 1, 2, …
create or replace function golioth.next_slot(
  after timestamptz,
  created_at timestamptz,
  frequency_minutes int,
  window_start time default null,
  window_end time default null,
  timezone text default 'UTC'
) returns timestamptz
language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp
as $$
declare
  frequency constant bigint := next_slot.frequency_minutes * 60::bigint;
  second constant interval := '1 second';
  zone constant text := coalesce(next_slot.timezone, 'UTC');
  opens constant int := floor(extract(epoch from coalesce(next_slot.window_start, '00:00')))::int % 86400;
  closes constant int := floor(extract(epoch from coalesce(next_slot.window_end, '00:00')))::int % 86400;
  since constant timestamptz := to_timestamp(floor(extract(epoch from next_slot.after)));
  origin timestamptz;
  reading timestamp;
  opening timestamp;
  passed bigint;
  ahead bigint;
begin
  if frequency < 60 then
    raise exception 'frequency_minutes must be at least 1, not %.', next_slot.frequency_minutes
      using errcode = 'check_violation', column = 'frequency_minutes';
  end if;

  if next_slot.window_start is null and next_slot.window_end is null then
    origin := to_timestamp(floor(extract(epoch from coalesce(next_slot.created_at, 'epoch'))));
    passed := floor(extract(epoch from since) - extract(epoch from origin));
    return origin + greatest(0, floor(passed::numeric / frequency) + 1)::float8 * frequency * second;
  end if;

  reading := golioth.latest_reading(since, zone);
  opening := date_trunc('day', reading - opens * second) + opens * second;
  passed := extract(epoch from reading - opening);
  ahead := (passed / frequency + 1) * frequency;
  if ahead < golioth.window_seconds(opens, closes) then
    return golioth.first_instant(opening + ahead * second, zone);
  end if;
  return golioth.first_instant(opening + interval '1 day', zone);
end $$;

-- Whether this is the name of an IANA zone with its area, such as Europe/Berlin, or UTC. Names without an area are refused:
-- PostgreSQL takes some (CET, EST) for abbreviations, which know no daylight saving; so are its own "Area/Name+3".
create or replace function golioth.is_timezone(name text) returns boolean
language plpgsql immutable parallel safe set search_path = pg_catalog, pg_temp
as $$
begin
  if name is null or name !~ '^(UTC|Etc/GMT[+-]?\d{1,2}|[A-Za-z]+(/[A-Za-z][A-Za-z_-]*)+)$' then
    return false;
  end if;
  perform 'epoch'::timestamptz at time zone name;
  return true;
exception when invalid_parameter_value then
  return false;
end $$;

revoke execute on all functions in schema golioth from public;

reset role;
