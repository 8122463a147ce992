"""Double entries in SQL: postings, holds, statements and their checks. Others come in by `api`."""
