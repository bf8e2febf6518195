-- one row per macro that people call (those that views call to find files are left out)
select
    macros.function_name as name,
    coalesce(macros.comment, '') as comment,
    macros.function_type = 'table_macro' as is_table,
    macros.parameters as parameters
from duckdb_functions() as macros
where
    macros.database_name = current_database()
    and not macros.internal
    and macros.function_type in ('macro', 'table_macro')
    and not starts_with(macros.function_name, 'lake_')
order by is_table desc, name;
