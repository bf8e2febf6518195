-- one row per stage and run that made outputs which the run $run_id used
-- Of models, captions and metrics, the model $model_id.
select
    entry.stage,
    entry.run_id as made_by,
    count(distinct entry.entry_id) as outputs,
    count(file.path) as files,
    sum(file.size_bytes) as size_bytes,
    min(entry.created_at) as first_at,
    max(entry.created_at) as last_at,
    any_value(file.path order by file.path) as example_file,
    list(distinct coalesce(entry.encoder_id, entry.meta ->> 'encoder')) filter (where entry.stage = 'embed') as encoders
from source_run_entries as link
join source_entries as entry using (entry_id)
left join source_files as file using (entry_id)
where
    link.run_id = $run_id
    and (entry.stage not in ('train', 'caption', 'evaluate') or entry.model_id = $model_id)
group by entry.stage, entry.run_id
order by stage_order(entry.stage) nulls last, entry.stage, first_at;
