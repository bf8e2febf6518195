-- one row per caption that the model $model_id gave to several images of the run $run_id, the commonest first
select caption.caption, count(*) as images, sum(count(*)) over () as repeated, any_value(all_captions) as all_captions
from (
    select caption.caption, count(*) over () as all_captions
    from source_run_entries as link
    join source_files as file using (entry_id)
    join source_captions as caption on caption.file = file.path
    where link.run_id = $run_id and caption.model_id = $model_id and caption.caption <> ''
) as caption
group by caption.caption
having count(*) > 1
order by images desc, caption.caption
limit 8;
