-- one row per batch
create view batches as
with outcomes as (
    select
        batch_id,
        count(*) filter (where stage = 'land') as landed_rows,
        count(*) filter (where stage = 'land' and status = 'ok') as images,
        count(*) filter (where stage = 'download' and status = 'ok') as downloaded,
        count(distinct sample_key) filter (where stage = 'embed' and status = 'ok') as embedded,
        count(distinct sample_key) filter (where stage = 'caption' and status = 'ok') as captioned,
        count(distinct sample_key) filter (where status <> 'ok') as refused
    from ledger_history
    group by batch_id
)
select
    entry.batch_id,
    entry.run_id,
    entry.meta ->> 'dataset' as dataset,
    entry.meta ->> 'source' as source,
    coalesce(outcomes.landed_rows, 0) as landed_rows,
    coalesce(outcomes.images, 0) as images,
    coalesce(outcomes.downloaded, 0) as downloaded,
    coalesce(outcomes.embedded, 0) as embedded,
    coalesce(outcomes.captioned, 0) as captioned,
    coalesce(outcomes.refused, 0) as refused,
    entry.created_at
from source_entries as entry
left join outcomes using (batch_id)
where entry.stage = 'land';

comment on view batches is 'One row per batch: what landed together, and how much of it came through each stage.';
comment on column batches.batch_id is 'Names the batch: <dataset>-<hash8 of its rows>.';
comment on column batches.run_id is 'The run that landed it.';
comment on column batches.dataset is 'Name of the dataset.';
comment on column batches.source is 'What was landed: a list, a folder, a JSON.';
comment on column batches.landed_rows is 'Rows of the source.';
comment on column batches.images is 'Rows that landed with status ok.';
comment on column batches.downloaded is 'Images downloaded.';
comment on column batches.embedded is 'Images embedded.';
comment on column batches.captioned is 'Images with at least one caption.';
comment on column batches.refused is 'Rows that some stage ended with another status than ok.';
comment on column batches.created_at is 'When it landed.';
