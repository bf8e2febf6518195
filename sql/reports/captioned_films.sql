-- one row per film and model that captioned it
select part.film, part.model_id, count(*) as parts
from film_captions as part
group by all
order by all;
