-- one row per entry and status whose ledger has another number of rows than the stage counted
-- severity: error
with found as (
    select file.entry_id, ledger.status, count(*) as rows
    from source_files as file
    join source_ledger as ledger on ledger.file = file.path
    where file.kind = 'ledger'
    group by file.entry_id, ledger.status
),
counted as (
    select entry_id, status, rows
    from source_entry_rows
    where rows > 0 and entry_id in (select entry_id from source_files where kind = 'ledger')
)
select
    entry_id,
    status,
    coalesce(counted.rows, 0) as counted_by_stage,
    coalesce(found.rows, 0) as rows_in_ledger
from counted
full join found using (entry_id, status)
where coalesce(counted.rows, 0) <> coalesce(found.rows, 0)
order by entry_id, status;
