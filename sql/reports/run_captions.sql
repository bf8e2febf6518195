-- one row per image of the contact sheet of the run $run_id, with its rank in each group that it belongs to
-- Groups: `random` of all (scored images first), `best` and `worst` by $metric ('' for none), `changed` by the share of words
-- that the captions of $model_id and of $baseline_id do not have in common. At most $extreme images are the best, as many the
-- worst (none is both), at most $changed the most changed; the random sample takes what is left of $images.
with written as (
    select caption.*
    from source_run_entries as link
    join source_files as file using (entry_id)
    join source_captions as caption on caption.file = file.path
    where link.run_id = $run_id and caption.model_id = $model_id and caption.caption <> ''
),
before as (
    select distinct on (sample_key) sample_key, caption, clip_score, log_probability, run_id
    from source_captions
    where model_id = $baseline_id and caption <> ''
    order by created_at desc
),
scored as (
    select per_image.sample_key, max(per_image.value) as score
    from source_run_entries as link
    join source_files as file using (entry_id)
    join source_per_image as per_image on per_image.file = file.path
    where link.run_id = $run_id and per_image.model_id = $model_id and per_image.metric = $metric
    group by per_image.sample_key
),
worded as (
    select
        written.sample_key,
        coalesce(scored.score, if($metric = 'clip_score', written.clip_score, null)) as score,
        list_distinct(regexp_extract_all(lower(written.caption), '[\p{L}\p{N}]+')) as words,
        list_distinct(regexp_extract_all(lower(before.caption), '[\p{L}\p{N}]+')) as baseline_words
    from written
    left join before using (sample_key)
    left join scored using (sample_key)
),
distances as (
    select
        sample_key,
        if(isfinite(score), score, null) as score,
        len(list_intersect(words, baseline_words)) as shared,
        if(baseline_words is null, null,
            1 - shared / nullif(len(words) + len(baseline_words) - shared, 0)) as change
    from worded
),
ranked as (
    select
        *,
        least($extreme, count(score) over () // 2) as extreme,
        row_number() over (order by score is null, md5(sample_key || ' ' || $seed::varchar), sample_key) as random_rank,
        row_number() over (order by score desc nulls last, sample_key) as best_rank,
        row_number() over (order by score asc nulls last, sample_key) as worst_rank,
        row_number() over (order by change desc nulls last, score is null, md5(sample_key), sample_key) as changed_rank
    from distances
),
grouped as (
    select
        sample_key,
        score,
        change,
        random_rank,
        if(score is not null and best_rank <= extreme, best_rank, null) as best_rank,
        if(score is not null and worst_rank <= extreme, worst_rank, null) as worst_rank,
        if(change > 0 and changed_rank <= $changed, changed_rank, null) as changed_rank
    from ranked
),
chosen as (
    select
        * replace (if(random_rank <= $images - taken, random_rank, null) as random_rank)
    from (
        select *, count(coalesce(best_rank, worst_rank, changed_rank)) over () as taken
        from grouped
    )
    where random_rank <= $images - taken or coalesce(best_rank, worst_rank, changed_rank) is not null
),
shards as (
    select distinct on (entry.shard_id) entry.shard_id, file.path
    from source_entries as entry
    join source_files as file using (entry_id)
    where file.kind = 'shard_tar'
)
select
    chosen.* exclude (taken),
    written.* exclude (sample_key, file),
    before.caption as baseline_caption,
    before.clip_score as baseline_clip_score,
    before.log_probability as baseline_log_probability,
    before.run_id as baseline_run_id,
    image.captions as reference_captions,
    image.image_url,
    image.member,
    image.split,
    image.sha256,
    image.width,
    image.height,
    image.format,
    image.size_bytes,
    shards.path as tar
from chosen
join written using (sample_key)
join source_shards as image using (sample_key)
left join before using (sample_key)
left join shards on shards.shard_id = written.shard_id
order by chosen.sample_key;
