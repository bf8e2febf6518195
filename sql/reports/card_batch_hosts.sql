-- one row per host that images of the batch $batch_id come from, the commonest first
select
    coalesce(nullif(regexp_extract(url, '^https?://(?:[^/@]*@)?([^/:?#]+)', 1), ''), '(files)') as host,
    count(*) as images,
    count(*) over () as hosts
from source_urls
where starts_with(sample_key, right($batch_id, 8) || '-')
group by host
order by images desc, host
limit 10;
