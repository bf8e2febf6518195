-- one row per stage of the run $run_id: what was made, what was found done, how long it took to make
with counted as (
    select entry_id, sum(rows) as rows from source_entry_rows group by entry_id
)
select
    entry.stage,
    count(*) as outputs,
    count(*) filter (where entry.run_id = $run_id) as made,
    count(*) filter (where entry.run_id <> $run_id) as cached,
    sum(entry.duration_s) as seconds,
    sum(counted.rows) as rows,
    sum(counted.rows) / nullif(sum(entry.duration_s), 0) as rows_per_s
from source_run_entries as link
join source_entries as entry using (entry_id)
left join counted using (entry_id)
where link.run_id = $run_id
group by entry.stage
order by stage_order(entry.stage);
