-- one row per image and group of the contact sheet: the best, the worst, and a random sample of the run $run_id
-- Scored images come before others. At most $extreme rows are the best, as many the worst (none is both), and $images
-- the sample.
with written as (
    select caption.*
    from source_run_entries as link
    join source_files as file using (entry_id)
    join source_captions as caption on caption.file = file.path
    where link.run_id = $run_id and caption.model_id = $model_id and caption.caption <> ''
),
scored as (
    select per_image.sample_key, max(per_image.value) as cider
    from source_run_entries as link
    join source_files as file using (entry_id)
    join source_per_image as per_image on per_image.file = file.path
    where link.run_id = $run_id and per_image.model_id = $model_id and per_image.metric = 'cider'
    group by per_image.sample_key
),
cards as (
    select
        written.sample_key,
        written.caption,
        scored.cider,
        image.captions as reference_captions,
        image.image_url,
        image.member,
        image.split,
        written.shard_id,
        least($extreme, count(scored.cider) over () // 2) as extreme,
        row_number() over (
            order by scored.cider is null, md5(written.sample_key || ' ' || $seed::varchar), written.sample_key
        ) as random_rank,
        if(scored.cider is null, null, row_number() over (order by scored.cider desc nulls last, written.sample_key))
            as best_rank,
        if(scored.cider is null, null, row_number() over (order by scored.cider asc nulls last, written.sample_key))
            as worst_rank
    from written
    join source_shards as image using (sample_key)
    left join scored using (sample_key)
),
grouped as (
    select 'sample' as part, random_rank as rank, * from cards where random_rank <= $images
    union all
    select 'best', best_rank, * from cards where best_rank <= extreme
    union all
    select 'worst', worst_rank, * from cards where worst_rank <= extreme
),
shards as (
    select distinct entry.shard_id, file.path
    from source_entries as entry
    join source_files as file using (entry_id)
    where file.kind = 'shard_tar'
)
select grouped.part, grouped.sample_key, grouped.caption, grouped.cider, grouped.reference_captions, grouped.image_url,
    grouped.split, grouped.member, shards.path as tar
from grouped
left join shards using (shard_id)
order by list_position(['sample', 'best', 'worst'], grouped.part), grouped.rank;
