-- one row per image, the k with the lowest value of a metric in the newest evaluation of a model ('' for production)
create macro worst_by(metric, k := 20, model := '') as table
with scored as (
    select each.sample_key, each.value, each.run_id
    from source_per_image as each
    where each.metric = metric and each.model_id = chosen_model(model) and isfinite(each.value)
    qualify each.run_id = max(each.run_id) over ()
    order by each.value, each.sample_key
    limit k
)
select
    row_number() over (order by scored.value, scored.sample_key) as rank,
    scored.value,
    written.caption,
    image.captions as reference_captions,
    image.url as image_url,
    scored.sample_key,
    chosen_model(model) as model_id,
    scored.run_id
from scored
left join source_captions as written
    on written.sample_key = scored.sample_key and written.model_id = chosen_model(model)
left join source_urls as image on image.sample_key = scored.sample_key
order by rank;

comment on macro table worst_by is 'One row per image, the k with the lowest value of a metric in a model''s newest evaluation: rank, value, caption, reference_captions, image_url, sample_key, model_id, run_id.';
