-- one row per published run
create view runs as
with used as (
    select
        link.run_id,
        count(*) as entries,
        count(*) filter (where entry.run_id = link.run_id) as made,
        count(*) filter (where entry.run_id <> link.run_id) as cached
    from source_run_entries as link
    join source_entries as entry using (entry_id)
    group by link.run_id
)
select
    run.run_id,
    run.flow,
    run.started_at,
    run.finished_at as created_at,
    date_diff('millisecond', run.started_at, run.finished_at) / 1000.0 as duration_s,
    coalesce(used.entries, 0) as entries,
    coalesce(used.made, 0) as made,
    coalesce(used.cached, 0) as cached,
    run.config
from source_runs as run
left join used using (run_id);

comment on view runs is 'One row per published run.';
comment on column runs.run_id is 'When it started (UTC) and six random hex digits.';
comment on column runs.flow is 'The flow that ran.';
comment on column runs.started_at is 'Start.';
comment on column runs.created_at is 'End, just before it was published.';
comment on column runs.duration_s is 'Seconds between the two.';
comment on column runs.entries is 'Outputs of stages that it used and that still stand in this generation.';
comment on column runs.made is 'Those that it made itself.';
comment on column runs.cached is 'Those that it found done.';
comment on column runs.config is 'The whole configuration, as JSON.';
