-- one row per part of a film with its caption, by the model that is asked for ('' for the one in production)
-- A film that was landed more than once (its parts cut otherwise) shows its newest batch.
select part.film, part.start_s, part.end_s, part.caption, part.model_id, part.sample_key, part.clip_score
from film_captions as part
where part.film = $film and part.model_id = chosen_model($model)
qualify part.batch_id = last_value(part.batch_id) over (
    order by part.created_at, part.batch_id rows between unbounded preceding and unbounded following
)
order by part.start_s;
