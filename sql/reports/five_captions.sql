-- one row per image: five captions of $model_id beside their references, of split $split ('' for any); always the same five
select captions.image_url, captions.caption, images.reference_captions
from captions
join images using (sample_key)
where captions.model_id = $model_id and ($split = '' or images.split = $split)
order by hash(captions.sample_key), captions.sample_key
limit 5;
