-- one row per image, reference caption and encoder
create view text_embeddings as
select
    embedding.sample_key,
    embedding.caption_number,
    embedding.caption,
    entry.batch_id,
    entry.shard_id,
    entry.encoder_id,
    embedding.clip_embedding
from source_text_embeddings as embedding
join source_files as file on embedding.file = file.path and file.kind = 'text_embeddings'
join source_entries as entry using (entry_id);

comment on view text_embeddings is 'One row per image, reference caption and encoder: the caption''s vector in the space of the images.';
comment on column text_embeddings.sample_key is 'Names the image in every stage: <batch hash8>-<row>.';
comment on column text_embeddings.caption_number is 'Which of the image''s captions, from 0.';
comment on column text_embeddings.caption is 'The reference caption.';
comment on column text_embeddings.batch_id is 'The batch that the image landed with.';
comment on column text_embeddings.shard_id is 'The shard that the image was downloaded into.';
comment on column text_embeddings.encoder_id is 'The encoder: <encoder>@<first 12 digits of its weights'' hash>.';
comment on column text_embeddings.clip_embedding is 'The encoder''s output, in the space of embeddings.clip_embedding.';
