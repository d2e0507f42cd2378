-- What this family keeps for itself, and the one column it adds to the host's table. Runs as the login role.

create schema if not exists golioth authorization outbox_owner;

-- Whose clock the window means. UTC is what rows meant before there was a choice.
alter table public.auto_sync_schedules add column if not exists timezone text not null default 'UTC';

set local role outbox_owner;

-- What an operator decides for all schedules, in one row.
create table golioth.settings (
  only_row boolean primary key default true constraint settings_have_one_row check (only_row),
  -- Runs of one slot start within so long after it, each schedule always by the same part of it. 0: all at the slot.
  spread interval not null default '0' constraint spread_is_not_negative check (spread >= interval '0'),
  -- A run so late that its schedule's next slot has passed as well: one = it runs, once for all it missed; none = it is
  -- left out.
  missed_runs text not null default 'one' constraint missed_runs_is_known check (missed_runs in ('one', 'none'))
);
insert into golioth.settings default values;

-- Triggers of the host that computed next_run_at: disabled when the family was installed, enabled again when it leaves.
create table golioth.host_triggers (
  name text primary key,
  was_enabled "char" not null,
  disabled_at timestamptz not null default now()
);
