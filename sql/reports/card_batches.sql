-- one row per batch, the newest first
select batch_id
from batches
order by created_at desc, batch_id;
