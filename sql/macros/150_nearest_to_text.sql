-- one row per image, the k nearest to a reference caption that was embedded (embed.captions); no row where it was not
create macro nearest_to_text(text, k := 10, encoder := '') as table
select near.*
from nearest_to(
    (
        select any_value(known.clip_embedding)
        from text_embeddings as known
        where lower(known.caption) = lower(text) and known.encoder_id = chosen_encoder(encoder)
    ),
    k,
    encoder
) as near
order by near.rank;

comment on macro table nearest_to_text is 'One row per image, the k nearest to a caption that stands in text_embeddings (any other text: clipcap search): rank, cosine, caption, image_url, sample_key, encoder_id.';
