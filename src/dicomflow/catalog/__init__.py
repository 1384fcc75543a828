"""The index in SQL: tables, migrations, index rows, import states, local queue."""
