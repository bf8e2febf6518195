-- one row per image that landed with status ok
create view images as
select
    landed.sample_key,
    urls.url as image_url,
    landed.batch_id,
    shards.shard_id,
    urls.split,
    urls.captions as reference_captions,
    ledger.stage,
    ledger.status,
    ledger.reason,
    shards.width,
    shards.height,
    shards.format,
    shards.size_bytes,
    shards.sha256,
    urls.licence,
    urls.source,
    ledger.created_at
from ledger_history as landed
join source_urls as urls using (sample_key)
join ledger using (sample_key)
left join source_shards as shards using (sample_key)
where landed.stage = 'land' and landed.status = 'ok';

comment on view images is 'One row per image that landed: where it is from, what it is, and how far it came.';
comment on column images.sample_key is 'Names the image in every stage: <batch hash8>-<row>.';
comment on column images.image_url is 'Where the image comes from.';
comment on column images.batch_id is 'The batch that the image landed with.';
comment on column images.shard_id is 'The shard that the image was downloaded into. Null until downloaded.';
comment on column images.split is 'Karpathy split: train, restval, val, test; empty where the source names none.';
comment on column images.reference_captions is 'Captions written by people; empty where the source has none.';
comment on column images.stage is 'The latest stage: land, download, embed or caption.';
comment on column images.status is 'How that stage ended: ok, failed, filtered, opted_out or duplicate.';
comment on column images.reason is 'Why it is not ok; empty when ok.';
comment on column images.width is 'Pixels; null until downloaded.';
comment on column images.height is 'Pixels; null until downloaded.';
comment on column images.format is 'File format; null until downloaded.';
comment on column images.size_bytes is 'Bytes as served; null until downloaded.';
comment on column images.sha256 is 'Of the bytes as served; null until downloaded.';
comment on column images.licence is 'As the source says it; null where it says none.';
comment on column images.source is 'Whom or what the source credits: an author, a collection; null where it credits nobody.';
comment on column images.created_at is 'When the latest outcome was known.';
