-- one row per model that gives more than half of at least 50 images the same caption
-- severity: warning
with counted as (
    select model_id, caption, count(*) as images, sum(count(*)) over (partition by model_id) as all_images
    from source_captions
    group by model_id, caption
)
select model_id, caption, images, all_images
from counted
where all_images >= 50 and images > all_images / 2
order by model_id;
