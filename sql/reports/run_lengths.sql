-- one row per kind of caption and number of words: the model $model_id, the model $baseline_id and the references
-- On the images that the run $run_id captioned.
with written as (
    select caption.sample_key, caption.caption
    from source_run_entries as link
    join source_files as file using (entry_id)
    join source_captions as caption on caption.file = file.path
    where link.run_id = $run_id and caption.model_id = $model_id and caption.caption <> ''
),
texts as (
    select 'this' as kind, caption from written
    union all
    select 'baseline', caption.caption
    from written
    join source_captions as caption using (sample_key)
    where caption.model_id = $baseline_id and caption.caption <> ''
    union all
    select 'references', unnest(image.captions)
    from written
    join source_shards as image using (sample_key)
)
select kind, len(regexp_extract_all(caption, '\S+')) as words, count(*) as captions
from texts
group by kind, words
order by kind, words;
