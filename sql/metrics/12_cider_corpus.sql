-- Grain: one row: value is CIDEr-D of the evaluated set, the mean over its images.
-- Reads cider_per_image.
create or replace temp table cider_corpus as
select sum((value * pow(2::double, 60))::hugeint)::double / pow(2::double, 60) / count(*) as value
from cider_per_image;
