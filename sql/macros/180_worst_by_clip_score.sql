-- one row per image, the k captions of a model ('' for production) that fit their image least by CLIPScore
-- Every scored caption counts, with or without references: these are the images to look at first.
create macro worst_by_clip_score(k := 20, model := '') as table
select
    row_number() over (order by caption.clip_score, caption.sample_key) as rank,
    caption.clip_score,
    caption.caption,
    caption.image_url,
    caption.sample_key,
    caption.model_id,
    caption.run_id
from captions as caption
where caption.model_id = chosen_model(model) and isfinite(caption.clip_score)
order by caption.clip_score, caption.sample_key
limit k;

comment on macro table worst_by_clip_score is 'One row per image, the k captions of a model that fit their image least: rank, clip_score, caption, image_url, sample_key, model_id, run_id.';
