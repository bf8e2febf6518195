-- one row, or none: the model that the run $run_id evaluated, else captioned with, else trained
select model.*
from source_run_entries as link
join source_entries as entry using (entry_id)
join models as model on model.model_id = entry.model_id
where link.run_id = $run_id
order by list_position(['evaluate', 'caption', 'train'], entry.stage), model.created_at desc
limit 1;
