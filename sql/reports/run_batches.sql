-- one row per batch of the run $run_id
with used as (
    select distinct entry.batch_id
    from source_run_entries as link
    join source_entries as entry using (entry_id)
    where link.run_id = $run_id
),
counted as (
    select entry_id, sum(rows) as landed_rows, sum(rows) filter (where status = 'ok') as images
    from source_entry_rows
    group by entry_id
)
select
    entry.batch_id,
    entry.meta ->> 'dataset' as dataset,
    entry.meta ->> 'source' as source,
    counted.landed_rows,
    counted.images,
    entry.run_id,
    entry.created_at
from used
join source_entries as entry using (batch_id)
left join counted using (entry_id)
where entry.stage = 'land'
order by entry.created_at, entry.batch_id
limit 50;
