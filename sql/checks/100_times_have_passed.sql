-- one row per output or run that was made in the future (more than an hour from now): a clock is wrong
-- severity: warning
-- What is latest, and what is old enough to be deleted, is decided by these times.
with times as (
    select entry_id as id, created_at from source_entries
    union all
    select run_id, finished_at from source_runs
)
select id, created_at
from times
where created_at > now() + interval 1 hour
order by created_at desc, id;
