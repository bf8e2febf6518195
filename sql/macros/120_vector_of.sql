-- an image and an encoder ('' for the production model's) → the image's embedding
create macro vector_of(key, encoder := '') as (
    select any_value(embedding.clip_embedding)
    from embeddings as embedding
    where embedding.sample_key = key and embedding.encoder_id = chosen_encoder(encoder)
);

comment on macro vector_of is 'The embedding of one image as FLOAT[]; null where that encoder has not embedded it.';
