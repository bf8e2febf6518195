-- one row per caption whose model or image this generation does not hold
-- severity: error
select
    caption.sample_key,
    caption.model_id,
    caption.file,
    if(model.model_id is null, 'no model', 'no image') as missing
from source_captions as caption
left join models as model using (model_id)
left join source_urls as image using (sample_key)
where model.model_id is null or image.sample_key is null
order by caption.sample_key, caption.model_id;
