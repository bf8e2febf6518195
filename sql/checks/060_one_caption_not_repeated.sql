-- one row per model that gives a larger share than repeated_share of at least 50 images the same caption
-- severity: warning
with counted as (
    select model_id, caption, count(*) as images, sum(count(*)) over (partition by model_id) as all_images
    from source_captions
    group by model_id, caption
)
select model_id, caption, images, all_images
from counted
where all_images >= 50 and images > all_images * coalesce(getvariable('repeated_share'), 0.5)
order by model_id;
