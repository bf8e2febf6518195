-- one row per model and hundredth of CLIPScore: the models $model_id and $baseline_id on the images of the run $run_id
with written as (
    select caption.sample_key, caption.clip_score
    from source_run_entries as link
    join source_files as file using (entry_id)
    join source_captions as caption on caption.file = file.path
    where link.run_id = $run_id and caption.model_id = $model_id and caption.caption <> ''
),
scores as (
    select 'this' as kind, clip_score from written
    union all
    select 'baseline', caption.clip_score
    from written
    join source_captions as caption using (sample_key)
    where caption.model_id = $baseline_id and caption.caption <> ''
)
select kind, floor(clip_score * 100) / 100 as score, count(*) as captions
from scores
where isfinite(clip_score)
group by kind, score
order by kind, score;
