-- one row per licence that the list gave images of the batch $batch_id, the commonest first
select nullif(licence, '') as licence, count(*) as images, count(distinct nullif(source, '')) as sources
from source_urls
where starts_with(sample_key, right($batch_id, 8) || '-')
group by all
order by images desc, licence
limit 20;
