-- one row per image and model: the captions that stood when a run was published
-- A catalog holds one generation. A shard that the same model has captioned again since is told by replaced_by_run, with
-- null as its caption; `clipcap sql --as-of RUN` opens the generation of that time, where it is still kept.
create macro captions_as_of(run) as table
with asked as (
    select published.finished_at from source_runs as published where published.run_id = run
),
stood as (
    select distinct link.entry_id
    from source_run_entries as link
    join source_runs as published on published.run_id = link.run_id
    where published.finished_at <= (select asked.finished_at from asked)
),
files as (
    select
        file.path,
        -- what a killed run made was published by another: then only the time of its making tells
        coalesce(maker.finished_at, entry.created_at) > asked.finished_at as is_replaced,
        entry.run_id
    from stood
    join source_entries as entry on entry.entry_id = stood.entry_id and entry.stage = 'caption'
    join source_files as file on file.entry_id = entry.entry_id and file.kind = 'captions'
    left join source_runs as maker on maker.run_id = entry.run_id
    cross join asked
)
select
    caption.sample_key,
    image.url as image_url,
    case when not files.is_replaced then caption.caption end as caption,
    caption.model_id,
    case when not files.is_replaced then caption.run_id end as run_id,
    case when not files.is_replaced then caption.clip_score end as clip_score,
    case when files.is_replaced then files.run_id end as replaced_by_run
from files
join source_captions as caption on caption.file = files.path
left join source_urls as image on image.sample_key = caption.sample_key
where caption.caption <> '';

comment on macro table captions_as_of is 'One row per image and model, the captions that stood when a run was published: sample_key, image_url, caption, model_id, run_id, clip_score, replaced_by_run (that model has captioned the shard again since: caption, run_id and clip_score are null).';
