-- one row per image and frozen evaluation set
create view evaluation_sets as
select
    split_part(frozen.split, 'frozen-', 2) as evaluation_set,
    frozen.sample_key,
    urls.url as image_url,
    frozen.captions as reference_captions,
    frozen.batch_id,
    frozen.split,
    frozen.source_split
from source_evaluation_sets as frozen
left join source_urls as urls using (sample_key);

comment on view evaluation_sets is 'One row per image and frozen evaluation set: what candidates and production are compared on.';
comment on column evaluation_sets.evaluation_set is 'Name of the set (gate.evaluation_set).';
comment on column evaluation_sets.sample_key is 'The image.';
comment on column evaluation_sets.image_url is 'Where it comes from.';
comment on column evaluation_sets.reference_captions is 'The references, as they were when it was frozen.';
comment on column evaluation_sets.batch_id is 'The batch that it landed with.';
comment on column evaluation_sets.split is 'What stands as the split of scores on the set.';
comment on column evaluation_sets.source_split is 'The split that it was taken from.';
