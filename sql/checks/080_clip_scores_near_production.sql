-- one row per model whose mean CLIPScore lies more than score_drop below production's on at least 50 of the same images
-- severity: warning
-- On the same images only: batches differ in how well they can be captioned. A model that is worse is the gate's affair;
-- so far below, its captions hardly have to do with the images: a prefix that the language model does not read, or
-- captions that stand beside other images.
with production as (
    select caption.sample_key, caption.clip_score
    from source_captions as caption
    join catalog_info as info on caption.model_id = info.production_model_id
    where isfinite(caption.clip_score)
),
means as (
    select
        caption.model_id,
        count(*) as images,
        avg(caption.clip_score) as mean_score,
        avg(production.clip_score) as production_mean_score
    from source_captions as caption
    join production using (sample_key)
    where isfinite(caption.clip_score)
    group by caption.model_id
)
select model_id, images, mean_score, production_mean_score
from means
where images >= 50 and mean_score < production_mean_score * (1 - coalesce(getvariable('score_drop'), 0.25))
order by model_id;
