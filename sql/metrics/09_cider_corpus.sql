-- Grain: one row: value is CIDEr-D of the evaluated set, the mean over its images.
-- Reads cider_per_image.
create or replace temp table cider_corpus as
select sum(value::decimal(38, 20))::double / count(*) as value
from cider_per_image;
