-- one row per example: of the newest evaluation of the model $model_id the $k best and the $k worst images by $metric
with scored as (
    select sample_key, value
    from metrics_per_image
    where metric = $metric and model_id = $model_id and isfinite(value)
    qualify run_id = max(run_id) over ()
),
ranked as (
    select
        *,
        row_number() over (order by value desc, sample_key) as best,
        row_number() over (order by value, sample_key) as worst
    from scored
)
select
    if(ranked.best <= $k, 'best', 'worst') as kind,
    ranked.value,
    written.caption,
    image.captions as reference_captions,
    ranked.sample_key
from ranked
join source_captions as written on written.sample_key = ranked.sample_key and written.model_id = $model_id
left join source_urls as image on image.sample_key = ranked.sample_key
where ranked.best <= $k or ranked.worst <= $k
qualify row_number() over (partition by ranked.sample_key order by written.created_at desc) = 1
order by kind, ranked.best;
